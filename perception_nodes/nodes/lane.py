"""One camera of a detector: takes its slots, publishes its detections, reports its frames."""

import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from vision_msgs.msg import Detection2DArray

from perception_nodes.backends.serving import Serving
from perception_nodes.cameras.named_frames import NamedFrames
from perception_nodes.core import frame as frames
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.inference import BackendError, Frame
from perception_nodes.core.looking import Crop, Looking
from perception_nodes.core.merging import merge_settings
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.graph.config import DetectorSettings, most_looks
from perception_nodes.networks.model import Model
from perception_nodes.nodes.redundant import RedundantNode, Seat
from perception_nodes.transport import channels
from perception_nodes.transport.cdr_writer import write_detection_array
from perception_nodes.transport.shm import Sample

QUEUE_DEPTH = 10
CROP_WAIT_NS = 300_000
"""How long a region of the frame is waited for, which preprocessing has announced."""
CROP_PAUSE_S = 50e-6
NOTES_LAST_NS = 5_000_000_000
"""If all frames for so long are older than the one that was taken last, that note is wrong."""


class Lane:
    """Keeps the camera's newest frame until its turn comes.

    Attributes:
        slots: channel of the frames.
        topic: of the detections.
        pipeline: the camera's pipeline, with models that all cameras share.
        looking: looks at frames again; None if that is off.
        waiting: the newest frame, None if there is none.
    """

    def __init__(self, node: RedundantNode, camera: str, model: Model, serving: Serving) -> None:
        """Join the camera's channels."""
        self._settings: DetectorSettings = node.settings
        settings = self._settings
        self._size = model.input
        self._shape = model.input.height, model.input.width, 3
        self.enabled = True
        self.least_scores: NDArray[np.float32] | None = None
        self._names = tuple(name.encode() for name in model.classes)
        models, standing_in = serving.candidates, serving.standing_in
        self.pipeline = Pipeline(models, SystemClock(), settings.skip_late, standing_in)
        self._node, self._candidates = node, serving.candidates
        topic = settings.topic_of(settings.detections_topic, camera)
        self.topic = node.add_protected(Detection2DArray, topic, QUEUE_DEPTH)
        self._detections = channels.detection_writer(node.endpoint, camera)
        self._in_place: NamedFrames | None = None
        if settings.preprocess_on == "gpu":
            self._in_place = NamedFrames(node.endpoint, camera)
        # This follows the line above: a slot must not refer to a frame that it has not seen.
        self.slots = channels.slot_reader(node.endpoint, camera)
        self.looking: Looking | None = None
        if most := most_looks(settings):
            self._crops = channels.look_reader(node.endpoint, camera)
            self._requests = channels.request_writer(node.endpoint, camera)
            limits = most, settings.second_look_until_ms
            size, merging = (self._size.width, self._size.height), merge_settings(model.classes)
            self.looking = Looking(self.pipeline, SystemClock(), size, *limits, merging)
        self._crop: Sample[frames.FrameHeader] | None = None
        self._prepared: tuple[object, ...] = ()
        self.waiting: Sample[frames.FrameHeader] | None = None
        self._newest_ns = self._passed_since_ns = 0
        self._image: frames.ImageView

    def sit(self, seat: Seat) -> None:
        """Begin to work behind the predecessor's last frame, which may have made it crash."""
        self._seat = seat
        self._newest_ns = min(seat.lease.note.ingested_ns, time.monotonic_ns())

    def replace(self, serving: Serving) -> None:
        """Go on with the models that serve now; to be called between two frames."""
        self._candidates, self._prepared = serving.candidates, ()
        self.pipeline.replace(serving.candidates, serving.standing_in)

    def receive(self) -> bool:
        """Receive frames, and return whether one is new; only the newest is kept.

        A frame that no model can run on is reported as FAILED at once.
        """
        received = self._take_newest()
        if received is None:
            return False
        header, size = received.header, self._size
        in_place = self._in_place is not None
        try:
            if header.ingested_ns > self._newest_ns:
                raise frames.FrameRejected("slot with a time in the future; its memory was damaged")
            if not self.enabled:
                raise frames.FrameRejected("detection is switched off: enabled:=false")
            frames.check_slot(header, received.payload.nbytes, size.width, size.height, in_place)
            if self._in_place is not None:
                self._image = self._in_place.take(header)
        except frames.FrameRejected as error:
            self.begin()
            self.end(self.pipeline.refused(header, error))
            self.drop()
            return False
        return True

    def _take_newest(self) -> Sample[frames.FrameHeader] | None:
        """The newest frame of any process, if it has just arrived."""
        before = self.waiting
        while (sample := self.slots.receive()) is not None:
            now_ns = time.monotonic_ns()
            if sample.header.ingested_ns <= self._newest_ns:
                sample.release()
                self._passed_since_ns = self._passed_since_ns or now_ns
                if now_ns - self._passed_since_ns > NOTES_LAST_NS:
                    self._newest_ns = 0
                continue
            self.drop()
            self.waiting = sample
            self._newest_ns = min(sample.header.ingested_ns, now_ns)
            self._passed_since_ns = 0
        return None if self.waiting is before else self.waiting

    def drop(self) -> None:
        """Release the waiting frame."""
        if self.waiting is not None:
            self.waiting.release()
            self.waiting = None
        if self._in_place is not None:
            self._in_place.release()
        self._drop_crop()

    def _drop_crop(self) -> None:
        if self._crop is not None:
            self._crop.release()
            self._crop = None

    def rest(self) -> None:
        """Release all frames."""
        self.drop()
        if self._in_place is not None:
            self._in_place.clear()

    @property
    def header(self) -> frames.FrameHeader:
        """Header of the waiting frame."""
        assert self.waiting is not None
        return self.waiting.header

    @property
    def frame(self) -> Frame:
        """The waiting frame's pixels: in its slot, or in the camera's memory if read in place."""
        assert self.waiting is not None
        if self._in_place is not None:
            return self._image
        return self.waiting.payload.reshape(self._shape)

    def begin(self) -> None:
        """Start on the waiting frame; should it make us crash, no successor takes it."""
        header, lease = self.header, self._seat.lease
        lease.begin(header.incarnation, header.sequence, self._newest_ns)
        lease.note.listeners = self.topic.listeners

    def prepare(self) -> None:
        """Prepare all models for frames like the waiting one, if it is the first of its kind."""
        if self._in_place is None:
            return
        image = self._image
        kind = (image.encoding, image.step, frames.placement_key(self.header))
        if kind == self._prepared:
            return
        self._prepared = kind
        with self._node.busy():
            for candidate in self._candidates:
                assert candidate.in_place is not None
                # An error occurs again when the frame is inferred, and is reported then.
                with suppress(frames.FrameRejected, BackendError):
                    candidate.in_place.prepare(self.header, image)

    def next_crop(self, waits: Callable[[], bool], until_ns: int) -> Crop | None:
        """The next region of the waiting frame, if it comes within a moment and no frame waits."""
        until_ns = min(until_ns, time.monotonic_ns() + CROP_WAIT_NS)
        self._drop_crop()
        while not waits():
            self._crop = self._crops.receive()
            if self._crop is None:
                if time.monotonic_ns() > until_ns:
                    return None
                time.sleep(CROP_PAUSE_S)
            elif frames.is_region_of(self._crop.header, self._crop.payload.nbytes, self.header):
                return self._crop.header, self._crop.payload.reshape(self._shape)
            else:  # of a frame that was not looked at again
                self._drop_crop()
        return None

    def ask(self) -> None:
        """Ask for the regions to look at in the next frame."""
        if self.looking is not None and (wanted := self.looking.ask()) is not None:
            self._requests.send_record(wanted)

    def finish(self, record: frames.FrameRecord, detections: frames.Detections | None) -> None:
        """Publish the objects found in the waiting frame, and report its outcome."""
        if detections is not None:
            if self.least_scores is not None:
                detections = detections.above(self.least_scores)
                record.detections = len(detections)
            if not self._settings.publish_late and self.pipeline.withholds(record):
                record = self.pipeline.withheld(record)
            else:
                self._publish(record, detections)
                record = self.pipeline.published(record)
            frames.blame_looks(record)
        self.end(record)

    def end(self, record: frames.FrameRecord) -> None:
        """Report the outcome of the waiting frame."""
        self._seat.records.send(record)
        self._seat.lease.end()
        self._node.frame_ns = time.monotonic_ns()

    def _publish(self, record: frames.FrameRecord, detections: frames.Detections) -> None:
        out = self._detections.loan(0)
        header = out.header
        header.sequence, header.stamp_ns = record.sequence, record.stamp_ns
        header.capture_ns, header.frame_id = record.capture_ns, record.frame_id
        header.ingested_ns = record.ingested_ns
        header.incarnation, header.deadline_ns = record.incarnation, record.deadline_ns
        header.status = self.pipeline.status_of(record)
        header.hold(detections)
        self._seat.lease.publish()
        self._detections.send(out)
        message = write_detection_array(record.stamp_ns, record.frame_id, detections, self._names)
        self.topic.publish(message, record.deadline_ns)
