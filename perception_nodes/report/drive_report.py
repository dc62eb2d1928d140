"""The report of a run: one HTML file that needs nothing else, for people."""

import base64
from html import escape
from typing import Any

from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from perception_nodes.core.budget import DEADLINE_MS, Budget
from perception_nodes.core.frame import FrameStatus
from perception_nodes.report import charts
from perception_nodes.report.accelerator import engine_section
from perception_nodes.report.annotate import STATUS_COLOURS
from perception_nodes.report.chosen_frames import Shot, Shots
from perception_nodes.report.page import PAGE
from perception_nodes.report.recording import Recording

_STATUS_WORDS = {
    FrameStatus.LATE: "late",
    FrameStatus.SKIPPED_LATE: "skipped as already late",
    FrameStatus.SUPERSEDED: "superseded by a newer one",
    FrameStatus.FAILED: "failed",
}
_IN_TILES = ("frames_in", "detections", "miss_rate", "over_deadline")
LOCKSTEP = "lockstep"
MAX_LINES = 60
"""Of changes, in the report."""
_PLOT_CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}


def render(summary: dict[str, Any], recording: Recording, shots: Shots) -> str:
    """The report as HTML text.

    Args:
        summary: as in `summary.json`.
        recording: what the run put out.
        shots: annotated frames.
    """
    deadline_ms = float(summary.get("deadline_ms", DEADLINE_MS))
    tone, sentence = verdict(summary)
    lockstep = summary.get("mode") == LOCKSTEP
    return PAGE.substitute(
        title=escape(str(summary.get("bag", "drive"))),
        tone=tone,
        verdict=escape(sentence),
        tiles=_tiles(summary, deadline_ms),
        statuses=_statuses(summary),
        facts=_facts(summary),
        engine=engine_section(summary.get("engine")),
        notes=_notes(summary),
        measured="Work of a frame, as measured here" if lockstep else "Latency",
        histogram=plot(charts.histogram(recording.reports, deadline_ms)),
        timeline=plot(charts.timeline(recording.reports, deadline_ms)),
        golden=_golden(summary, shots),
        accuracy=_accuracy(summary),
        health=_health(recording),
        classes=plot(charts.classes(recording)),
        shots="".join(map(picture, shots.shown())) or "<p>No frame was played.</p>",
        plotly=plotly_script(),
    )


def verdict(summary: dict[str, Any]) -> tuple[str, str]:
    """How the run went: `good`, `fair` or `bad`, and a sentence in plain words."""
    frames_in, status = summary["frames_in"], summary["status"]
    deadline = f"{float(summary.get('deadline_ms', DEADLINE_MS)):g} ms"
    if not frames_in:
        return "bad", "No frame arrived, so nothing can be said of this run."
    if summary.get("mode") == LOCKSTEP:
        return _verdict_of_lockstep(summary, deadline)
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


def _verdict_of_lockstep(summary: dict[str, Any], deadline: str) -> tuple[str, str]:
    frames_in, failed = summary["frames_in"], summary["status"]["FAILED"]
    sentence = f"{frames_in - failed} of {frames_in} frames were detected, one after the other"
    if failed:
        sentence += f"; {failed} failed"
    if lost := summary["lost_in_bag"]:
        sentence += f"; {lost} recorded {'one is' if lost == 1 else 'ones are'} lost"
    golden = summary.get("golden")
    changes = sum(golden["kinds"].values()) if golden else 0
    if golden:
        frames = golden["frames_changed"]
        what = counted(changes, "thing") if changes else "nothing"
        sentence += f". Against the golden {what} changed"
        sentence += f", in {counted(frames, 'frame')}" if changes else ""
    if over := summary["over_deadline"]:
        sentence += f". {counted(over, 'frame')} took more than {deadline} of work here"
    tone = "bad" if failed or lost or changes else "fair" if over else "good"
    return tone, sentence + "."


def counted(count: int, thing: str) -> str:
    """`no frame`, `1 frame`, `2 frames`."""
    return f"{count or 'no'} {thing}{'s' if count > 1 else ''}"


def _tiles(summary: dict[str, Any], deadline_ms: float) -> str:
    latency, lockstep = summary["latency_ms"], summary.get("mode") == LOCKSTEP
    names = {"p50": "p50", "p99": "p99", "p99_9": "p99.9", "max": "max"}
    tiles = []
    for key, name in names.items():
        value = latency[key]
        text = "–" if value is None else f"{value:.1f}<small> ms</small>"
        over = " over" if value is not None and value > deadline_ms else ""
        tiles.append((f"{'work' if lockstep else 'latency'} {name}", text, over))
    if lockstep:
        over = " over" if summary["over_deadline"] else ""
        tiles.append(("work over deadline", f"{summary['over_deadline']}", over))
    else:
        miss_rate = summary["miss_rate"]
        tiles.append(("missed", "–" if miss_rate is None else f"{miss_rate:.1%}", ""))
    if "accuracy" in summary:
        tiles.append(("mAP50-95", f"{summary['accuracy']['map50_95']:.3f}", ""))
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
    budget = Budget.for_deadline(float(summary.get("deadline_ms", DEADLINE_MS)))
    shown = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in summary.items()
        if isinstance(value, str | int | float) and name not in _IN_TILES
    }
    stages = "".join(
        f"<tr><th>{stage}</th><td>{_ms(getattr(budget, stage))}</td><td>{_ms(values['p50'])}</td>"
        f"<td>{_ms(values['p99'])}</td></tr>"
        for stage, values in summary["stages_ms"].items()
    )
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(value)}</td></tr>"
        for name, value in shown.items()
    )
    head = "<tr><th>stage</th><td>budget</td><td>p50</td><td>p99</td></tr>"
    return f"<table>{rows}</table><table>{head}{stages}</table>"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ms"


def _notes(summary: dict[str, Any]) -> str:
    notes = [f"{count} failed: {reason}" for reason, count in summary["failures"].items()]
    notes += summary.get("warnings", [])
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _golden(summary: dict[str, Any], shots: Shots) -> str:
    """What changed against the golden, with pictures; a run without one has no such section."""
    golden = summary.get("golden")
    if golden is None:
        return ""
    kinds = ", ".join(f"{kind}: {count}" for kind, count in golden["kinds"].items())
    tolerance = golden["tolerance"]
    text = (
        f"{counted(golden['frames'], 'frame')} compared, boxes from IoU {tolerance['box_iou']:g} "
        f"and scores within {tolerance['score']:g} on count as the same; "
        f"{counted(golden['doubtful'], 'object')} too near to the score threshold to count. "
        f"{kinds or 'Nothing changed'}."
    )
    lines = golden["lines"]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[:MAX_LINES])
    if len(lines) > MAX_LINES:
        items += f"<li>and {len(lines) - MAX_LINES} more, in summary.json</li>"
    pictures = "".join(map(picture, shots.changed()))
    return (
        f'<section><h2>Against the golden</h2><p class="soft">{escape(text)}</p>'
        f'<div class="shots">{pictures}</div><ul class="notes">{items}</ul></section>'
    )


def _accuracy(summary: dict[str, Any]) -> str:
    """Accuracy by class, where there are labels."""
    accuracy = summary.get("accuracy")
    if accuracy is None:
        return ""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{score['objects']}</td><td>{_share(score['map50_95'])}"
        f"</td><td>{_share(score['map50'])}</td></tr>"
        for name, score in [("all", accuracy), *accuracy["by_class"].items()]
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in accuracy["notes"])
    return (
        f"<section><h2>Accuracy on {escape(accuracy['labels'])}, "
        f"{counted(accuracy['frames'], 'frame')}</h2><table><tr><th>class</th><td>objects</td>"
        f"<td>mAP50-95</td><td>mAP50</td></tr>{rows}</table>"
        f'<ul class="notes">{notes}</ul></section>'
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _health(recording: Recording) -> str:
    """The health section; a run without a watchdog has none."""
    if not recording.health:
        return ""
    return f"<section><h2>Health</h2>{plot(charts.health(recording))}</section>"


def plotly_script() -> str:
    """The library that draws the charts, for the page itself."""
    return str(get_plotlyjs())


def plot(figure: Figure) -> str:
    """A chart as part of a page."""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=_PLOT_CONFIG))


def picture(shot: Shot) -> str:
    """A frame and its caption as part of a page."""
    data = base64.b64encode(shot.jpeg).decode()
    caption = escape(shot.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
