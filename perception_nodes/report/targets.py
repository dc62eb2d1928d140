"""What a run was to reach beside what it reached: the same rows on every page."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from perception_nodes.core.budget import STAGES, Budget
from perception_nodes.report.page import NO_RESULT, NO_VALUE, shown


class Target(NamedTuple):
    """A row; `passed` is None where nothing was measured."""

    name: str
    target: str
    measured: str
    passed: bool | None


def targets(summary: Mapping[str, Any], deadline_ms: float) -> list[Target]:
    """The targets of a run; frames without detections count as slower than all others.

    Args:
        summary: of `core.statistics.summarize`.
        deadline_ms: the deadline; the stages share it as the budget says.
    """
    frames, missed = summary["frames_in"], summary["miss_rate"]
    rows = []
    if missed is not None:
        in_time = frames - round(missed * frames)
        measured = f"{in_time} of {frames} ({1 - missed:.2%})"
        rows.append(Target("frames with detections in time", "all", measured, in_time == frames))
    for rank, ms in summary["latency_ms"].items():
        name = f"{rank.replace('_', '.')} of the latency"
        rows.append(_at_most(name, ms, deadline_ms, NO_RESULT if frames else NO_VALUE))
    budget = Budget.for_deadline(deadline_ms)
    for stage in STAGES:
        took = summary["stages_ms"][stage]
        rows.append(_at_most(f"p99 of {stage}", took["p99"], getattr(budget, stage), NO_VALUE))
    return rows


def _at_most(name: str, ms: float | None, limit_ms: float, unknown: str) -> Target:
    passed = None if unknown == NO_VALUE else False
    if ms is not None:
        passed = ms <= limit_ms
    return Target(name, f"at most {limit_ms:.2f} ms", shown(ms, "{:.2f} ms", unknown), passed)
