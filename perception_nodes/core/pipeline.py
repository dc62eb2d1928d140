"""One frame from its slot to its detections.

The first half of a frame's way (ingest and preprocessing) is in `perception_nodes.preprocess`. On
the vehicle the two halves run in two processes, in a replay one after the other.
"""

from collections.abc import Iterator, Sequence

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
    placement_key,
    record_of_header,
)
from perception_nodes.core.geometry import BoxesToSource, lens_of
from perception_nodes.core.inference import (
    Answer,
    BackendError,
    BackendLost,
    Candidate,
    Frame,
    HeadTensors,
)
from perception_nodes.core.prediction import CostPrediction
from perception_nodes.core.step_up import StepUp

TRIED_EVERY = 10
"""While frames are abandoned because every model is too slow, every tenth one is run all the same:
an overloaded vehicle still sees something, marked late, and the predictions stay up to date."""
SPARED_SHARE = 0.9
"""Share of the time left that a better model may take so that it runs again."""


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
        self._models = models
        self._chosen = models[0]
        self._level = 0
        self._step_up = StepUp()
        self._left = CostPrediction(1 << 62)
        self._abandoned = 0
        self._on_trial = self._has_run = False
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
        self.engine, self._has_run = None, False
        started_ns = self._clock.monotonic_ns()
        shared = finish_by_ns is not None
        left_ns = header.deadline_ns - started_ns
        model = self._choose(left_ns, shared)
        if model is None:
            record.status, record.reason = FrameStatus.SKIPPED_LATE, self._why_not(left_ns, record)
            return record, None
        if finish_by_ns is not None and not self._on_trial:
            model = self._in_time_by(finish_by_ns - started_ns, model)
        self._chosen, record.model = model, model.name
        smaller = b"" if model is self._models[0] else self._why_smaller(left_ns)
        record.reason = b"; ".join(filter(None, (self._standing_in, smaller)))[: REASON_BYTES - 1]
        try:
            (answer,) = model.infer([(header, frame)])
        except BackendError as error:
            return self._failed(record, error), None
        record.inferred_ns = self._clock.monotonic_ns()
        found = self._decoded(record, header, answer)
        if found is not None:
            self._has_run = True
            self._learn(model.inference, record.inferred_ns - started_ns, record)
            if self._on_trial and record.postprocessed_ns < record.deadline_ns:
                self._level = min(self._level, self._models.index(model))
        return record, found

    def _decoded(
        self, record: FrameRecord, header: FrameHeader, answer: Answer
    ) -> Detections | None:
        """Postprocess an answer: the objects in source pixels, None if the frame failed."""
        started_ns = self._clock.monotonic_ns()
        try:
            if isinstance(answer, Exception):
                raise answer
            result, copies = answer
            record.copies += copies
            detections = result if isinstance(result, Detections) else self._decode(header, result)
        except (FrameRejected, BackendError, AbsurdOutput) as error:
            self._failed(record, error)
            return None
        record.detections = len(detections)
        if detections.more:
            reasons = b"; ".join(filter(None, (CROWDED, record.reason)))
            record.reason = reasons[: REASON_BYTES - 1]
        record.postprocessed_ns = self._clock.monotonic_ns()
        self._learn(self._chosen.postprocess, record.postprocessed_ns - started_ns, record)
        return detections

    def _decode(self, header: FrameHeader, heads: HeadTensors) -> Detections:
        self.engine = heads.engine
        found = self._chosen.decoder.decode(heads.boxes, heads.classes)
        placement = placement_key(header)
        if placement != self._placement:
            self._to_source = BoxesToSource(header, lens_of(header))
            self._placement = placement
        boxes = self._to_source(found.boxes)
        # A box that lies entirely in the grey border has no area in the source image.
        visible = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        if visible.all():
            return Detections(boxes, found.scores, found.classes, found.more)
        scores, classes = found.scores[visible], found.classes[visible]
        return Detections(boxes[visible], scores, classes, found.more)

    def _learn(self, cost: CostPrediction, duration_ns: int, record: FrameRecord) -> None:
        if self._on_trial and record.postprocessed_ns < record.deadline_ns:
            cost.expect(duration_ns)
        else:
            cost.add(duration_ns)

    def _choose(self, left_ns: int, shared: bool) -> Candidate | None:
        """Choose the model to run in the time left; None if none fits.

        The choice is the best model whose 99th percentile fits and that does not rest (`StepUp`);
        failing that the smallest model, if its median fits or frames are not skipped; failing that
        none. If cameras share the models, time may be short because of another camera, which says
        nothing about the models' costs: a frame past its deadline may still be tried, and if no
        model is chosen, the predictions stay as they are.
        """
        self._step_up.count()
        self._on_trial = False
        if left_ns <= 0 and not shared and self._skip_late:
            return None
        self._left.add(left_ns)
        if self._level > 0 and self._step_up.is_over:
            better = self._models[self._level - 1]
            if self._step_up.is_rehearsed:
                self._step_up.begin()
                if self._p99_ns(better) <= left_ns * SPARED_SHARE:
                    self._level -= 1
            elif left_ns >= self._left.median_ns:
                self._step_up.fell()  # until this frame has shown otherwise
                self._on_trial = True
                return better
        smallest = self._models[-1]
        levels = range(self._level, len(self._models))
        fits = (level for level in levels if self._p99_ns(self._models[level]) <= left_ns)
        level = next(fits, None)
        # Up to here caution costs only accuracy; from here on it would cost the frame.
        if level is None and (not self._skip_late or self._median_ns(smallest) <= left_ns):
            level = len(self._models) - 1
        if level is None:
            return self._tried(smallest, shared)
        # A model that fits into the time of most frames is there again for the next one.
        if level > self._level and self._p99_ns(self._models[self._level]) > self._left.median_ns:
            self._level = level
            self._step_up.fell()
        self._abandoned = 0
        return self._models[level]

    def _tried(self, smallest: Candidate, shared: bool) -> Candidate | None:
        """The smallest model for every `TRIED_EVERY`th frame that no model fits, else None."""
        self._abandoned += 1
        self._on_trial = self._abandoned % TRIED_EVERY == 0
        if not (self._on_trial or shared):
            smallest.inference.passed_over()
            smallest.postprocess.passed_over()
        return smallest if self._on_trial else None

    @property
    def rehearsal_due(self) -> bool:
        """Whether `rehearse` is to be called after the last frame."""
        is_due = self._level > 0 and self._has_run and self._step_up.rehearsal_due
        return is_due and not self._on_trial

    def rehearse(self, header: FrameHeader, frame: Frame, free_until_ns: int) -> None:
        """Time the next better model on a frame that is reported already; drop its answer.

        So it is known when the model is fast enough again, and no frame is late for it.

        Args:
            header: header of the frame that `detect` was called for last.
            frame: its pixels.
            free_until_ns: when the next frame is due; a rehearsal that would last longer is left
                out.
        """
        better = self._models[self._level - 1]
        started_ns = self._clock.monotonic_ns()
        if started_ns + better.inference.median_ns + better.postprocess.median_ns > free_until_ns:
            return
        try:
            (answer,) = better.infer([(header, frame)])
            if isinstance(answer, Exception):
                raise answer
            inferred_ns = self._clock.monotonic_ns()
            if isinstance(answer[0], HeadTensors):
                better.decoder.decode(answer[0].boxes, answer[0].classes)
        except BackendLost as error:
            self.lost = error
            return
        except (FrameRejected, BackendError, AbsurdOutput):
            return  # the trial at the end of the hold reports it
        ended_ns = self._clock.monotonic_ns()
        for cost, took_ns in (
            (better.inference, inferred_ns - started_ns),
            (better.postprocess, ended_ns - inferred_ns),
        ):
            if self._step_up.is_rehearsed:
                cost.add(took_ns)
            else:  # what was too slow is forgotten
                cost.expect(took_ns)
        self._step_up.is_rehearsed = True

    def _why_smaller(self, left_ns: int) -> bytes:
        """Why a smaller model runs than the best one."""
        needed_ns, name = self._p99_ns(self._models[0]), self._models[0].name
        if needed_ns > left_ns:
            return b"%.1f ms left, %s needs %.1f" % (left_ns / 1e6, name, needed_ns / 1e6)
        if self._level > 0:
            return b"%s was too slow lately" % name
        return b"frames of other cameras wait"

    def _why_not(self, left_ns: int, record: FrameRecord) -> bytes:
        """Why no model was chosen in the time left."""
        why = b"past its deadline before inference"
        if left_ns > 0:
            needed_ms = self._median_ns(self._models[-1]) / 1e6
            why = b"%.1f ms left, %.1f ms needed" % (left_ns / 1e6, needed_ms)
        came_ms = (record.ingested_ns - record.capture_ns) / 1e6
        return b"%s; it came %.1f ms after its capture" % (why, came_ms)

    def _p99_ns(self, model: Candidate) -> int:
        """The 99th percentile of a frame's time with a model, from inference to publication."""
        return model.inference.p99_ns + model.postprocess.p99_ns + self._publish.p99_ns

    def _median_ns(self, model: Candidate) -> int:
        """The median of a frame's time with a model, from inference to publication."""
        return model.inference.median_ns + model.postprocess.median_ns + self._publish.median_ns

    def _in_time_by(self, left_ns: int, chosen: Candidate) -> Candidate:
        """The chosen model or the next smaller one whose 99th percentile fits, or the smallest."""
        for model in self._models[self._models.index(chosen) :]:
            if self._p99_ns(model) <= left_ns:
                return model
        return self._models[-1]

    def costs(self) -> list[list[int]]:
        """Predicted costs of 1, 2, ... frames at once, ns, for `Scheduler.turn`.

        There is one level for each model, from its 99th percentile, and a last one from the median
        of the smallest model. Only the best model runs on several frames at once.
        """
        levels = []
        for model in self._models:
            own_ns = model.postprocess.p99_ns + self._publish.p99_ns
            levels.append([call.p99_ns + size * own_ns for size, call in enumerate(model.calls, 1)])
        return [*levels, [self._median_ns(self._models[-1])]]

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
        if self._on_trial:  # one in `TRIED_EVERY` goes out unchanged
            return False
        self._without_publishing += 1
        return self._without_publishing % TRIED_EVERY > 0

    def _status_at(self, published_ns: int, record: FrameRecord) -> FrameStatus:
        if published_ns > record.deadline_ns:
            return FrameStatus.LATE
        as_wanted = self._chosen is self._models[0] and not self._standing_in
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
        return record

    def published(self, record: FrameRecord) -> FrameRecord:
        """Complete the record of a frame whose detections have just been published."""
        record.published_ns = self._clock.monotonic_ns()
        record.status = self._status_at(record.published_ns, record)
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
    model = pipelines[0]._models[0]
    records = [_outcome_of(header) for _, header, _ in frames]
    for pipeline, record in zip(pipelines, records, strict=True):
        pipeline._chosen, record.model = model, model.name
        record.reason = pipeline._standing_in
        pipeline._step_up.count()
        pipeline._abandoned, pipeline._on_trial, pipeline._has_run = 0, False, False
    try:
        answers = model.infer([(header, frame) for _, header, frame in frames])
    except BackendError as error:
        for pipeline, record in zip(pipelines, records, strict=True):
            yield pipeline._failed(record, error), None
        return
    inferred_ns = pipelines[0]._clock.monotonic_ns()
    model.batches[len(frames) - 2].add(inferred_ns - started_ns)
    for (pipeline, header, _), record, answer in zip(frames, records, answers, strict=True):
        record.inferred_ns = inferred_ns
        yield record, pipeline._decoded(record, header, answer)


def _outcome_of(header: FrameHeader) -> FrameRecord:
    record = record_of_header(header)
    record.kind = RecordKind.OUTCOME
    return record
