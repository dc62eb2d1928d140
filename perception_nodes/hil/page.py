"""The page of a run of scenarios: one HTML file that needs nothing else, for people."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from perception_nodes.core.frame import FrameStatus, latency_ms
from perception_nodes.hil.judge import Verdict
from perception_nodes.report.annotate import STATUS_COLOURS
from perception_nodes.report.charts import DEADLINE_COLOUR, HEALTH_COLOURS, styled
from perception_nodes.report.page import STYLE
from perception_nodes.report.recording import Recording, RecordingError, read_recording
from perception_nodes.watchdog.faults import HealthMode

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hardware in the loop</title>
<style>"""
    + STYLE
    + """
.pass { color: var(--good); } .fail { color: var(--bad); }
.problems { margin: 8px 0 0; padding-left: 20px; }
a { color: inherit; }
</style>
<script>$plotly</script>
</head>
<body>
<main>
<section>
<h1>$machine</h1>
<p class="verdict $tone">$verdict</p>
</section>
<section><table>
<tr><th>scenario</th><th>verdict</th><th>detected in</th><th>told at worst</th><th>in time</th>
<th>agreement</th><th>detections in</th><th>recovered in</th></tr>
$rows
</table></section>
$scenarios
<footer>perception_nodes. Latency is by the unit's frame reports, from the frame's stamp to the
publishing of its detections; frames with none are at 0. Shaded: while a fault lasts. The line
below: $modes.
</footer>
</main>
</body>
</html>
"""
)
CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}
FAULT_COLOUR = "#868e96"
CHART_DEADLINES = 3
"""Latencies beyond so many deadlines are drawn there."""


def render(
    machine: str, verdicts: Sequence[Verdict], folder: Path, not_begun: Sequence[str] = ()
) -> str:
    """The page as HTML text.

    Args:
        machine: that the bench ran on.
        verdicts: a section each.
        folder: holds their recordings.
        not_begun: names of scenarios whose turn did not come.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    count = len(verdicts) + len(not_begun)
    sentence = f"{len(verdicts) - failed} of {count} scenarios are as expected"
    if not_begun:
        sentence += f"; not begun: {', '.join(not_begun)}"
    return PAGE.substitute(
        machine=escape(machine),
        tone="bad" if failed or not_begun else "good",
        verdict=escape(sentence),
        rows="".join(map(_row, verdicts)),
        scenarios="".join(_section(verdict, folder) for verdict in verdicts),
        modes=", ".join(
            f'<span style="color: {colour}">{mode.name}</span>'
            for mode, colour in HEALTH_COLOURS.items()
        ),
        plotly=get_plotlyjs(),
    )


def _row(verdict: Verdict) -> str:
    worst = max((HealthMode[mode] for mode, _, _ in verdict.told), default=None)
    cells = [
        f'<a href="#{verdict.scenario}">{escape(verdict.scenario)}</a>',
        f'<b class="{_tone(verdict)}">{_tone(verdict)}</b>',
        _ms(verdict.detected_ms),
        "–" if worst is None else worst.name,
        "–" if verdict.miss_rate is None else f"{1 - verdict.miss_rate:.1%}",
        "–" if verdict.agreement is None else f"{verdict.agreement:.0%}",
        _ms(verdict.detections_ms),
        _ms(verdict.recovered_ms),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _section(verdict: Verdict, folder: Path) -> str:
    try:
        recording = read_recording(folder / f"{verdict.scenario}.mcap")
    except RecordingError:
        recording = Recording()  # it was not run
    chart = ""
    if recording.reports and verdict.sent:
        chart = _chart(verdict, recording).to_html(
            full_html=False, include_plotlyjs=False, config=CONFIG
        )
    tone = _tone(verdict)
    return (
        f'<section id="{verdict.scenario}"><h2>{escape(verdict.scenario)}: '
        f'<span class="{tone}">{tone}</span></h2><p class="soft">{escape(verdict.title)}</p>'
        f"{_list('problems', verdict.problems)}{chart}{_list('notes', _facts(verdict))}</section>"
    )


def _list(style: str, texts: Sequence[str]) -> str:
    return f'<ul class="{style}">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


def _facts(verdict: Verdict) -> list[str]:
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


def _chart(verdict: Verdict, recording: Recording) -> Figure:
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
            text=[report.reason for report in reports],
            hovertemplate="%{y:.1f} ms %{text}",
        )
    figure.add_hline(verdict.deadline_ms, line={"color": DEADLINE_COLOUR, "dash": "dash"})
    for kind, begin_s, end_s in verdict.faults:
        figure.add_vrect(
            begin_s, max(end_s, begin_s + 0.03), fillcolor=FAULT_COLOUR, opacity=0.18, line_width=0,
            annotation={"text": kind, "font": {"size": 11}}, annotation_position="top left",
        )  # fmt: skip
    times_s = [(change.log_time_ns - verdict.first_ns) / 1e9 for change in recording.health]
    last_s = max((r.log_time_ns - verdict.first_ns) / 1e9 for r in recording.reports)
    for change, begin_s, end_s in zip(
        recording.health, times_s, [*times_s[1:], last_s], strict=True
    ):
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
    return styled(figure, "seconds since the first frame", "ms", 240)


def _tone(verdict: Verdict) -> str:
    return "pass" if verdict.passed else "fail"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
