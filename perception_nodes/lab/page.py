"""The page of a run of scenarios: verdicts, and a chart of every frame of each scenario."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.report import page
from perception_nodes.report.chart import (
    HEALTH_COLOURS,
    Axis,
    Chart,
    LatencyAxis,
    add_health,
    seconds_of,
)
from perception_nodes.report.page import NO_VALUE
from perception_nodes.report.recording import Recording, RecordingError, read_recording

CHART_DEADLINES = 3
"""The axis of latencies ends at this multiple of the deadline."""


def render(
    machine: str, verdicts: Sequence[ScenarioVerdict], folder: Path, not_begun: Sequence[str] = ()
) -> str:
    """The page as HTML text.

    Args:
        machine: that the bench ran on.
        verdicts: of the scenarios that were begun.
        folder: holds their recordings.
        not_begun: names of scenarios whose turn did not come.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    count = len(verdicts) + len(not_begun)
    sentence = f"{len(verdicts) - failed} of {count} scenarios are as expected"
    if not_begun:
        sentence += f"; not begun: {', '.join(not_begun)}"
    return page.render(
        "scenarios.html.j2",
        heading=machine,
        tone="bad" if failed or not_begun else "good",
        verdict=sentence,
        rows=[_row(verdict, folder) for verdict in verdicts],
        modes=[(mode.name, colour) for mode, colour in HEALTH_COLOURS.items()],
    )


def _row(verdict: ScenarioVerdict, folder: Path) -> dict[str, Any]:
    """What the page says of a scenario."""
    try:
        recording = read_recording(folder / f"{verdict.scenario}.mcap")
    except RecordingError:
        recording = Recording()  # it was not run
    drawn = bool(recording.reports and verdict.sent)
    return {
        "scenario": verdict.scenario,
        "title": verdict.title,
        "verdict": "pass" if verdict.passed else "fail",
        "detected_ms": verdict.detected_ms,
        "worst_mode": NO_VALUE if verdict.worst is None else verdict.worst.name,
        "in_time": None if verdict.miss_rate is None else 1 - verdict.miss_rate,
        "agreement": verdict.agreement,
        "detections_ms": verdict.detections_ms,
        "recovered_ms": verdict.recovered_ms,
        "problems": verdict.problems,
        "chart": _chart(verdict, recording) if drawn else "",
        "facts": _facts(verdict),
    }


def _facts(verdict: ScenarioVerdict) -> list[str]:
    facts = []
    if verdict.sent:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(verdict.statuses.items()))
        facts.append(f"{verdict.sent} frames sent: {counts}; {verdict.lost_silently} silently lost")
    if verdict.while_down:
        facts.append(f"{verdict.while_down} frames while the unit was down")
    if verdict.detected_as:
        facts.append(f"it said: {verdict.detected_as}")
    if verdict.round_trip_ms is not None:
        median_ms, tail_ms = verdict.round_trip_ms
        facts.append(
            f"from the frame's stamp to its detections, both by the bench's clock: "
            f"p50 {median_ms:.1f} ms, p99 {tail_ms:.1f} ms"
        )
    if verdict.clock is not None:
        facts.append(
            f"the unit's clock is {verdict.clock.offset_ms:+.3f} ms from the bench's, "
            f"to {verdict.clock.error_ms:.3f} ms"
        )
    return facts + verdict.notes


def _chart(verdict: ScenarioVerdict, recording: Recording) -> Chart:
    """Latency of every frame, coloured by its status, over the health mode."""
    axis = LatencyAxis(CHART_DEADLINES * verdict.deadline_ms)
    chart = Chart(
        Axis("seconds since the first frame"), axis.axis("latency, ms", -0.1 * axis.top), 260
    )
    reports, first_ns = recording.reports, verdict.first_ns
    seconds = seconds_of([report.log_time_ns for report in reports], first_ns)
    axis.add_frames(chart, seconds, reports, 5)
    chart.deadline(verdict.deadline_ms, y=verdict.deadline_ms)
    for kind, begin_s, end_s in verdict.faults:
        chart.span(begin_s, end_s, kind)
    last_ns = max(report.log_time_ns for report in reports)
    add_health(chart, recording.health, first_ns, last_ns, lambda _: -0.05 * axis.top)
    return chart
