"""What a stage will cost: the running median and 99th percentile of what it has cost."""

import numpy as np

WINDOW = 128
"""Samples that are looked back on: about four seconds of a camera."""
RANK = round(0.99 * (WINDOW - 1))


class CostPrediction:
    """Predicts a duration from the last `WINDOW` ones.

    A stage that is not run for lack of time gives no samples, and one hiccup would keep it from
    ever being run again. So each time it is passed over, its oldest sample gives way to the median:
    the hiccup is forgotten, what is slow as a rule is not.

    Attributes:
        p99_ns: it will hardly take longer.
        median_ns: it is as likely to take longer as not.
    """

    def __init__(self, first_ns: int) -> None:
        """Expect a first duration, in nanoseconds."""
        self._samples = np.full(WINDOW, first_ns, np.int64)
        self._oldest = 0
        self.p99_ns = self.median_ns = first_ns

    def add(self, duration_ns: int) -> None:
        """The stage has taken so long."""
        self._samples[self._oldest] = duration_ns
        self._oldest = (self._oldest + 1) % WINDOW
        ordered = np.sort(self._samples)
        self.p99_ns, self.median_ns = int(ordered[RANK]), int(ordered[WINDOW // 2])

    def passed_over(self) -> None:
        """The stage was not run."""
        self.add(self.median_ns)
