"""What is kept of an hour: frames by intervals, and how often each cause made frames miss."""

from collections import deque
from typing import Any

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import IN_TIME, latency_ms
from perception_nodes.core.missed import Cause, cause_of, reason_of

INTERVAL_S = 2
HOUR_INTERVALS = 3600 // INTERVAL_S
SPANS_S = (60, 600)
"""Causes are counted over these times, and since the start."""
MAX_CAUSES = 40
OTHER = "other reasons"


class Interval:
    """The frames of two seconds.

    Attributes:
        number: of the interval.
        frames, missed: how many there were.
        worst: the report of the worst one: without a result, or else the slowest.
    """

    def __init__(self, number: int) -> None:
        self.number, self.frames, self.missed = number, 0, 0
        self.worst: Any = None
        self._worst_rank: tuple[bool, bool, float] = (False, False, -1.0)

    def add(self, report: Any) -> None:
        """Count a frame."""
        latency, is_missed = latency_ms(report), report.status not in IN_TIME
        self.frames += 1
        self.missed += is_missed
        rank = is_missed, latency is None, latency or 0.0
        if rank >= self._worst_rank:
            self.worst, self._worst_rank = report, rank

    def shown(self) -> list[Any]:
        """Its end in seconds, frames, missed ones; latency, status and number of the worst."""
        worst, latency = self.worst, latency_ms(self.worst)
        at_s = (self.number + 1) * INTERVAL_S
        ms = None if latency is None else round(latency, 3)
        return [at_s, self.frames, self.missed, ms, int(worst.status), int(worst.sequence)]


class Causes:
    """Counts missed frames by cause over a minute, ten minutes and since the start."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._numbers: dict[Cause, int] = {}
        self._texts: list[str] = []
        self._totals: list[int] = []
        self._seconds: list[deque[list[int]]] = []

    def add(self, report: Any, second: int) -> int:
        """Count a missed frame; returns the number of its cause."""
        cause, text = cause_of(report, self._budget), reason_of(report)
        if cause not in self._numbers and len(self._numbers) >= MAX_CAUSES:
            cause, text = cause._replace(reason=OTHER), OTHER
        number = self._numbers.setdefault(cause, len(self._numbers))
        if number == len(self._totals):
            self._totals.append(0)
            self._texts.append(text)
            self._seconds.append(deque(maxlen=max(SPANS_S)))
        self._totals[number] += 1
        self._texts[number] = text
        seconds = self._seconds[number]
        if not seconds or seconds[-1][0] != second:
            seconds.append([second, 0])
        seconds[-1][1] += 1
        return number

    def table(self, second: int) -> list[list[Any]]:
        """The causes, the most frequent of late first.

        Returns:
            For each its number, status, stage and last reason; its frames in each of `SPANS_S`,
            and since the start.
        """
        rows = []
        for cause, number in self._numbers.items():
            recent = [
                sum(count for at, count in self._seconds[number] if at > second - span_s)
                for span_s in SPANS_S
            ]
            counts = [*recent, self._totals[number]]
            rows.append([number, int(cause.status), cause.stage, self._texts[number], *counts])
        return sorted(rows, key=lambda row: row[4:], reverse=True)
