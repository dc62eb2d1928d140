"""The report of a run: one HTML file that needs nothing else, for people."""

import base64
from html import escape
from typing import Any, NamedTuple

from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.frame import FrameStatus
from perception_nodes.replay import charts
from perception_nodes.replay.annotate import STATUS_COLOURS
from perception_nodes.replay.page import PAGE
from perception_nodes.replay.recording import Recording

_STATUS_WORDS = {
    FrameStatus.LATE: "late",
    FrameStatus.SKIPPED_LATE: "skipped as already late",
    FrameStatus.SUPERSEDED: "superseded by a newer one",
    FrameStatus.FAILED: "failed",
}
_IN_TILES = ("frames_in", "detections", "miss_rate")
_PLOT_CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}


class Shot(NamedTuple):
    """An annotated frame for the report."""

    caption: str
    jpeg: bytes


def render(summary: dict[str, Any], recording: Recording, shots: list[Shot]) -> str:
    """The report as HTML text.

    Args:
        summary: as in `summary.json`.
        recording: what the run put out.
        shots: annotated frames, in the order of the drive.
    """
    deadline_ms = float(summary.get("deadline_ms", DEADLINE_MS))
    tone, sentence = verdict(summary)
    return PAGE.substitute(
        title=escape(str(summary.get("bag", "drive"))),
        tone=tone,
        verdict=escape(sentence),
        tiles=_tiles(summary, deadline_ms),
        statuses=_statuses(summary),
        facts=_facts(summary),
        notes=_notes(summary),
        histogram=_plot(charts.histogram(recording.reports, deadline_ms)),
        timeline=_plot(charts.timeline(recording.reports, deadline_ms)),
        health=_health(recording),
        classes=_plot(charts.classes(recording.detections)),
        shots="".join(map(_figure, shots)) or "<p>No frame was played.</p>",
        plotly=get_plotlyjs(),
    )


def verdict(summary: dict[str, Any]) -> tuple[str, str]:
    """How the run went: `good`, `fair` or `bad`, and a sentence in plain words."""
    frames_in, status = summary["frames_in"], summary["status"]
    deadline = f"{float(summary.get('deadline_ms', DEADLINE_MS)):g} ms"
    if not frames_in:
        return "bad", "No frame arrived, so nothing can be said of this run."
    in_time = status["OK"] + status["DEGRADED"]
    if in_time == frames_in:
        sentence = f"All {frames_in} frames left as detections within {deadline} of their capture"
    else:
        missed = [
            f"{status[kind.name]} {words}"
            for kind, words in _STATUS_WORDS.items()
            if status[kind.name]
        ]
        sentence = (
            f"{in_time} of {frames_in} frames ({in_time / frames_in:.1%}) left as detections "
            f"within {deadline} of their capture; {', '.join(missed)}"
        )
    lost = summary.get("lost_before_ingest", 0)
    if lost > 0:
        sentence += f". {lost} more {'was' if lost == 1 else 'were'} sent and never arrived"
    sentence += "."
    bad = summary["miss_rate"] > 0.01 or lost > 0
    return ("bad" if bad else "fair" if in_time < frames_in else "good"), sentence


def _tiles(summary: dict[str, Any], deadline_ms: float) -> str:
    latency = summary["latency_ms"]
    names = {"p50": "p50", "p99": "p99", "p99_9": "p99.9", "max": "max"}
    tiles = []
    for key, name in names.items():
        value = latency[key]
        text = "–" if value is None else f"{value:.1f}<small> ms</small>"
        over = " over" if value is not None and value > deadline_ms else ""
        tiles.append((f"latency {name}", text, over))
    miss_rate = summary["miss_rate"]
    tiles.append(("missed", "–" if miss_rate is None else f"{miss_rate:.1%}", ""))
    tiles.append(("frames", f"{summary['frames_in']}", ""))
    tiles.append(("objects", f"{summary['detections']}", ""))
    return "".join(
        f'<div class="tile{over}"><b>{text}</b><span>{escape(name)}</span></div>'
        for name, text, over in tiles
    )


def _statuses(summary: dict[str, Any]) -> str:
    total = max(summary["frames_in"], 1)
    counts = [(kind, summary["status"][kind.name]) for kind in FrameStatus]
    bar = "".join(
        f'<i style="width:{100 * count / total:.3f}%;background:{STATUS_COLOURS[kind]}"></i>'
        for kind, count in counts
        if count
    )
    legend = "".join(
        f'<span class="{"" if count else "none"}"><i style="background:{STATUS_COLOURS[kind]}"></i>'
        f"{kind.name} <b>{count}</b></span>"
        for kind, count in counts
    )
    return f'<div class="bar">{bar}</div><div class="legend">{legend}</div>'


def _facts(summary: dict[str, Any]) -> str:
    shown = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in summary.items()
        if isinstance(value, str | int | float) and name not in _IN_TILES
    }
    stages = "".join(
        f"<tr><th>{stage}</th><td>{_ms(values['p50'])}</td><td>{_ms(values['p99'])}</td></tr>"
        for stage, values in summary["stages_ms"].items()
    )
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(value)}</td></tr>"
        for name, value in shown.items()
    )
    head = "<tr><th>stage</th><td>p50</td><td>p99</td></tr>"
    return f"<table>{rows}</table><table>{head}{stages}</table>"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ms"


def _notes(summary: dict[str, Any]) -> str:
    notes = [f"{count} failed: {reason}" for reason, count in summary["failures"].items()]
    notes += summary.get("warnings", [])
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _health(recording: Recording) -> str:
    """The health section; a run without a watchdog has none."""
    if not recording.health:
        return ""
    return f"<section><h2>Health</h2>{_plot(charts.health(recording))}</section>"


def _plot(figure: Figure) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=_PLOT_CONFIG))


def _figure(shot: Shot) -> str:
    data = base64.b64encode(shot.jpeg).decode()
    caption = escape(shot.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
