"""What a stage will cost: the running median and 99th percentile of what it has cost."""

import numpy as np

WINDOW = 128
"""Samples that are looked back on: about four seconds of a camera."""
FIRST_SAMPLES = 4
"""What is expected at first counts as so many."""


class CostPrediction:
    """Predicts a duration from the last `WINDOW` ones.

    A stage that is not run for lack of time gives no samples, and one hiccup would keep it from
    ever being run again. So each time it is passed over its longest sample gives way to the median:
    the hiccup is forgotten, what is slow as a rule is not.

    Attributes:
        p99_ns: it will hardly take longer.
        median_ns: it is as likely to take longer as not.
    """

    def __init__(self, first_ns: int) -> None:
        """Expect a first duration, in nanoseconds."""
        self._samples = np.empty(WINDOW, np.int64)
        self.expect(first_ns)

    def expect(self, duration_ns: int) -> None:
        """Forget all samples and expect a duration."""
        self._count = FIRST_SAMPLES
        self._samples[:FIRST_SAMPLES] = duration_ns
        self.p99_ns = self.median_ns = duration_ns

    def add(self, duration_ns: int) -> None:
        """The stage has taken so long."""
        self._samples[self._count % WINDOW] = duration_ns
        self._count += 1
        self._predict()

    def passed_over(self) -> None:
        """The stage was not run."""
        samples = self._samples[: self._count]
        samples[samples.argmax()] = self.median_ns
        self._predict()

    def _predict(self) -> None:
        ordered = np.sort(self._samples[: self._count])
        self.p99_ns = int(ordered[round(0.99 * (len(ordered) - 1))])
        self.median_ns = int(ordered[len(ordered) // 2])
