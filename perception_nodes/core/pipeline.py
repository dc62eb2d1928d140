"""One frame from its slot to its detections; reads like an outline.

The first half of a frame's way (ingest and preprocessing) is `perception_nodes.preprocess`; on the
vehicle the two halves run in two processes, in a replay one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.clock import Clock
from perception_nodes.core.decode import AbsurdOutput, Decoder
from perception_nodes.core.engine import EngineCall
from perception_nodes.core.frame import (
    Detections,
    FrameFlag,
    FrameHeader,
    FrameRecord,
    FrameStatus,
    RecordKind,
    record_of_header,
)
from perception_nodes.core.geometry import Lens, boxes_to_source, lens_of
from perception_nodes.core.prediction import CostPrediction

TRIED_EVERY = 10
"""Of frames in a row that are abandoned, every so manieth is run all the same: an overloaded
vehicle still sees something, marked late, and we learn when it is faster again."""
BEST_TRIED_EVERY = 30
"""The same of frames that are left to a smaller model, with the best one."""


@dataclass(frozen=True)
class HeadTensors:
    """Raw output of a detector.

    Attributes:
        boxes, classes: logits, a tensor a level, float32 [1, c, h, w].
        engine: what an accelerator counted meanwhile; None where nothing counts.
    """

    boxes: Sequence[NDArray[np.float32]]
    classes: Sequence[NDArray[np.float32]]
    engine: EngineCall | None = None


class BackendError(RuntimeError):
    """A backend could not be loaded or could not infer; the text says why and what to do."""


class InferenceBackend(Protocol):
    """What the pipeline needs of a backend."""

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on uint8 [height, width, 3] BGR, in place.

        The tensors live until the next call.
        """
        ...


class Candidate:
    """A loaded model and what it is expected to cost.

    Attributes:
        name: the model's.
        backend: runs it.
        decoder: of its outputs.
        inference, postprocess: predictions.
    """

    def __init__(
        self, name: str, backend: InferenceBackend, decoder: Decoder, inference_ns: int
    ) -> None:
        """Take a model; `inference_ns` is what a call took when it was loaded."""
        self.name = name.encode()
        self.backend = backend
        self.decoder = decoder
        self.inference = CostPrediction(inference_ns)
        self.postprocess = CostPrediction(0)


class Pipeline:
    """Inference and postprocessing of frames, under their deadline.

    Attributes:
        engine: what an accelerator counted for the last frame, None where nothing did.
    """

    def __init__(self, models: Sequence[Candidate], clock: Clock, skip_late: bool) -> None:
        """Take the models, the best one first; the others stand in when time is short.

        With `skip_late` a frame that every model would be late with is abandoned before inference.
        Without, the best model runs on every frame.
        """
        self._models = models
        self._clock = clock
        self._skip_late = skip_late
        self._publish = CostPrediction(0)
        self._without_best = 0
        self._on_trial = False
        self.engine: EngineCall | None = None
        self._chosen = models[0]
        self._lens: Lens | None = None
        self._lens_key = b""

    def detect(
        self, header: FrameHeader, image: NDArray[np.uint8]
    ) -> tuple[FrameRecord, Detections | None]:
        """Find the objects of a frame.

        Args:
            header: the frame's slot header.
            image: the slot's pixels, uint8 [height, width, 3] BGR.

        Returns:
            The frame's record and its detections in source pixels. Where there are none to publish
            (None), the record is complete and says why; otherwise `published` completes it.
        """
        record = record_of_header(header)
        record.kind = RecordKind.OUTCOME
        self.engine = None
        started_ns = self._clock.monotonic_ns()
        model, why_not = self._choose(header.deadline_ns - started_ns)
        if model is None:
            record.status, record.reason = FrameStatus.SKIPPED_LATE, why_not
            return record, None
        self._chosen, record.model = model, model.name
        try:
            heads = model.backend.infer(image)
            record.inferred_ns = self._clock.monotonic_ns()
            self.engine = heads.engine
            found = model.decoder.decode(heads.boxes, heads.classes)
        except (BackendError, AbsurdOutput) as error:
            record.status = FrameStatus.FAILED
            record.reason = str(error).encode(errors="replace")[: FrameRecord.reason.size - 1]
            return record, None
        boxes = boxes_to_source(found.boxes, header, self._lens_for(header))
        # What lay in the grey border alone has no area in the source image.
        seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        detections = Detections(boxes[seen], found.scores[seen], found.classes[seen])
        record.detections = len(detections)
        record.postprocessed_ns = self._clock.monotonic_ns()
        took_ns = record.inferred_ns - started_ns, record.postprocessed_ns - record.inferred_ns
        for cost, duration_ns in zip((model.inference, model.postprocess), took_ns, strict=True):
            if self._on_trial and record.postprocessed_ns < record.deadline_ns:
                cost.expect(duration_ns)
            else:
                cost.add(duration_ns)
        return record, detections

    def _choose(self, left_ns: int) -> tuple[Candidate | None, bytes]:
        """The model to run in the time left, or why none does.

        The best one that will hardly be late; failing that the smallest, if it will rather be in
        time than not; failing that none.
        """
        if not self._skip_late:
            return self._models[0], b""
        if left_ns <= 0:
            return None, b"past its deadline before inference"
        best, smallest = self._models[0], self._models[-1]
        chosen = None
        for model in self._models:
            rest = (model.inference, model.postprocess, self._publish)
            if sum(cost.p99_ns for cost in rest) <= left_ns:
                chosen = model
                break
        # Caution costs no more than a smaller model up to here, and the frame itself from here on.
        needed_ns = sum(cost.median_ns for cost in rest)
        if chosen is None and needed_ns <= left_ns:
            chosen = smallest
        self._without_best = 0 if chosen is best else self._without_best + 1
        tried, every = (smallest, TRIED_EVERY) if chosen is None else (best, BEST_TRIED_EVERY)
        self._on_trial = self._without_best > 0 and self._without_best % every == 0
        chosen = tried if self._on_trial else chosen
        for model in self._models:
            if model is chosen:
                break
            model.inference.passed_over()
            model.postprocess.passed_over()
        return chosen, b"%.1f ms left, %.1f ms needed" % (left_ns / 1e6, needed_ns / 1e6)

    def status_of(self, record: FrameRecord) -> FrameStatus:
        """What the frame just detected is, were its detections published now."""
        return self._status_at(self._clock.monotonic_ns(), record)

    def _status_at(self, published_ns: int, record: FrameRecord) -> FrameStatus:
        if published_ns > record.deadline_ns:
            return FrameStatus.LATE
        return FrameStatus.OK if self._chosen is self._models[0] else FrameStatus.DEGRADED

    def withheld(self, record: FrameRecord) -> FrameRecord:
        """The frame's detections came too late and are not published."""
        record.status, record.reason = FrameStatus.LATE, b"withheld: past its deadline"
        return record

    def published(self, record: FrameRecord) -> FrameRecord:
        """The frame's detections are out: stamp it, and say whether that was in time."""
        record.published_ns = self._clock.monotonic_ns()
        record.status = self._status_at(record.published_ns, record)
        self._publish.add(record.published_ns - record.postprocessed_ns)
        return record

    def _lens_for(self, header: FrameHeader) -> Lens | None:
        flags = header.flags & (FrameFlag.RECTIFIED | FrameFlag.FISHEYE)
        key = bytes(header.camera_matrix) + bytes(header.distortion) + bytes([flags])
        if key != self._lens_key:
            self._lens, self._lens_key = lens_of(header), key
        return self._lens
