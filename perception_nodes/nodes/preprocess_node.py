"""Camera frames in, letterboxed frames out in shared-memory slots."""

import sys
import time
from contextlib import nullcontext

from sensor_msgs.msg import CameraInfo

from perception_nodes.backends.model import load_model
from perception_nodes.cameras.channel import camera_reader, view_camera_frame
from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import (
    FrameRecord,
    FrameRejected,
    FrameStatus,
    ImageView,
)
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.nodes.base import IDLE_WAIT_MS, run_node
from perception_nodes.nodes.image_topic import QUEUE, ImageTopic
from perception_nodes.nodes.redundant import RedundantNode
from perception_nodes.nodes.ros_time import RosTime
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.preprocess.lens import UnknownLens
from perception_nodes.transport import channels
from perception_nodes.transport.cdr import read_camera_info
from perception_nodes.transport.memory import TransportError

CAMERA_SOURCE = 1


class PreprocessNode(RedundantNode):
    """The first half of a frame's way."""

    role = "preprocess"
    settings_type = PreprocessSettings

    def open(self) -> None:
        """Join the channels, subscribe to the camera."""
        settings: PreprocessSettings = self.settings
        model = load_model(settings.model)
        self._size = (model.input.height, model.input.width, 3)
        self._preprocessor = Preprocessor(model.input.width, model.input.height, settings.undistort)
        if settings.calibration_file:
            self._preprocessor.calibrate(read_calibration(settings.calibration_file))
        self._time = RosTime(self)
        self._ingest = Ingest(
            self._preprocessor,
            settings.camera,
            Budget.for_deadline(settings.deadline_ms),
            self._time.clock,
        )
        self._in_place = settings.preprocess_on == "gpu"
        size = (0, 0) if self._in_place else (model.input.width, model.input.height)
        self._slots = channels.slot_writer(self.endpoint, settings.camera, *size)
        self._last_camera_info = b""
        info_topic = settings.image_topic.rsplit("/", 1)[0] + "/camera_info"
        self.add_subscription(CameraInfo, info_topic, self._on_camera_info, QUEUE)
        self._next_numbers: dict[int, int] = {}
        self._predecessors_last: tuple[int, int] | None = None
        self._source_size: tuple[int, int] | None = None
        self._camera = self._topic = None
        if settings.source == "shm":
            self._camera = camera_reader(self.endpoint, settings.camera)
        else:
            self._topic = ImageTopic(self, settings, self._take_message)
        self.join(round(settings.hang_after_ms * 1e6))

    def close(self) -> None:
        """Give the lease back."""
        super().close()
        if (time_of_stamps := getattr(self, "_time", None)) is not None:
            time_of_stamps.close()

    def take_over(self) -> None:
        """Go on behind the frame that the predecessor took last.

        It may have died before it told of that one.
        """
        note = self.lease.note
        if note.source:
            self._predecessors_last = (note.source, note.number)
            self._next_numbers[note.source] = note.number + 1
            if note.entered_number == note.number:
                self.records.send(FrameRecord.from_buffer_copy(note.entered))
            else:
                self._reject("preprocess died before it entered this frame", time.monotonic_ns())
        if self._topic is not None:
            self._topic.open(True)

    def rest(self) -> None:
        """Let another one work."""
        super().rest()
        if self._topic is not None:
            self._topic.open(False)

    def work(self) -> None:
        """Wait for a frame: here where it comes through shared memory, else in the executor."""
        if self._camera is None:
            self.spin(IDLE_WAIT_MS)
            return
        self._camera.wait(IDLE_WAIT_MS)
        pending = self._camera.receive()
        while pending is not None:
            sample, pending = pending, self._camera.receive()
            received_ns = time.monotonic_ns()
            if self._is_new(CAMERA_SOURCE, sample.header.number, received_ns):
                try:
                    image = view_camera_frame(sample.header, sample.payload)
                    name = (sample.source, sample.header.number)
                    self._take(image, received_ns, pending is not None, name)
                except FrameRejected as error:
                    self._reject(str(error), received_ns)
            sample.release()

    def _take_message(
        self, data: bytes, source: int, number: int | None, received_ns: int, superseded: bool
    ) -> None:
        """Take a frame from DDS."""
        if number is not None and not self._is_new(source, number, received_ns):
            return
        assert self._topic is not None
        try:
            self._take(self._topic.read(data), received_ns, superseded)
        except FrameRejected as error:
            self._reject(str(error), received_ns)

    def _is_new(self, source: int, number: int, received_ns: int) -> bool:
        """Whether a frame has not been taken by the predecessor; accounts for those before it.

        What a source has sent and was pushed out or lost before we could read it is superseded.

        Args:
            source: who numbers the frames; not 0.
            number: of the frame in hand.
            received_ns: CLOCK_MONOTONIC of now.
        """
        self.sign()
        if self._predecessors_last is not None:
            if self._predecessors_last[0] == source and number <= self._predecessors_last[1]:
                return False
            # From the first new one on numbers may begin anew: a camera can be restarted.
            self._predecessors_last = None
        # A source may have been running before us: its first frame that we see is our first.
        expected = self._next_numbers.get(source, number)
        for missing in range(expected, number):
            self.lease.take(source, missing)
            record = self._enter(0, "", received_ns)
            reason = "lost or pushed out by newer frames on the way here"
            self._end(record, FrameStatus.SUPERSEDED, reason)
        self._next_numbers[source] = number + 1
        self.lease.take(source, number)
        return True

    def _take(
        self,
        image: ImageView,
        received_ns: int,
        superseded: bool,
        name: tuple[int, int] = (0, 0),
    ) -> None:
        record = self._enter(image.stamp_ns, image.frame_id, received_ns)
        if superseded:
            reason = "a newer frame was waiting before preprocessing"
            self._end(record, FrameStatus.SUPERSEDED, reason)
            return
        before, self._source_size = self._source_size, (image.width, image.height)
        # The maps for another size are made when its first frame comes.
        with nullcontext() if before == self._source_size else self.busy():
            self._fill_slot(record, image, name)

    def _fill_slot(self, record: FrameRecord, image: ImageView, name: tuple[int, int]) -> None:
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
        except (FrameRejected, TransportError) as error:
            self._end(record, FrameStatus.FAILED, str(error))

    def _enter(self, stamp_ns: int, frame_id: str, received_ns: int) -> FrameRecord:
        record = self._ingest.enter(stamp_ns, frame_id, received_ns)
        self.lease.enter(record)
        self.records.send(record)
        return record

    def _end(self, record: FrameRecord, status: FrameStatus, reason: str) -> None:
        self.records.send(self._ingest.end(record, status, reason))
        self.lease.end()

    def _reject(self, reason: str, received_ns: int) -> None:
        """A frame that is not even readable enters and fails."""
        record = self._enter(0, "", received_ns)
        self._end(record, FrameStatus.FAILED, reason)

    def _on_camera_info(self, data: bytes) -> None:
        # The header's stamp changes with each message, the calibration behind it does not.
        if data[12:] == self._last_camera_info:
            return
        self._last_camera_info = data[12:]
        try:
            with self.busy():
                self._preprocessor.calibrate(read_camera_info(data))
        except (FrameRejected, UnknownLens) as error:
            self.get_logger().warning(f"frames are processed without calibration: {error}")


def main() -> int:
    """Entry point."""
    return run_node(PreprocessNode, "preprocess_node")


if __name__ == "__main__":
    sys.exit(main())
