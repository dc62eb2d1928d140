"""Predictions of what a stage costs: running median and 99th percentile of its durations."""

from bisect import bisect_left, insort
from collections import deque

WINDOW = 128
"""Number of durations that are remembered: about four seconds of a camera."""
FIRST_SAMPLES = 4
"""The duration expected at first counts as this number of samples."""


class CostPrediction:
    """Predicts the duration of a stage from its last `WINDOW` durations.

    A stage that is skipped for lack of time gives no new samples, so one hiccup could keep it from
    ever running again. Therefore each time it is skipped its longest sample is replaced by the
    median: a single hiccup is forgotten, but a stage that is always slow stays slow.

    Attributes:
        p99_ns: 99th percentile: it will rarely take longer.
        median_ns: median: it takes longer half of the time.
    """

    def __init__(self, first_ns: int) -> None:
        self.expect(first_ns)

    def expect(self, duration_ns: int) -> None:
        """Forget all samples and predict this duration."""
        self._ordered = [duration_ns] * FIRST_SAMPLES
        self._samples = deque(self._ordered)
        self.p99_ns = self.median_ns = duration_ns

    def add(self, duration_ns: int) -> None:
        """Add the duration of a run of the stage."""
        if len(self._samples) == WINDOW:
            del self._ordered[bisect_left(self._ordered, self._samples.popleft())]
        self._samples.append(duration_ns)
        insort(self._ordered, duration_ns)
        self._predict()

    def passed_over(self) -> None:
        """Note that the stage was skipped."""
        longest_ns = self._ordered.pop()
        self._samples[self._samples.index(longest_ns)] = self.median_ns
        insort(self._ordered, self.median_ns)
        self._predict()

    def _predict(self) -> None:
        ordered = self._ordered
        self.p99_ns = ordered[round(0.99 * (len(ordered) - 1))]
        self.median_ns = ordered[len(ordered) // 2]
