"""Plays a recorded drive as a camera: with the recorded intervals and present-day stamps.

With `use_sim_time` the recorded stamps are kept, and the recorded time is published on `/clock`.
After a jump of the recorder's clock both go on as if there had been none.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from perception_nodes.cameras.channel import CameraHeader, camera_writer, monotonic_us
from perception_nodes.core.clock import MAX_SANE_AGE_NS
from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.drives.bag import BagError, RawFrame, open_drive
from perception_nodes.drives.log_clock import LogClock
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.graph.config import PlayerSettings
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.topics import image_topic, info_topic
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode, Period
from perception_nodes.nodes.graph_health import GraphHealth
from perception_nodes.system.files import write_whole
from perception_nodes.system.realtime import RANKS
from perception_nodes.transport.cdr import NS_PER_S
from perception_nodes.transport.cdr_reader import read_compressed_image, read_image, read_stamp
from perception_nodes.transport.cdr_writer import stamped
from perception_nodes.transport.shm import Sample

QUEUE = QoSProfile(depth=5)


class PlayedCamera:
    """Sends frames as a camera driver does.

    Attributes:
        is_shared: whether frames go into shared memory instead of to a topic.
    """

    def __init__(
        self,
        node: PerceptionNode,
        settings: PlayerSettings,
        compressed: bool,
        qos: QoSProfile = QUEUE,
    ) -> None:
        """Announce it.

        Args:
            node: owns the publishers.
            settings: topic, or camera and shared memory.
            compressed: whether the frames are serialized CompressedImage instead of Image.
            qos: of the images.
        """
        self._compressed = compressed
        self._infos = node.add_publisher(CameraInfo, info_topic(settings.image_topic), QUEUE)
        self.is_shared = settings.source == "shm"
        self._node, self._camera = node, settings.camera
        if not self.is_shared:
            topic = image_topic(settings.image_topic, "compressed" if compressed else "raw")
            self._images = node.add_publisher(CompressedImage if compressed else Image, topic, qos)

    def begin(self, first_bytes: int) -> None:
        """Open shared memory for frames of this size, now that the graph is at work.

        Who has been listening before that accounts for each of them.
        """
        if self.is_shared:
            self._channel = camera_writer(self._node.endpoint, self._camera, first_bytes)

    def has_listener(self) -> bool:
        """Whether somebody has subscribed to the images; always true for shared memory."""
        return self.is_shared or self._images.get_subscription_count() > 0

    def prepare(self, frame: RawFrame, stamp_ns: int, number: int) -> Callable[[], object]:
        """Publish the frame's calibration, and get the frame ready.

        Args:
            frame: as recorded.
            stamp_ns: its stamp.
            number: how many frames were sent before.

        Returns:
            A function that sends the frame, whose pixels are then in place, as in a camera driver
            when it takes the stamp.
        """
        if frame.camera_info is not None:
            self._infos.publish(_stamped(frame.camera_info, stamp_ns))
        if self.is_shared:
            return partial(self._send, self._filled(frame.data, stamp_ns, number))
        return partial(self._images.publish, _stamped(frame.data, stamp_ns))

    def _send(self, sample: Sample[CameraHeader]) -> None:
        sample.header.filled_us = monotonic_us()
        self._channel.send(sample)

    def _filled(self, message: bytes, stamp_ns: int, number: int) -> Sample[CameraHeader]:
        try:
            view = (read_compressed_image if self._compressed else read_image)(message)
        except FrameRejected:
            # Send it unchanged, as over DDS: preprocessing rejects it.
            view = ImageView(stamp_ns, "", 0, 0, "unreadable", 0, memoryview(message))
        sample = self._channel.loan(len(view.data))
        sample.header.number = number
        size = view.width, view.height, view.step, len(view.data)
        sample.header.describe(stamp_ns, view.encoding, *size, view.frame_id)
        sample.payload[:] = view.data
        return sample


def _stamped(message: bytes, stamp_ns: int) -> bytes:
    with suppress(FrameRejected):  # sent as it is: preprocessing is to reject it
        return stamped(message, stamp_ns)
    return message


ACCOUNTING_TIMEOUT_S = 5.0
PREPARE_NS = 8_000_000
SPIN_NS = 300_000
CLOCK_PERIOD_NS = 10_000_000
CLOCK_QUEUE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""The settings with which every node subscribes to /clock."""
SETTLE_NS = 2_000_000_000
"""Time between finding a subscriber and the first frame. We may discover the subscriber up to a
second before it discovers us. Until then a best-effort subscriber receives nothing."""


class PlayerNode(PerceptionNode):
    """Waits for a working detector, plays the drive once, and waits until all is accounted for."""

    settings_type = PlayerSettings
    image_qos = QUEUE
    rank = RANKS["camera"]

    def open(self) -> None:
        """Open the bag, announce the camera."""
        settings: PlayerSettings = self.settings
        try:
            self._drive = open_drive(settings.bag, settings.topic)
        except BagError as error:
            raise SettingsError(f"parameter bag: {error}") from error
        self._compressed = self._drive.message_type == COMPRESSED_IMAGE
        self._log_clock = LogClock()
        self._frames = self._read_frames()
        self._next = next(self._frames, None)
        self._sent: list[tuple[int, int]] = []
        self._first_due_ns = 0
        self._give_up_ns = time.monotonic_ns() + round(settings.ready_timeout_s * 1e9)
        self._graph = GraphHealth(self)
        self._camera = PlayedCamera(self, settings, self._compressed, self.image_qos)
        self._clock_due = Period(CLOCK_PERIOD_NS)
        sim_time = settings.use_sim_time
        self._clocks = self.add_publisher(Clock, "/clock", CLOCK_QUEUE) if sim_time else None

    def step(self) -> None:
        """Play the next frame; before the first and after the last, wait for the others."""
        if not self._first_due_ns:
            self._wait_until_ready()
        elif self._next is not None:
            self._publish_time()
            if self._due_ns(self._next) - time.time_ns() > IDLE_WAIT_MS * 1e6:
                self.spin(IDLE_WAIT_MS / 2)
                return
            self._play(self._next)
            with self.realtime.leisurely():  # a camera would need no processor for this
                self._next = next(self._frames, None)
            if self._next is None:
                self._write_sent()
        elif not self.settings.accounted:
            self.finished = True
        else:
            self.finished = self._graph.is_done_with(len(self._sent), ACCOUNTING_TIMEOUT_S)

    def _wait_until_ready(self) -> None:
        self.spin(IDLE_WAIT_MS)
        detections = self.settings.topic_of(self.settings.detections_topic)
        listeners = self.count_subscribers(self.resolve_topic_name(detections))
        listening = self._camera.has_listener() and listeners >= self.settings.listeners
        silent = self._graph.last.silent_processes
        if listening and not (self.settings.accounted and silent):
            self._camera.begin(0 if self._next is None else len(self._next.data))
            self._first_due_ns = time.time_ns() + SETTLE_NS
            self._first_ns = 0 if self._next is None else self._next.log_time_ns
        elif time.monotonic_ns() > self._give_up_ns:
            missing = ", ".join(silent) or "a subscriber of images or detections"
            waited = f"after {self.settings.ready_timeout_s:g} s"
            self.error = f"nobody takes frames {waited}: {missing} missing"
            self.get_logger().error(self.error)

    def _play(self, frame: RawFrame) -> None:
        """Send a frame when it is due; that time is its stamp, so that our own delay counts."""
        due_ns, stamp_ns = self._due_ns(frame), self._stamp_ns(frame)
        # Prepare the frame shortly before it is due, when the previous one has long been processed:
        # a real camera would need no processor for this.
        self._sleep_until(due_ns - PREPARE_NS)
        send = self._camera.prepare(frame, stamp_ns, len(self._sent))
        self._sleep_until(due_ns)
        send()
        self._sent.append((frame.index, stamp_ns))

    def _read_frames(self) -> Iterator[RawFrame]:
        """The frames with the times at which they were taken, see `_age_ns`.

        After a jump of the clock, or the same time twice, the times go on.
        """
        first_ns = None
        for frame in self._drive.frames():
            age_ns, passed_ns = self._age_ns(frame), self._log_clock.passed_ns(frame)
            if first_ns is None:
                # Before the first frame /clock goes on for a while, and ROS has no time before 0.
                first_ns = max(frame.log_time_ns, round(SETTLE_NS * self.settings.rate) + age_ns)
            yield replace(frame, log_time_ns=first_ns + passed_ns - age_ns)

    def _stamp_ns(self, frame: RawFrame) -> int:
        return self._due_ns(frame) if self._clocks is None else frame.log_time_ns

    def _due_ns(self, frame: RawFrame) -> int:
        offset_ns: float = (frame.log_time_ns - self._first_ns) / self.settings.rate
        return self._first_due_ns + round(offset_ns)

    def _age_ns(self, frame: RawFrame) -> int:
        """How long a frame was taken before it was recorded.

        In simulated time the stamp shows that, if the camera and the recorder had the same clock.
        Then the frame has no age when it is sent.
        """
        if self.settings.use_sim_time:
            with suppress(FrameRejected):
                stamp_ns = read_stamp(frame.data)
                age_ns = frame.log_time_ns - stamp_ns
                if stamp_ns and 0 <= age_ns < MAX_SANE_AGE_NS:
                    return age_ns
        return 0

    def _publish_time(self) -> None:
        """Publish the recorded time."""
        if self._clocks is not None and self._clock_due.due():
            passed_ns = (time.time_ns() - self._first_due_ns) * self.settings.rate
            seconds, nanoseconds = divmod(self._first_ns + round(passed_ns), NS_PER_S)
            message = Clock()
            message.clock.sec, message.clock.nanosec = seconds, nanoseconds
            self._clocks.publish(message)

    @staticmethod
    def _sleep_until(realtime_ns: int) -> None:
        delay_ns = realtime_ns - time.time_ns()
        if delay_ns > SPIN_NS:
            time.sleep((delay_ns - SPIN_NS) / 1e9)
        while time.time_ns() < realtime_ns:  # a sleep is less exact
            pass

    def _write_sent(self) -> None:
        warnings = [*self._drive.warnings, *self._log_clock.warnings]
        for warning in warnings:
            self.get_logger().warning(warning)
        if self.settings.sent_file:
            content = {"sent": self._sent, "warnings": warnings}
            write_whole(Path(self.settings.sent_file), json.dumps(content))


if __name__ == "__main__":
    PlayerNode.main()
