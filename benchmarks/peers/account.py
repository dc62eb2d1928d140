"""The account of what was sent and what came back; knows nothing of ROS or of any detector."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perception_nodes.core.statistics import latency_percentiles
from perception_nodes.evaluation.streaming import held_at

RANKS = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9, "max": 100}
WITHIN_MS = (5, 10, 20, 33, 50, 100, 200)
"""For which times the share of frames that are answered within them is told."""


@dataclass
class Heard:
    """What camera and subscriber have told. Times and stamps are nanoseconds since the epoch.

    Attributes:
        sent: stamp of each frame, and when it was sent.
        answers: stamp, time of arrival and number of objects of each result.
        told: what the detector has reported as missed: for each report the first and the last stamp
            that the frame can have, which differ where it was lost before its stamp was known.
            Such a range may fit several frames, so the number of reported frames is an upper bound.
    """

    sent: list[tuple[int, int]] = field(default_factory=list)
    answers: list[tuple[int, int, int]] = field(default_factory=list)
    told: list[tuple[int, int]] = field(default_factory=list)

    def between(self, begin_ns: int, end_ns: int) -> "Heard":
        """What there is of the frames with stamps from `begin_ns` until before `end_ns`.

        An answer with the stamp of no frame is there by the time of its arrival.
        """
        stamps = {stamp_ns for stamp_ns, _ in self.sent}
        return Heard(
            [one for one in self.sent if begin_ns <= one[0] < end_ns],
            [
                (stamp_ns, at_ns, objects)
                for stamp_ns, at_ns, objects in self.answers
                if begin_ns <= (stamp_ns if stamp_ns in stamps else at_ns) < end_ns
            ],
            [
                (max(first, begin_ns), min(last, end_ns - 1))
                for first, last in self.told
                if begin_ns <= last and first < end_ns
            ],
        )

    def __add__(self, other: "Heard") -> "Heard":
        return Heard(self.sent + other.sent, self.answers + other.answers, self.told + other.told)

    def first_answer_ns(self, from_ns: int) -> int | None:
        """When the first answer to a frame with a stamp from `from_ns` on arrived."""
        return min(
            (at_ns for stamp_ns, at_ns, _ in self.answers if stamp_ns >= from_ns), default=None
        )

    def latencies_ms(self) -> list[float | None]:
        """The time from each frame's stamp to its first answer; None for a frame without one."""
        first = self._first_ns()
        return [
            (first[stamp_ns] - stamp_ns) / 1e6 if stamp_ns in first else None
            for stamp_ns, _ in self.sent
        ]

    def held_ns(self, instants_ns: Sequence[int]) -> list[int | None]:
        """The stamp of the newest frame whose answer has arrived at each instant; None for none."""
        stamps = {stamp_ns for stamp_ns, _ in self.sent}
        first = self._first_ns()
        return held_at(instants_ns, {one: at_ns for one, at_ns in first.items() if one in stamps})

    def _first_ns(self) -> dict[int, int]:
        """When the first answer to each stamp arrived."""
        first: dict[int, int] = {}
        for stamp_ns, at_ns, _ in self.answers:
            first[stamp_ns] = min(at_ns, first.get(stamp_ns, at_ns))
        return first


def account(heard: Heard, deadline_ms: float) -> dict[str, Any]:
    """What became of the frames.

    Args:
        heard: what was told of them.
        deadline_ms: how long after its stamp an answer is in time.

    Returns:
        `sent` is the sum of `in_time`, `late`, `told` (no answer, and reported so) and `silent` (no
        answer, and no word of it); `answered` is the sum of the first two. `unknown` are answers
        with the stamp of no frame, `again` further answers to a frame, `objects` the mean number of
        objects in an answer. `latency_ms` has the percentiles over all frames, of which one without
        an answer is slower than all others: None for a rank that falls on one. `answered_ms` has
        those of the answered frames alone, `within` the shares of all frames that are answered
        within a number of milliseconds, and `camera_late_ms` how long after its stamp the camera
        sent a frame.
    """
    latencies = heard.latencies_ms()
    found = [ms for ms in latencies if ms is not None]
    unanswered = [
        stamp_ns for (stamp_ns, _), ms in zip(heard.sent, latencies, strict=True) if ms is None
    ]
    silent = len(unanswered) - _reported(unanswered, heard.told)
    in_time = sum(ms <= deadline_ms for ms in found)
    stamps = {stamp_ns for stamp_ns, _ in heard.sent}
    known = sum(stamp_ns in stamps for stamp_ns, _, _ in heard.answers)
    counts = [count for _, _, count in heard.answers]
    return {
        "sent": len(latencies),
        "answered": len(found),
        "in_time": in_time,
        "late": len(found) - in_time,
        "told": len(latencies) - len(found) - silent,
        "silent": silent,
        "unknown": len(heard.answers) - known,
        "again": known - len(found),
        "objects": round(float(np.mean(counts)), 2) if counts else None,
        "latency_ms": latency_percentiles(found, RANKS, len(latencies) - len(found)),
        "answered_ms": latency_percentiles(found, RANKS),
        "within": {str(ms): _share(found, ms, len(latencies)) for ms in WITHIN_MS},
        "camera_late_ms": latency_percentiles(
            [(at_ns - stamp_ns) / 1e6 for stamp_ns, at_ns in heard.sent], RANKS
        ),
    }


def median(values: Iterable[float | None]) -> float | None:
    """The median, of which a value that never came is larger than all others."""
    sorted_values: Sequence[float] = sorted(np.inf if one is None else one for one in values)
    if not sorted_values:
        return None
    count = len(sorted_values)
    middle = (sorted_values[(count - 1) // 2] + sorted_values[count // 2]) / 2
    return None if middle == np.inf else float(middle)


def _share(values: Iterable[float], limit: float, of: int) -> float | None:
    return round(sum(one <= limit for one in values) / of, 6) if of else None


def _reported(stamps_ns: Sequence[int], told: Sequence[tuple[int, int]]) -> int:
    """How many frames can each have a report of their own, at most.

    The range that ends first takes its earliest frame, which no later range needs more than it.
    """
    left = sorted(stamps_ns)
    for first, last in sorted(told, key=lambda one: one[1]):
        place = bisect_left(left, first)
        if place < len(left) and left[place] <= last:
            left.pop(place)
    return len(stamps_ns) - len(left)
