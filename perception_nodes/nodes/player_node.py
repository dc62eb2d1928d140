"""A recorded drive, played as a camera: recorded spacing, present-day stamps.

With `use_sim_time` the stamps stay as they were recorded, and `/clock` tells the time they are in.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from perception_interfaces.msg import Health
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from perception_nodes.cameras.channel import CameraHeader, camera_writer
from perception_nodes.core.clock import MAX_SANE_AGE_NS
from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.drives.bag import BagError, RawFrame
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.drives.synthetic import open_source
from perception_nodes.graph.config import PlayerSettings, SettingsError
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode, Period, run_node
from perception_nodes.system.files import write_whole
from perception_nodes.transport.cdr import (
    NS_PER_S,
    read_compressed_image,
    read_image,
    read_stamp,
    stamped,
)
from perception_nodes.transport.shm import Sample, Writer

CAMERA_QUEUE = QoSProfile(depth=5)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ACCOUNTING_TIMEOUT_S = 5.0
PREPARE_NS = 8_000_000
SPIN_NS = 300_000
CLOCK_PERIOD_NS = 10_000_000
CLOCK_QUEUE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""As every node subscribes to it."""
SETTLE_NS = 2_000_000_000
"""From being matched to the first frame. We see a subscriber before it sees us, by up to a second
where discovery is slow, and a best-effort one gets nothing until then."""


class PlayerNode(PerceptionNode):
    """Waits for a working detector, plays the drive once, waits until all is accounted for."""

    settings_type = PlayerSettings

    def open(self) -> None:
        """Open the bag, announce the camera."""
        settings: PlayerSettings = self.settings
        try:
            self._drive = open_source(settings.bag, settings.topic)
        except BagError as error:
            raise SettingsError(f"parameter bag: {error}") from error
        self._compressed = self._drive.message_type == COMPRESSED_IMAGE
        self._frames = self._read_frames()
        self._next = next(self._frames, None)
        self._health: Health | None = None
        self._sent: list[tuple[int, int]] = []
        self._first_due_ns = 0
        self._give_up_ns = time.monotonic_ns() + round(settings.ready_timeout_s * 1e9)
        self.add_subscription(Health, "/perception/health", self._on_health, LATCHED, raw=False)
        base, topic = settings.image_topic.rsplit("/", 1)[0], settings.image_topic
        self._infos = self.add_publisher(CameraInfo, base + "/camera_info", CAMERA_QUEUE)
        self._clock_due = Period(CLOCK_PERIOD_NS)
        self._clocks = None
        if settings.use_sim_time:
            self._clocks = self.add_publisher(Clock, "/clock", CLOCK_QUEUE)
        self._camera = None
        if settings.source == "shm":
            frame_bytes = 0 if self._next is None else len(self._next.data)
            self._camera = camera_writer(self.endpoint, settings.camera, frame_bytes)
        elif self._compressed:
            self._images = self.add_publisher(CompressedImage, topic + "/compressed", CAMERA_QUEUE)
        else:
            self._images = self.add_publisher(Image, topic, CAMERA_QUEUE)

    def step(self) -> None:
        """Play the next frame; before the first and after the last, wait for the others."""
        if not self._first_due_ns:
            self._wait_until_ready()
        elif self._next is not None:
            self._tell_time()
            if self._due_ns(self._next) - time.time_ns() > IDLE_WAIT_MS * 1e6:
                self.spin(IDLE_WAIT_MS / 2)
                return
            self._play(self._next)
            self._next = next(self._frames, None)
            if self._next is None:
                self._write_sent()
                self._give_up_ns = time.monotonic_ns() + round(ACCOUNTING_TIMEOUT_S * 1e9)
        elif not self.settings.accounted:
            self.finished = True
        else:
            self.spin(IDLE_WAIT_MS)
            health = self._health
            accounted = health and health.frames_in >= len(self._sent) and not health.in_flight
            self.finished = bool(accounted) or time.monotonic_ns() > self._give_up_ns

    def _wait_until_ready(self) -> None:
        self.spin(IDLE_WAIT_MS)
        listening = self._camera is not None or self._images.get_subscription_count() > 0
        listeners = self.count_subscribers(self.settings.detections_topic)
        listening = listening and listeners >= self.settings.listeners
        working = self._health is not None and not self._health.silent_processes
        if listening and (working or not self.settings.accounted):
            self._first_due_ns = time.time_ns() + SETTLE_NS
            self._first_ns = 0 if self._next is None else self._recorded_ns(self._next)
        elif time.monotonic_ns() > self._give_up_ns:
            silent = ["watchdog"] if self._health is None else self._health.silent_processes
            missing = ", ".join(silent) or "a subscriber of images or detections"
            self.error = (
                f"nobody takes frames after {self.settings.ready_timeout_s:g} s: {missing} missing"
            )
            self.get_logger().error(self.error)

    def _play(self, frame: RawFrame) -> None:
        """Send a frame at its time; that time is its stamp, so that our own delay is seen."""
        due_ns, stamp_ns = self._due_ns(frame), self._stamp_ns(frame)
        # Made ready shortly before its time, when the frame before it is long through: a camera
        # would not need the processor for this at all.
        self._sleep_until(due_ns - PREPARE_NS)
        if frame.camera_info is not None:
            self._infos.publish(self._stamped(frame.camera_info, stamp_ns))
        if self._camera is not None:
            # As a camera driver does: the pixels are in the slot when the stamp is taken.
            sample = self._fill_shared(self._camera, frame.data, stamp_ns)
            self._sleep_until(due_ns)
            self._camera.send(sample)
        else:
            message = self._stamped(frame.data, stamp_ns)
            self._sleep_until(due_ns)
            self._images.publish(message)
        self._sent.append((frame.index, stamp_ns))

    def _read_frames(self) -> Iterator[RawFrame]:
        return self._drive.frames()

    def _stamp_ns(self, frame: RawFrame) -> int:
        return self._due_ns(frame) if self._clocks is None else self._recorded_ns(frame)

    def _due_ns(self, frame: RawFrame) -> int:
        offset_ns: float = (self._recorded_ns(frame) - self._first_ns) / self.settings.rate
        return self._first_due_ns + round(offset_ns)

    def _recorded_ns(self, frame: RawFrame) -> int:
        """When a frame was taken, in the recorded time.

        In simulated time that is its stamp, where the camera's clock was that of the recorder, so
        that a frame is of no age when it is sent.
        """
        if self._clocks is not None:
            with suppress(FrameRejected):
                stamp_ns = read_stamp(frame.data)
                if 0 <= frame.log_time_ns - stamp_ns < MAX_SANE_AGE_NS:
                    return stamp_ns
        return frame.log_time_ns

    def _tell_time(self) -> None:
        """Publish the recorded time."""
        if self._clocks is not None and self._clock_due.due():
            passed_ns = (time.time_ns() - self._first_due_ns) * self.settings.rate
            seconds, nanoseconds = divmod(self._first_ns + round(passed_ns), NS_PER_S)
            message = Clock()
            message.clock.sec, message.clock.nanosec = seconds, nanoseconds
            self._clocks.publish(message)

    def _fill_shared(
        self, camera: Writer[CameraHeader], message: bytes, stamp_ns: int
    ) -> Sample[CameraHeader]:
        try:
            view = (read_compressed_image if self._compressed else read_image)(message)
        except FrameRejected:
            # It goes out as it is, like over DDS: rejecting it is preprocessing's business.
            view = ImageView(stamp_ns, "", 0, 0, "unreadable", 0, memoryview(message))
        sample = camera.loan(len(view.data))
        header = sample.header
        header.number = len(self._sent)
        header.stamp_ns, header.width, header.height = stamp_ns, view.width, view.height
        header.step, header.size_bytes = view.step, len(view.data)
        header.encoding, header.frame_id = view.encoding.encode(), view.frame_id.encode()[:63]
        sample.payload[:] = view.data
        return sample

    @staticmethod
    def _stamped(message: bytes, stamp_ns: int) -> bytes:
        try:
            return stamped(message, stamp_ns)
        except FrameRejected:
            # It goes out as it is: rejecting it is preprocessing's business.
            return message

    @staticmethod
    def _sleep_until(realtime_ns: int) -> None:
        delay_ns = realtime_ns - time.time_ns()
        if delay_ns > SPIN_NS:
            time.sleep((delay_ns - SPIN_NS) / 1e9)
        while time.time_ns() < realtime_ns:  # a sleep is not that exact
            pass

    def _write_sent(self) -> None:
        for warning in self._drive.warnings:
            self.get_logger().warning(warning)
        if self.settings.sent_file:
            content = {"sent": self._sent, "warnings": self._drive.warnings}
            write_whole(Path(self.settings.sent_file), json.dumps(content))

    def _on_health(self, health: Health) -> None:
        self._health = health


def main() -> int:
    """Entry point."""
    return run_node(PlayerNode, "player_node")


if __name__ == "__main__":
    sys.exit(main())
