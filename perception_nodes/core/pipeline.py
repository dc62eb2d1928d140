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


@dataclass(frozen=True)
class HeadTensors:
    """Raw output of a detector: box and class logits, a tensor a level, float32 [1, c, h, w]."""

    boxes: Sequence[NDArray[np.float32]]
    classes: Sequence[NDArray[np.float32]]


class BackendError(RuntimeError):
    """A backend could not be loaded or could not infer; the text says why and what to do."""


class InferenceBackend(Protocol):
    """What the pipeline needs of a backend."""

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on uint8 [height, width, 3] BGR, in place.

        The tensors live until the next call.
        """
        ...


class Pipeline:
    """Inference and postprocessing of frames, under their deadline."""

    def __init__(
        self,
        backend: InferenceBackend,
        decoder: Decoder,
        model_name: str,
        clock: Clock,
        skip_late: bool,
    ) -> None:
        """With `skip_late` a frame past its deadline is abandoned before inference."""
        self._backend = backend
        self._decoder = decoder
        self._model_name = model_name.encode()
        self._clock = clock
        self._skip_late = skip_late
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
        record.model = self._model_name
        if self._skip_late and self._clock.monotonic_ns() >= header.deadline_ns:
            record.status = FrameStatus.SKIPPED_LATE
            record.reason = b"past its deadline before inference"
            return record, None
        try:
            heads = self._backend.infer(image)
            record.inferred_ns = self._clock.monotonic_ns()
            found = self._decoder.decode(heads.boxes, heads.classes)
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
        return record, detections

    def published(self, record: FrameRecord) -> FrameRecord:
        """The frame's detections are out: stamp it, and say whether that was in time."""
        record.published_ns = self._clock.monotonic_ns()
        in_time = record.published_ns <= record.deadline_ns
        record.status = FrameStatus.OK if in_time else FrameStatus.LATE
        return record

    def _lens_for(self, header: FrameHeader) -> Lens | None:
        flags = header.flags & (FrameFlag.RECTIFIED | FrameFlag.FISHEYE)
        key = bytes(header.camera_matrix) + bytes(header.distortion) + bytes([flags])
        if key != self._lens_key:
            self._lens, self._lens_key = lens_of(header), key
        return self._lens
