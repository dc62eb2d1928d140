"""Takes camera frames, and puts letterboxed frames into shared-memory slots."""

import sys
import time
from functools import partial
from itertools import count

from perception_nodes.cameras.channel import camera_reader, camera_senders, view_camera_frame
from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import (
    MAX_GAP,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    ImageView,
)
from perception_nodes.graph.awaited import Trouble, channel_trouble, trouble_of
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.networks.model import load_model
from perception_nodes.nodes.base import IDLE_WAIT_MS, Period
from perception_nodes.nodes.calibration_topic import CalibrationTopic
from perception_nodes.nodes.camera_input import CameraInput
from perception_nodes.nodes.frame_numbers import FrameNumbers
from perception_nodes.nodes.image_topic import LOOK_PERIOD_NS, ImageTopic
from perception_nodes.nodes.image_transports import TRANSPORTS
from perception_nodes.nodes.redundant import RedundantNode
from perception_nodes.nodes.ros_time import ros_clock
from perception_nodes.nodes.running import run_node
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.preprocess.lens import is_rectified
from perception_nodes.system.realtime import RANKS
from perception_nodes.transport import channels
from perception_nodes.transport.cdr_reader import Buffer, read_header
from perception_nodes.transport.memory import TransportError
from perception_nodes.video.packet_decoder import VideoDecoder
from perception_nodes.watchdog.faults import MS


class PreprocessNode(RedundantNode):
    """The first half of a frame's way."""

    role = "preprocess"
    rank = RANKS["preprocess"]
    settings_type = PreprocessSettings

    def __init__(self, name: str) -> None:
        """Number frames from 0."""
        super().__init__(name)
        self._sequences = count()

    def open(self) -> None:
        """Join the channels, subscribe to the camera."""
        settings: PreprocessSettings = self.settings
        model = load_model(settings.model, settings.model_key)
        self._size = (model.input.height, model.input.width, 3)
        self._preprocessor = model.input.preprocessor(settings.undistort, settings.sample_bits)
        self._ingest = Ingest(
            self._preprocessor,
            settings.camera,
            Budget.for_deadline(settings.deadline_ms),
            ros_clock(self),
            self._sequences,
        )
        self._in_place = settings.preprocess_on == "gpu"
        size = (0, 0) if self._in_place else (model.input.width, model.input.height)
        self._slots = channels.slot_writer(self.endpoint, settings.camera, *size)
        if settings.calibration_file:
            self._preprocessor.calibrate(read_calibration(settings.calibration_file))
        elif is_rectified(settings.image_topic):
            self.get_logger().info(f"{settings.image_topic} is rectified already, by its name")
        else:
            CalibrationTopic(self, settings.image_topic, self._preprocessor)
        # From now on: nobody waits for a node that has not joined.
        self._preprocessor.placer.preparing = self.busy
        self._told = ""  # of frames that are not rectified
        self._bits_told = 0
        self._numbers = FrameNumbers()
        self._camera = self._topic = None
        is_video = TRANSPORTS[settings.image_transport].is_video
        self._video, self._sender = VideoDecoder() if is_video else None, 0
        if settings.source != "dds":
            self._camera = camera_reader(self.endpoint, settings.camera)
        else:
            self._topic = ImageTopic(self, settings, self._take_message)
        self._input = CameraInput(self)
        self._look_due, self._came = Period(LOOK_PERIOD_NS), 0
        self.join(round(settings.hang_after_ms * 1e6))

    def take_over(self, died: bool) -> None:
        """Go on behind the last frame of the predecessor, which may not have reported it."""
        note = self.lease.note
        self._sender = 0  # what the predecessor has taken, our decoder does not know
        self._began_ns = time.monotonic_ns()
        # A predecessor has taken its last frame at some time before.
        self.frame_ns = self._began_ns if note.source else 0
        self._numbers.take_over(self.lease.taken())
        if note.source:
            if died and note.entered_number == note.number:
                self.records.send(FrameRecord.from_buffer_copy(note.entered))
            elif died:
                self._reject("preprocess died before it entered this frame", time.monotonic_ns())
        if self._topic is not None:
            self._topic.open()

    def rest(self) -> None:
        """Let another one work."""
        super().rest()
        if self._topic is not None:
            self._topic.close()

    def step(self) -> None:
        """Look after the camera that is awaited; work or stand by."""
        self._look_after_camera()
        super().step()

    def _look_after_camera(self) -> None:
        """Once a second tell why no frames come, if there was none for `no_frame_ms`."""
        if self._topic is not None:
            facts = self._topic.look()
            if facts is None:
                return
            came, trouble = facts.received + facts.lost, trouble_of(facts)
        elif self._camera is not None and self._look_due.due():
            came, self._came = self._came, 0
            camera, source = self.settings.camera, self.settings.source
            senders = camera_senders(self.endpoint, camera)
            trouble = None if came else channel_trouble(camera, source, senders)
        else:
            return
        now_ns = time.monotonic_ns()
        # What came in the second of the takeover came to the predecessor.
        if self._working and now_ns > self._began_ns + LOOK_PERIOD_NS:
            is_missed = now_ns > self.frame_ns + self.settings.no_frame_ms * MS
            placer = self._preprocessor.placer
            if trouble is None and placer.is_fault:
                remedy = "correct the calibration, or undistort:=false"
                trouble = Trouble(placer.unfit, remedy)
            if placer.unfit not in ("", self._told) and not placer.is_fault:
                self.get_logger().info(placer.unfit)
            self._told = placer.unfit
            self._input.tell(trouble if came or is_missed else None)

    def work(self) -> None:
        """Wait for frames, and take them."""
        if self._topic is not None:
            self._topic.receive(IDLE_WAIT_MS)
            return
        assert self._camera is not None
        self._camera.wait(IDLE_WAIT_MS)
        pending = self._camera.receive()
        while pending is not None:
            sample, pending = pending, self._camera.receive()
            received_ns = time.monotonic_ns()
            self.frame_ns, self._came = received_ns, self._came + 1
            number, lost = sample.header.number, sample.header.lost
            # A camera that was restarted is another source: its numbers say nothing of the first's.
            name = sample.source, number
            if self._is_new(*name, received_ns, lost):
                try:
                    image = view_camera_frame(sample.header, sample.payload)
                    waited_ns = sample.header.since_filled_ns(received_ns)
                    self._take(image, received_ns, waited_ns, pending is not None, name)
                except FrameRejected as error:
                    self._reject(str(error), received_ns)
            sample.release()

    def _take_message(
        self,
        data: Buffer,
        source: int,
        number: int | None,
        received_ns: int,
        waited_ns: int,
        superseded: bool,
    ) -> None:
        """Take a frame from DDS."""
        self.frame_ns = received_ns
        if number is not None and not self._is_new(source, number, received_ns):
            return
        assert self._topic is not None
        try:
            self._take(self._topic.read(data), received_ns, waited_ns, superseded)
        except FrameRejected as error:
            self._reject(str(error), received_ns, *read_header(data))

    def _is_new(self, source: int, number: int, received_ns: int, lost: int = 0) -> bool:
        """Whether the predecessor has not taken a frame; reports the lost ones before it.

        A frame that was sent, but lost or pushed out before we could read it, is superseded; one
        that the camera itself lost has failed.

        Args:
            source: identifies who numbers the frames; not 0.
            number: number of the frame.
            received_ns: CLOCK_MONOTONIC of its receipt.
            lost: frames directly before it that the camera lost.
        """
        self.sign()
        missing = self._numbers.missing_before(source, number, lost)
        if missing is None:
            return False
        gap = missing.stop - missing.start
        is_other, self._sender = source != self._sender, source
        if self._video is not None and (gap or is_other):
            self._video.interrupt("packets were lost on the way here" if gap else "a new publisher")
        if gap > MAX_GAP:
            self.lease.take(source, number - 1)
            self._reject(f"one report for {gap} frames that were lost in a row", received_ns)
            missing = range(number, number)
        for one in missing:
            self.lease.take(source, one)
            if one >= number - lost:
                self._reject("lost by the camera or its driver", received_ns)
                continue
            record = self._enter(0, "", received_ns)
            reason = "lost or pushed out by newer frames on the way here"
            self._end(record, FrameStatus.SUPERSEDED, reason)
        self.lease.take(source, number)
        return True

    def _take(
        self,
        image: ImageView,
        received_ns: int,
        waited_ns: int,
        superseded: bool,
        name: tuple[int, int] = (0, 0),
    ) -> None:
        record = self._enter(image.stamp_ns, image.frame_id, received_ns, waited_ns)
        if self._video is not None:
            try:
                # Also where a newer frame is waiting, which is drawn on top of this one.
                image = self._video.decode(image)
            except FrameRejected as error:
                self._end(record, FrameStatus.FAILED, str(error))
                return
        if superseded:
            reason = "a newer frame was waiting before preprocessing"
            self._end(record, FrameStatus.SUPERSEDED, reason)
            return
        try:
            slot = self._slots.loan()
            try:
                if self._in_place:
                    self._ingest.point_to(record, image, slot.header, name)
                else:
                    self._ingest.fill(record, image, slot.header, slot.payload.reshape(self._size))
            except FrameRejected:
                slot.release()
                raise
            slot.header.copies += 0 if self._topic is None else self._topic.copies
            self._slots.send(slot)
            self.lease.end()
            self._tell_bits()
        except (FrameRejected, TransportError) as error:
            self._end(record, FrameStatus.FAILED, str(error))

    def _enter(
        self, stamp_ns: int, frame_id: str, received_ns: int, waited_ns: int = 0
    ) -> FrameRecord:
        record = self._ingest.enter(stamp_ns, frame_id, received_ns, waited_ns)
        self.lease.enter(record)
        self.records.send(record)
        return record

    def _end(self, record: FrameRecord, status: FrameStatus, reason: str) -> None:
        self.records.send(self._ingest.end(record, status, reason))
        self.lease.end()

    def _tell_bits(self) -> None:
        """Say by how many bits a picture of 16 bits a sample is scaled, where that is learned."""
        bits = self._preprocessor.sample_bits
        if bits not in (0, 8, self._bits_told, self.settings.sample_bits):
            self.get_logger().warning(
                f"the brightest frames so far need {bits} bits a sample, by which all are scaled "
                "from now on; if the camera has another number, give it as sample_bits"
            )
        self._bits_told = bits

    def _reject(self, reason: str, received_ns: int, stamp_ns: int = 0, frame_id: str = "") -> None:
        """Account for a frame that cannot be read."""
        self._end(self._enter(stamp_ns, frame_id, received_ns), FrameStatus.FAILED, reason)


main = partial(run_node, PreprocessNode, "preprocess_node")

if __name__ == "__main__":
    sys.exit(main())
