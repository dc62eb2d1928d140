"""A run on one picture, for people who look at it in a merge request."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from perception_nodes.core.budget import DEADLINE_MS, STAGES
from perception_nodes.core.frame import IN_TIME, FrameStatus, latency_ms, stage_durations_ms
from perception_nodes.report.annotate import decoded
from perception_nodes.report.chart import DEADLINE_COLOUR
from perception_nodes.report.charts import latency_axis, worst_of_groups
from perception_nodes.report.chosen_frames import ChosenFrame, ChosenFrames
from perception_nodes.report.drive_report import is_simulated, verdict
from perception_nodes.report.page import NO_RESULT, shown
from perception_nodes.report.palette import STAGE_COLOURS, STATUS_COLOURS, STATUS_SHAPES
from perception_nodes.report.recording import Recording
from perception_nodes.report.static_chart import INK, SOFT, drawing, saved

WIDTH_IN, HEIGHT_IN, DPI = 12.0, 7.0, 100
MAX_BARS = 1000
MAX_LABELS = 40
"""Number of labels that have room beside each other."""
PICTURES = 3
CAPTION_LETTERS, CAPTION_LINES = 52, 3
SENTENCE_LETTERS, SENTENCE_LINES = 105, 2
MARKERS = {"●": "o", "▲": "^", "◆": "D", "■": "s", "▼": "v", "✖": "X"}
"""Matplotlib's markers for the shapes of statuses."""
TONES = {"good": "#1f9d55", "fair": "#e8a200", "bad": "#d6336c"}


def overview(summary: dict[str, Any], recording: Recording, chosen: ChosenFrames) -> bytes:
    """Verdict, figures, timeline and three frames, as a PNG.

    Args:
        summary: as in `summary.json`.
        recording: what the run published.
        chosen: annotated frames; changed ones come first.
    """
    tone, sentence = verdict(summary)
    frames = [*chosen.changed(), *chosen.shown()][:PICTURES]
    with drawing(WIDTH_IN, HEIGHT_IN, DPI) as figure:
        figure.set_layout_engine("constrained", rect=(0.015, 0.01, 0.97, 0.8))
        figure.add_artist(Rectangle((0, 0.985), 1, 0.015, color=TONES[tone]))
        bag = textwrap.shorten(str(summary.get("bag", "drive")), SENTENCE_LETTERS)
        figure.text(0.025, 0.945, bag, size=10, color=SOFT)
        figure.text(0.025, 0.925, _wrapped(sentence, SENTENCE_LETTERS, SENTENCE_LINES),
                    size=13, color=INK, va="top", weight="bold")  # fmt: skip
        figure.text(0.025, 0.825, _figures(summary), size=11, color=INK)
        grid = figure.add_gridspec(2 if frames else 1, PICTURES)
        deadline_ms = float(summary.get("deadline_ms", DEADLINE_MS))
        _timeline(figure.add_subplot(grid[0, :]), recording, deadline_ms)
        for place, frame in enumerate(frames):
            _picture(figure.add_subplot(grid[1, place]), frame)
        return saved(figure, "png")


def _figures(summary: dict[str, Any]) -> str:
    kind = "work" if is_simulated(summary) else "latency"
    texts = [
        f"{rank.replace('_', '.')} {shown(value, '{:.1f} ms', NO_RESULT)}"
        for rank, value in summary["latency_ms"].items()
        if summary["frames_in"]
    ]
    texts = [f"{kind}:  " + "   ".join(texts)] if texts else []
    texts += [f"{summary['frames_in']} frames", f"{summary['detections']} objects"]
    if "accuracy" in summary:
        texts.append(f"mAP50-95 {summary['accuracy']['map50_95']:.3f}")
    return "      ".join(texts)


def _timeline(axes: Axes, recording: Recording, deadline_ms: float) -> None:
    """Stages of the frames, stacked; of a long drive the worst frame of each group."""
    reports = worst_of_groups(recording.reports, MAX_BARS)
    shown = [stage_durations_ms(report) for report in reports]
    latencies = [latency_ms(report) for report in reports]
    scale = latency_axis(latencies, deadline_ms)
    edges = np.linspace(0, len(recording.reports), len(shown) + 1)
    level = np.zeros(len(shown))
    for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True) if shown else ():
        upper = np.minimum(level + [stages.get(stage, 0.0) for stages in shown], scale.top)
        axes.stairs(upper, edges, baseline=level, fill=True, color=colour, label=stage)
        level = upper
    centres = ((edges[:-1] + edges[1:]) / 2).tolist()
    slower: list[tuple[float, float]] = []
    for report, latency, centre in zip(reports, latencies, centres, strict=True):
        if report.status not in IN_TIME or scale.place(latency) > scale.top:
            status = FrameStatus(report.status)
            marker, colour = MARKERS[STATUS_SHAPES[status]], STATUS_COLOURS[status]
            axes.plot(centre, scale.place(latency), marker, ms=6, color=colour)
        if latency is not None and latency > scale.top:
            slower.append((latency, centre))
    written: list[float] = []
    for latency, centre in sorted(slower, reverse=True):
        if all(abs(centre - other) > edges[-1] / MAX_LABELS for other in written):
            written.append(centre)
            axes.annotate(f"{latency:.0f}", (centre, scale.slower), (0, 5),
                          textcoords="offset points", ha="center", size=9)  # fmt: skip
    axes.axhline(deadline_ms, color=DEADLINE_COLOUR, lw=2, ls="--",
                 label=f"deadline {deadline_ms:g} ms")  # fmt: skip
    axes.set_ylim(0, scale.end)
    ticks = [tick for tick in axes.get_yticks() if tick <= scale.top]
    places, names = zip(*scale.rails, strict=True)
    axes.set_yticks([*ticks, *places], [*(f"{tick:g}" for tick in ticks), *names])
    axes.set_xlim(0, max(len(recording.reports), 1))
    axes.set(xlabel="frame", ylabel="ms")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(STAGES) + 1, borderpad=0)


def _picture(axes: Axes, frame: ChosenFrame) -> None:
    axes.imshow(decoded(frame.jpeg)[..., ::-1])
    axes.set_xlabel(_wrapped(frame.caption, CAPTION_LETTERS, CAPTION_LINES), size=9)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])


def _wrapped(text: str, letters: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder=" …"))
