"""One frame from its slot to its detections.

The first half of a frame's way (ingest and preprocessing) is in `perception_nodes.preprocess`. On
the vehicle the two halves run in two processes, in a replay one after the other.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core import inference
from perception_nodes.core.clock import Clock
from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.decode import AbsurdOutput
from perception_nodes.core.frame import (
    CROWDED,
    REASON_BYTES,
    Detections,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    RecordKind,
    fitting,
    looks_ms,
    placement_key,
    record_of_header,
)
from perception_nodes.core.geometry import BoxesToSource, lens_of
from perception_nodes.core.inference import BackendError, BackendLost, Candidate, Frame
from perception_nodes.core.merging import uncut
from perception_nodes.core.model_choice import TRIED_EVERY, ModelChoice
from perception_nodes.core.prediction import CostPrediction


class Pipeline:
    """Inference and postprocessing of frames, under their deadline.

    Attributes:
        lost: the error, if the last frame made a backend unusable for good; else None.
        engine: the accelerator's counters for the last frame; None for a runtime without any.
    """

    def __init__(
        self, models: Sequence[Candidate], clock: Clock, skip_late: bool, standing_in: str = ""
    ) -> None:
        """Create a pipeline.

        Args:
            models: the best one first; the others are used when time is short.
            clock: source of monotonic time.
            skip_late: abandon a frame before inference if every model would be late with it; if
                False, the smallest model runs on it.
            standing_in: see `replace`.
        """
        self.lost: BackendLost | None = None
        self._clock = clock
        self._skip_late = skip_late
        self._publish = CostPrediction(0)
        self._without_publishing = 0
        self.engine: EngineCounters | None = None
        self.replace(models, standing_in)
        self._to_source: BoxesToSource
        self._placement = b""

    def replace(self, models: Sequence[Candidate], standing_in: str = "") -> None:
        """Use other models from the next frame on; call it between two frames.

        Args:
            models: the best one first.
            standing_in: why these models replace the wanted ones for now; their frames are
                DEGRADED with this reason. Empty if they are the wanted ones.
        """
        self._choice = ModelChoice(models, self._skip_late)
        self._chosen = models[0]
        self._cost: CostPrediction | None = None
        self._started_ns, self._has_run = 0, False
        self._standing_in = fitting(standing_in)

    def detect(
        self, header: FrameHeader, frame: Frame, finish_by_ns: int | None = None
    ) -> tuple[FrameRecord, Detections | None]:
        """Find the objects of a frame.

        Args:
            header: the frame's slot header.
            frame: its pixels.
            finish_by_ns: only if cameras share the models: a smaller model is used if the best
                one would not finish by then, so that the other cameras' frames are in time.

        Returns:
            The frame's record and its detections in source pixels. If there is nothing to publish
            (None), the record is complete and says why; otherwise `published` completes it.
        """
        record = _outcome_of(header)
        self.engine, self._has_run, self._cost = None, False, None
        self._started_ns = started_ns = self._clock.monotonic_ns()
        left_ns = header.deadline_ns - started_ns
        choice = self._choice
        model = choice.choose(left_ns, None if finish_by_ns is None else finish_by_ns - started_ns)
        if model is None:
            record.status, record.reason = FrameStatus.SKIPPED_LATE, self._why_not(left_ns, record)
            return record, None
        self._chosen, record.model = model, model.name
        smaller = b"" if model is choice.best else choice.why_smaller(left_ns)
        record.reason = b"; ".join(filter(None, (self._standing_in, smaller)))[: REASON_BYTES - 1]
        try:
            (answer,) = model.infer([(header, frame)])
        except BackendError as error:
            return self._failed(record, error), None
        record.inferred_ns = self._clock.monotonic_ns()
        found = self._decoded(record, header, answer)
        if found is not None:
            self._has_run, self._cost = True, model.alone
        return record, found

    def _decoded(
        self, record: FrameRecord, header: FrameHeader, answer: inference.Answer
    ) -> Detections | None:
        """Postprocess an answer: the objects in source pixels, None if the frame failed."""
        try:
            if isinstance(answer, Exception):
                raise answer
            result, copies = answer
            record.copies += copies
            detections = result if isinstance(result, Detections) else self._decode(header, result)
        except (FrameRejected, BackendError, AbsurdOutput) as error:
            self._failed(record, error)
            return None
        self.found(record, detections)
        return detections

    def found(self, record: FrameRecord, detections: Detections) -> None:
        """Note what was found in a frame; with second looks once more."""
        record.detections = len(detections)
        if detections.more and CROWDED not in record.reason:
            record.reason = b"; ".join(filter(None, (CROWDED, record.reason)))[: REASON_BYTES - 1]
        record.postprocessed_ns = self._clock.monotonic_ns()

    def _decode(self, header: FrameHeader, heads: inference.HeadTensors) -> Detections:
        self.engine = heads.engine
        found = self._chosen.decoder.decode(heads.boxes, heads.classes)
        placement = placement_key(header)
        if placement != self._placement:
            self._to_source = BoxesToSource(header, lens_of(header))
            self._placement = placement
        return _in_source(found, self._to_source)

    def look(self, header: FrameHeader, pixels: NDArray[np.uint8]) -> Detections:
        """Find the objects of a region of the frame that `detect` was called for last.

        Args:
            header: that of the region's slot, with its place in the source.
            pixels: the region, uint8 [height, width, 3] BGR.

        Returns:
            Detections in source pixels, see `uncut`.

        Raises:
            BackendError, AbsurdOutput: the look failed; the frame did not.
        """
        heads = self._chosen.backend.infer(pixels)
        found = uncut(self._chosen.decoder.decode(heads.boxes, heads.classes), header)
        return _in_source(found, BoxesToSource(header, lens_of(header)))

    @property
    def best_chosen(self) -> Candidate | None:
        """The best model, if it ran on the last frame and was expected to be in time."""
        is_best = self._chosen is self._choice.best and not self._choice.on_trial
        return self._chosen if is_best else None

    @property
    def publish_ns(self) -> int:
        """What publication will rarely exceed."""
        return self._publish.p99_ns

    def _learn(self, published_ns: int, record: FrameRecord) -> None:
        if self._cost is not None:
            in_time = published_ns <= record.deadline_ns
            took_ns = published_ns - self._started_ns - round(looks_ms(record) * 1e6)
            self._choice.learn(self._chosen, self._cost, took_ns, in_time)

    @property
    def rehearsal_due(self) -> bool:
        """Whether `rehearse` is to be called after the last frame."""
        return self._has_run and self._choice.rehearsal_due

    def rehearse(self, header: FrameHeader, frame: Frame, free_until_ns: int) -> None:
        """Time the next better model on the frame that `detect` was called for last.

        Args:
            header: the frame's header.
            frame: its pixels.
            free_until_ns: see `ModelChoice.rehearse`.
        """
        publish_ns = self._publish.median_ns
        try:
            self._choice.rehearse(header, frame, free_until_ns, publish_ns, self._clock)
        except BackendLost as error:
            self.lost = error

    def _why_not(self, left_ns: int, record: FrameRecord) -> bytes:
        """Why no model was chosen in the time left."""
        came_ms = (record.ingested_ns - record.capture_ns) / 1e6
        return b"%s; it came %.1f ms after its capture" % (self._choice.why_none(left_ns), came_ms)

    def costs(self) -> list[list[int]]:
        """Predicted costs, see `ModelChoice.costs`."""
        return self._choice.costs()

    def status_of(self, record: FrameRecord) -> FrameStatus:
        """The status that the frame will probably get if its detections go out now.

        How long publication takes is predicted from the frames before.
        """
        expected_ns = record.postprocessed_ns + self._publish.median_ns
        return self._status_at(max(self._clock.monotonic_ns(), expected_ns), record)

    def withholds(self, record: FrameRecord) -> bool:
        """Whether a frame's detections that must not be late are not to be published.

        They are withheld if they will probably be late. If only the prediction says so, every
        `TRIED_EVERY`th frame goes out all the same, so that the prediction stays up to date.
        """
        if self.status_of(record) != FrameStatus.LATE:
            return False
        if self._clock.monotonic_ns() > record.deadline_ns:
            return True
        if self._choice.on_trial:  # one in `TRIED_EVERY` goes out unchanged
            return False
        self._without_publishing += 1
        return self._without_publishing % TRIED_EVERY > 0

    def _status_at(self, published_ns: int, record: FrameRecord) -> FrameStatus:
        if published_ns > record.deadline_ns:
            return FrameStatus.LATE
        as_wanted = self._chosen is self._choice.best and not self._standing_in
        return FrameStatus.OK if as_wanted else FrameStatus.DEGRADED

    def _failed(
        self, record: FrameRecord, error: BackendError | FrameRejected | AbsurdOutput
    ) -> FrameRecord:
        """Complete the record of a frame that has no detections because of an error."""
        self.lost = error if isinstance(error, BackendLost) else None
        record.status = FrameStatus.FAILED
        record.reason = fitting(str(error))
        return record

    def refused(self, header: FrameHeader, error: FrameRejected) -> FrameRecord:
        """The record of a frame that no model can run on."""
        return self._failed(_outcome_of(header), error)

    def withheld(self, record: FrameRecord) -> FrameRecord:
        """Complete the record of a frame whose detections would be late and are not published."""
        record.status = FrameStatus.SKIPPED_LATE
        record.reason = b"withheld: it would have been published past its deadline"
        record.detections = 0
        self._learn(record.postprocessed_ns + self._publish.median_ns, record)
        return record

    def published(self, record: FrameRecord) -> FrameRecord:
        """Complete the record of a frame whose detections have just been published."""
        record.published_ns = self._clock.monotonic_ns()
        record.status = self._status_at(record.published_ns, record)
        self._learn(record.published_ns, record)
        took_ns = record.published_ns - record.postprocessed_ns
        expected_ns = record.postprocessed_ns + self._publish.median_ns
        if record.published_ns <= record.deadline_ns < expected_ns:
            self._publish.expect(took_ns)  # it was expected to be late: publication is fast again
        else:
            self._publish.add(took_ns)
        return record


def detect_together(
    frames: Sequence[tuple[Pipeline, FrameHeader, Frame]],
) -> Iterator[tuple[FrameRecord, Detections | None]]:
    """Find the objects of several cameras' frames in one call of the best model.

    Args:
        frames: for each camera its pipeline, and header and pixels as for `Pipeline.detect`. All
            pipelines have the same models.

    Yields:
        What `Pipeline.detect` returns, frame by frame, so that one frame can be published before
        the next one is decoded.
    """
    pipelines = [pipeline for pipeline, _, _ in frames]
    started_ns = pipelines[0]._clock.monotonic_ns()
    model = pipelines[0]._choice.best
    records = [_outcome_of(header) for _, header, _ in frames]
    for pipeline, record in zip(pipelines, records, strict=True):
        pipeline._chosen, record.model = model, model.name
        record.reason = pipeline._standing_in
        pipeline._choice.chosen_together()
        pipeline._started_ns, pipeline._cost, pipeline._has_run = started_ns, None, False
    try:
        answers = model.infer([(header, frame) for _, header, frame in frames])
    except BackendError as error:
        for pipeline, record in zip(pipelines, records, strict=True):
            yield pipeline._failed(record, error), None
        return
    inferred_ns = pipelines[0]._clock.monotonic_ns()
    for (pipeline, header, _), record, answer in zip(frames, records, answers, strict=True):
        record.inferred_ns = inferred_ns
        found = pipeline._decoded(record, header, answer)
        if found is not None and pipeline is pipelines[-1]:  # all of them are out with the last
            pipeline._cost = model.calls[len(frames) - 1]
        yield record, found


def _in_source(found: Detections, to_source: BoxesToSource) -> Detections:
    """Objects in source pixels, without those that lie entirely in the grey border."""
    boxes = to_source(found.boxes)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if visible.all():
        return Detections(boxes, found.scores, found.classes, found.more)
    scores, classes = found.scores[visible], found.classes[visible]
    return Detections(boxes[visible], scores, classes, found.more)


def _outcome_of(header: FrameHeader) -> FrameRecord:
    record = record_of_header(header)
    record.kind = RecordKind.OUTCOME
    return record
