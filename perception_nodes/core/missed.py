"""Why a frame missed its deadline: one cause and one stage for each, the same on every page."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from perception_nodes.core.budget import STAGES, Budget
from perception_nodes.core.frame import IN_TIME, FrameStatus, latency_ms, stage_durations_ms

NUMBER = re.compile(r"\d[\d.]*")
TOO_SLOW = (FrameStatus.LATE, FrameStatus.SKIPPED_LATE)
WITHOUT_REASON = {
    FrameStatus.LATE: "published after the deadline",
    FrameStatus.SKIPPED_LATE: "too little time was left",
    FrameStatus.SUPERSEDED: "a newer frame took its place",
    FrameStatus.FAILED: "no reason was given",
}
"""Reasons of statuses whose reports may have none."""


class Cause(NamedTuple):
    """Why frames missed; reasons that differ only in their numbers are one cause."""

    status: FrameStatus
    stage: str
    reason: str


def reason_of(report: Any) -> str:
    """The reason of a frame that missed, in words; `report` has the attributes of `FrameReport`."""
    return report.reason or WITHOUT_REASON.get(FrameStatus(report.status), "")


def cause_of(report: Any, budget: Budget) -> Cause:
    """The cause of a missed frame, an object with the attributes of `FrameReport`."""
    reason = NUMBER.sub("#", reason_of(report))
    return Cause(FrameStatus(report.status), blamed_stage(report, budget), reason)


def blamed_stage(report: Any, budget: Budget) -> str:
    """The stage that a missed frame is put down to.

    It is the one that exceeded its budget most, if the frame was too slow. Otherwise, and where no
    stage exceeded its budget, it is the one that the frame did not end.
    """
    took_ms = stage_durations_ms(report)
    excess_ms = {stage: ms - getattr(budget, stage) for stage, ms in took_ms.items()}
    worst = max(excess_ms, key=excess_ms.__getitem__, default="")
    if report.status in TOO_SLOW and worst and excess_ms[worst] > 0:
        return worst
    reached = STAGES.index([*took_ms][-1]) + 1 if took_ms else 0
    return STAGES[min(reached, len(STAGES) - 1)]


@dataclass(frozen=True)
class Missed:
    """The missed frames of a run, for its page.

    Attributes:
        count: how many they are.
        causes: the causes with their frames, the most frequent first; a reason is that of the last
            frame.
        worst: the worst frame: without a result, or else the slowest; None if none missed.
    """

    count: int
    causes: list[tuple[Cause, int]]
    worst: Any
    budget: Budget

    @classmethod
    def of(cls, reports: Iterable[Any], deadline_ms: float) -> "Missed":
        """Those of a run, objects with the attributes of `FrameReport`."""
        budget = Budget.for_deadline(deadline_ms)
        missed = [report for report in reports if report.status not in IN_TIME]
        counts: Counter[Cause] = Counter()
        reasons = {}
        for report in missed:
            cause = cause_of(report, budget)
            counts[cause] += 1
            reasons[cause] = reason_of(report)
        causes = [(c._replace(reason=reasons[c]), count) for c, count in counts.most_common()]
        return cls(len(missed), causes, max(missed, key=badness, default=None), budget)

    @property
    def why(self) -> str:
        """Status, reason and stage of the worst frame, in words."""
        status = FrameStatus(self.worst.status).name.replace("_", " ")
        return f"{status}: {reason_of(self.worst)}; stage: {blamed_stage(self.worst, self.budget)}"

    @property
    def stages(self) -> list[tuple[str, float | None, float]]:
        """Each stage of the worst frame: what it took, None if it was not reached; its budget."""
        took_ms = stage_durations_ms(self.worst)
        return [(stage, took_ms.get(stage), getattr(self.budget, stage)) for stage in STAGES]


def badness(report: Any) -> tuple[bool, bool, float]:
    """A key by which the worst of several frames is the largest."""
    latency = latency_ms(report)
    return report.status not in IN_TIME, latency is None, latency or 0.0
