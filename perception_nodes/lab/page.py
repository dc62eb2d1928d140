"""The page of a run of scenarios: verdicts, and a chart of every frame of each scenario."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import escape
from plotly.graph_objects import Figure

from perception_nodes.core.frame import FrameStatus, latency_ms
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.report import charts, page
from perception_nodes.report.annotate import STATUS_COLOURS
from perception_nodes.report.charts import DEADLINE_COLOUR, HEALTH_COLOURS
from perception_nodes.report.page import NO_VALUE
from perception_nodes.report.recording import Recording, RecordingError, read_recording

FAULT_COLOUR = "#868e96"
CHART_DEADLINES = 3
"""Latencies beyond this multiple of the deadline are drawn there."""


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
        plotly=charts.plotly_script(),
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
        "chart": charts.as_html(_chart(verdict, recording)) if drawn else "",
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


def _chart(verdict: ScenarioVerdict, recording: Recording) -> Figure:
    """Latency of every frame, coloured by its status, over the health mode."""
    top = CHART_DEADLINES * verdict.deadline_ms
    figure = Figure()
    for status in FrameStatus:
        reports = [report for report in recording.reports if report.status == status]
        if not reports:
            continue
        figure.add_scatter(
            x=[round((report.log_time_ns - verdict.first_ns) / 1e9, 3) for report in reports],
            y=[round(min(latency_ms(report) or 0.0, top), 2) for report in reports],
            name=f"{status.name} ({len(reports)})",
            mode="markers",
            marker={"color": STATUS_COLOURS[status], "size": 5},
            text=[str(escape(report.reason)) for report in reports],
            hovertemplate="%{y:.1f} ms %{text}",
        )
    figure.add_hline(verdict.deadline_ms, line={"color": DEADLINE_COLOUR, "dash": "dash"})
    for kind, begin_s, end_s in verdict.faults:
        figure.add_vrect(
            begin_s, max(end_s, begin_s + 0.03), fillcolor=FAULT_COLOUR, opacity=0.18, line_width=0,
            annotation={"text": str(escape(kind)), "font": {"size": 11}},
            annotation_position="top left",
        )  # fmt: skip
    times_s = [(change.log_time_ns - verdict.first_ns) / 1e9 for change in recording.health]
    last_s = max((r.log_time_ns - verdict.first_ns) / 1e9 for r in recording.reports)
    spans_s = pairwise([*times_s, last_s])
    for change, (begin_s, end_s) in zip(recording.health, spans_s, strict=True):
        figure.add_scatter(
            x=[max(begin_s, 0.0), max(end_s, 0.0)],
            y=[-0.06 * top] * 2,
            mode="lines",
            line={"color": HEALTH_COLOURS[change.mode], "width": 8},
            hovertemplate=f"{change.mode.name}: {escape(change.cause)}<extra></extra>",
            showlegend=False,
        )
    figure.update_yaxes(range=[-0.1 * top, 1.05 * top])
    figure.update_layout(showlegend=True)
    return charts.styled(figure, "seconds since the first frame", "latency, ms", 240)
