"""Why a frame missed its deadline: one cause and one stage for each, the same on every page."""

import re
from typing import Any, NamedTuple

from perception_nodes.core.budget import STAGES, Budget
from perception_nodes.core.frame import FrameStatus, stage_durations_ms

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
    return Cause(
        FrameStatus(report.status), blamed_stage(report, budget), NUMBER.sub("#", reason_of(report))
    )


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
