"""Which model runs on a frame: the best one that is predicted to be in time.

Predicted is the whole time from the beginning of inference to the publication of the detections, as
the last seconds had it. The stages of one frame are rarely all slow, so that the sum of their 99th
percentiles would be far above the 99th percentile of their sum.
"""

from collections.abc import Sequence

from perception_nodes.core.clock import Clock
from perception_nodes.core.decode import AbsurdOutput
from perception_nodes.core.frame import FrameHeader, FrameRejected
from perception_nodes.core.inference import BackendError, BackendLost, Candidate, Frame, HeadTensors
from perception_nodes.core.prediction import CostPrediction
from perception_nodes.core.step_up import StepUp

TRIED_EVERY = 10
"""While frames are abandoned because every model is too slow, every tenth one is run all the same:
an overloaded vehicle still sees something, marked late, and the predictions stay up to date."""
SPARED_SHARE = 0.9
"""Share of the time left that a better model may take so that it runs again."""


class ModelChoice:
    """Chooses a camera's model frame by frame.

    Attributes:
        models: the best one first.
        best: the first of them.
        on_trial: whether the last frame was given to a model that is predicted to be too slow.
    """

    def __init__(self, models: Sequence[Candidate], skip_late: bool) -> None:
        """Begin with the best model.

        Args:
            models: the best one first; cameras may share them.
            skip_late: choose no model where all would be late; if False, the smallest one.
        """
        self.models, self.best, self._smallest = models, models[0], models[-1]
        self.on_trial = False
        self._skip_late = skip_late
        self._level = 0
        self._step_up = StepUp()
        self._left = CostPrediction(1 << 62)
        self._abandoned = 0

    def choose(self, left_ns: int, finish_in_ns: int | None = None) -> Candidate | None:
        """Choose the model for the next frame; None if none fits.

        The choice is the best model whose 99th percentile fits and that does not rest (`StepUp`);
        failing that the smallest model, if its median fits or frames are not skipped; failing that
        none.

        Args:
            left_ns: time until the frame's deadline.
            finish_in_ns: only if cameras share the models: the time after which other cameras'
                frames would be late; a smaller model is taken where the best would last longer.
                Time may then be short because of another camera, which says nothing about the
                models' costs: a frame past its deadline may still be tried, and if no model is
                chosen, the predictions stay as they are.
        """
        model = self._in_time(left_ns, finish_in_ns is not None)
        if model is None or finish_in_ns is None or self.on_trial:
            return model
        smaller = self.models[self.models.index(model) :]
        return next((one for one in smaller if one.alone.p99_ns <= finish_in_ns), self._smallest)

    def chosen_together(self) -> None:
        """Note that the best model runs on frames of several cameras at once."""
        self._step_up.count()
        self._abandoned, self.on_trial = 0, False

    def _in_time(self, left_ns: int, shared: bool) -> Candidate | None:
        self._step_up.count()
        self.on_trial = False
        if left_ns <= 0 and not shared and self._skip_late:
            return None
        self._left.add(left_ns)
        if self._level > 0 and self._step_up.is_over:
            better = self.models[self._level - 1]
            if self._step_up.is_rehearsed:
                self._step_up.begin()
                if better.alone.p99_ns <= left_ns * SPARED_SHARE:
                    self._level -= 1
            elif left_ns >= self._left.median_ns:
                self._step_up.fell()  # until this frame has shown otherwise
                self.on_trial = True
                return better
        levels = range(self._level, len(self.models))
        fits = (level for level in levels if self.models[level].alone.p99_ns <= left_ns)
        level = next(fits, None)
        # Up to here caution costs only accuracy; from here on it would cost the frame.
        if level is None and (not self._skip_late or self._smallest.alone.median_ns <= left_ns):
            level = len(self.models) - 1
        if level is None:
            return self._tried(shared)
        # A model that fits into the time of most frames is there again for the next one.
        if level > self._level and self.models[self._level].alone.p99_ns > self._left.median_ns:
            self._level = level
            self._step_up.fell()
        self._abandoned = 0
        return self.models[level]

    def _tried(self, shared: bool) -> Candidate | None:
        """The smallest model for every `TRIED_EVERY`th frame that no model fits, else None."""
        self._abandoned += 1
        self.on_trial = self._abandoned % TRIED_EVERY == 0
        if not (self.on_trial or shared):
            self._smallest.alone.passed_over()
        return self._smallest if self.on_trial else None

    def learn(self, model: Candidate, cost: CostPrediction, took_ns: int, in_time: bool) -> None:
        """Take the last frame's time into the predictions.

        Args:
            model: the one that ran.
            cost: its prediction for as many frames as ran at once.
            took_ns: from the beginning of inference to publication.
            in_time: whether the detections were out by the deadline.
        """
        if self.on_trial and in_time:
            cost.expect(took_ns)
            self._level = min(self._level, self.models.index(model))
        else:
            cost.add(took_ns)

    @property
    def rehearsal_due(self) -> bool:
        """Whether `rehearse` is to be called after the last frame, if a model ran on it."""
        return self._level > 0 and self._step_up.rehearsal_due and not self.on_trial

    def rehearse(
        self, header: FrameHeader, frame: Frame, free_until_ns: int, publish_ns: int, clock: Clock
    ) -> None:
        """Time the next better model on a frame that is reported already; drop its answer.

        So it is known when the model is fast enough again, and no frame is late for it.

        Args:
            header: the frame's header.
            frame: its pixels.
            free_until_ns: when the next frame is due; a rehearsal that would last longer is left
                out.
            publish_ns: what publication takes, which a rehearsal lacks.
            clock: source of monotonic time.

        Raises:
            BackendLost: the model's backend can never work again.
        """
        cost, started_ns = self.models[self._level - 1].alone, clock.monotonic_ns()
        if started_ns + cost.median_ns > free_until_ns:
            return
        better = self.models[self._level - 1]
        try:
            (answer,) = better.infer([(header, frame)])
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer[0], HeadTensors):
                better.decoder.decode(answer[0].boxes, answer[0].classes)
        except BackendLost:
            raise
        except (FrameRejected, BackendError, AbsurdOutput):
            return  # the trial at the end of the hold reports it
        took_ns = clock.monotonic_ns() - started_ns + publish_ns
        if self._step_up.is_rehearsed:
            cost.add(took_ns)
        else:  # what was too slow is forgotten
            cost.expect(took_ns)
        self._step_up.is_rehearsed = True

    def why_smaller(self, left_ns: int) -> bytes:
        """Why a smaller model runs than the best one, in the time left."""
        needed_ns, name = self.best.alone.p99_ns, self.best.name
        if needed_ns > left_ns:
            return b"%.1f ms left, %s needs %.1f" % (left_ns / 1e6, name, needed_ns / 1e6)
        if self._level > 0:
            return b"%s was too slow lately" % name
        return b"frames of other cameras wait"

    def why_none(self, left_ns: int) -> bytes:
        """Why no model was chosen in the time left."""
        if left_ns <= 0:
            return b"past its deadline before inference"
        needed_ms = self._smallest.alone.median_ns / 1e6
        return b"%.1f ms left, %.1f ms needed" % (left_ns / 1e6, needed_ms)

    def costs(self) -> list[list[int]]:
        """Predicted costs of 1, 2, ... frames at once, ns, for `Scheduler.turn`.

        There is one level for each model, from its 99th percentile, and a last one from the median
        of the smallest model. Only the best model runs on several frames at once.
        """
        levels = [[call.p99_ns for call in model.calls] for model in self.models]
        return [*levels, [self._smallest.alone.median_ns]]
