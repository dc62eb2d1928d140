"""The charts of a report."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from plotly.graph_objects import Figure, Histogram
from plotly.offline import get_plotlyjs

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import IN_TIME, FrameStatus, latency_ms, stage_durations_ms
from perception_nodes.core.health import HealthMode
from perception_nodes.core.statistics import percentiles
from perception_nodes.report.annotate import STATUS_COLOURS, class_colour
from perception_nodes.report.recording import Recording, ReportedFrame

MAX_POINTS = 1500
"""Frames that a timeline shows; of a longer drive the worst frame of each group."""
STAGE_COLOURS = ("#a5b4fc", "#67c7e8", "#4263eb", "#9775fa", "#ced4da")
HEALTH_COLOURS = {
    HealthMode.NOMINAL: "#1f9d55",
    HealthMode.DEGRADED: "#1c7ed6",
    HealthMode.SKIPPING: "#f2a900",
    HealthMode.UNSAFE: "#d6336c",
}
DEADLINE_COLOUR = "#e03131"
RANKS = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
PERCENTILE_COLOUR = "#868e96"
GAP_INTERVALS = 4
"""Between frames that are more than so many median intervals apart, a timeline is empty."""
TIME_BINS, BIN_FRAMES = 120, 2
"""Equal parts of the drive in which objects are counted: at most so many, and with so many frames
on average, so that frames that come unevenly leave none empty."""
_CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}


def as_html(figure: Figure) -> Markup:
    """A chart as part of a page that has `plotly_script`."""
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG))


def plotly_script() -> Markup:
    """The library that draws the charts."""
    return Markup(get_plotlyjs())


def histogram(reports: Sequence[ReportedFrame], deadline_ms: float) -> Figure:
    """How often each latency occurred, against the deadline."""
    values = np.array([v for v in map(latency_ms, reports) if v is not None])
    ranks = percentiles(values, RANKS) if len(values) else {}
    # On a scale up to the slowest frame all others would be one bar: the slowest share the last.
    top = max(2 * deadline_ms, ranks.get("p99", 0.0))
    shown = np.minimum(values, top)
    figure = Figure(
        Histogram(
            x=shown,
            xbins={"start": 0, "end": top * 1.02, "size": top / 80},
            marker_color="#4263eb",
            hovertemplate="%{x} ms: %{y} frames<extra></extra>",
        )
    )
    figure.add_vline(
        deadline_ms,
        line={"color": DEADLINE_COLOUR, "width": 2, "dash": "dash"},
        annotation={"text": f"deadline {deadline_ms:g} ms", "font": {"color": DEADLINE_COLOUR}},
        annotation_position="top",  # above the bars, where no percentile is written
    )
    for name, value in ranks.items():
        figure.add_vline(
            min(value, top),
            line={"color": PERCENTILE_COLOUR, "width": 1},
            annotation={
                "text": f"{name} {value:.1f}",
                "font": {"color": PERCENTILE_COLOUR, "size": 11},
                "textangle": -90,
                "yanchor": "top",
            },
            # The two high ones are often at the same place.
            annotation_position="top right" if name == "p99.9" else "top left",
        )
    clipped = int((values > top).sum())
    title = "capture to publish, ms" + (f" ({clipped} beyond {top:.0f})" if clipped else "")
    return styled(figure, title, "frames", 280)


def timeline(reports: Sequence[ReportedFrame], deadline_ms: float) -> Figure:
    """Stages of every frame, stacked, against the deadline; frames that missed it are marked."""
    shown = worst_of_groups(reports, MAX_POINTS)
    seconds = _seconds([report.log_time_ns for report in shown])
    stages = [stage_durations_ms(report) for report in shown]
    places = _with_gaps(seconds)
    figure = Figure()
    for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True):
        figure.add_scatter(
            x=[at_s for at_s, _ in places],
            y=[None if i is None else round(stages[i].get(stage, 0.0), 3) for _, i in places],
            name=stage,
            stackgroup="stages",
            line={"width": 0, "shape": "hvh"},
            fillcolor=colour,
            hovertemplate="%{y:.2f} ms",
        )
    for status in FrameStatus:
        marked = [i for i, report in enumerate(shown) if report.status == status]
        if status in IN_TIME[:1] or not marked:
            continue
        figure.add_scatter(
            x=[seconds[i] for i in marked],
            y=[sum(stages[i].values()) for i in marked],
            name=status.name,
            mode="markers",
            marker={"color": STATUS_COLOURS[status], "size": 8, "line": {"width": 1}},
            text=[str(escape(shown[i].reason)) for i in marked],
            hovertemplate=f"{status.name} %{{text}}<extra></extra>",
        )
    figure.add_hline(deadline_ms, line={"color": DEADLINE_COLOUR, "width": 2, "dash": "dash"})
    # A stall of a second would flatten everything else, so the axis ends before it.
    totals = [sum(found.values()) for found in stages] or [0.0]
    top = max(1.25 * deadline_ms, min(max(totals) * 1.05, 4 * deadline_ms))
    figure.update_yaxes(range=[0, top])
    figure.update_layout(hovermode="x unified")
    return styled(figure, "seconds since the first frame", "ms", 340)


def health(recording: Recording) -> Figure:
    """The health mode over the drive."""
    times = [change.log_time_ns for change in recording.health]
    end_ns = max([report.log_time_ns for report in recording.reports] + times, default=0)
    start_ns = min([report.log_time_ns for report in recording.reports] + times, default=0)
    figure = Figure()
    for change, until_ns in zip(recording.health, [*times[1:], end_ns], strict=True):
        begin, end = ((t - start_ns) / 1e9 for t in (change.log_time_ns, until_ns))
        figure.add_scatter(
            x=[begin, end],
            y=[change.mode.name] * 2,
            mode="lines+markers",
            line={"color": HEALTH_COLOURS[change.mode], "width": 12},
            marker={"symbol": "line-ns", "size": 12},
            hovertemplate=f"{change.mode.name}: {escape(change.cause)}<extra></extra>",
            showlegend=False,
        )
    names = [mode.name for mode in reversed(HealthMode)]
    figure.update_yaxes(categoryorder="array", categoryarray=names, range=[-0.5, 3.5])
    return styled(figure, "seconds since the first message", "", 220)


def classes(recording: Recording) -> Figure:
    """How many objects of each class a frame had, over the drive; the totals in the legend."""
    start_ns = min((report.log_time_ns for report in recording.reports), default=0)
    end_ns = max((report.log_time_ns for report in recording.reports), default=0)
    bins = min(TIME_BINS, max(len(recording.reports) // BIN_FRAMES, 1))
    width_ns = (end_ns - start_ns) // bins + 1
    frames = np.zeros(bins)
    counts: dict[str, NDArray[np.float64]] = {}
    for report in recording.reports:
        place = (report.log_time_ns - start_ns) // width_ns
        frames[place] += 1
        found = recording.found(report)
        for label in found.labels if found else ():
            counts.setdefault(label, np.zeros(bins))[place] += 1
    seconds = ((np.arange(bins) + 0.5) * width_ns / 1e9).round(4).tolist()
    figure = Figure()
    for label, count in sorted(counts.items(), key=lambda item: -item[1].sum()):
        figure.add_bar(
            x=seconds,
            width=width_ns / 1e9,
            y=[round(n / of, 2) if of else None for n, of in zip(count, frames, strict=True)],
            name=f"{escape(label)} ({int(count.sum())})",
            marker={"color": class_colour(label), "line": {"width": 0}},
            hovertemplate="%{y:.1f}",
        )
    figure.update_layout(barmode="stack", hovermode="x unified", showlegend=True)
    return styled(figure, "seconds since the first frame", "objects a frame", 300)


def worst_of_groups(reports: Sequence[ReportedFrame], most: int) -> list[ReportedFrame]:
    """At most `most` reports: the worst one of each group of neighbours."""
    group = -(-len(reports) // most) or 1
    groups = (reports[start : start + group] for start in range(0, len(reports), group))
    return [max(some, key=_badness) for some in groups]


def _badness(report: ReportedFrame) -> tuple[bool, float]:
    return report.status not in IN_TIME, latency_ms(report) or 0.0


def _seconds(times_ns: list[int]) -> list[float]:
    return [round((time_ns - times_ns[0]) / 1e9, 4) for time_ns in times_ns]


def _with_gaps(seconds: list[float]) -> list[tuple[float, int | None]]:
    """The times of frames with their indices, and times without a frame that bound the gaps."""
    steps_s = np.diff(seconds)
    usual_s = float(np.median(steps_s)) if len(steps_s) else 0.0
    places: list[tuple[float, int | None]] = []
    for i, at_s in enumerate(seconds):
        if i and 0 < GAP_INTERVALS * usual_s < steps_s[i - 1]:
            places += [(seconds[i - 1] + usual_s, None), (at_s - usual_s, None)]
        places.append((at_s, i))
    return places


def styled(figure: Figure, x_title: str, y_title: str, height_px: int) -> Figure:
    """Give a figure the common style and the titles of its axes."""
    axis = {"gridcolor": "#eceff4", "zeroline": False, "automargin": True}
    figure.update_xaxes(title={"text": x_title, "font": {"size": 12}}, **axis)
    figure.update_yaxes(title={"text": y_title, "font": {"size": 12}}, **axis)
    figure.update_layout(
        height=height_px,
        margin={"l": 8, "r": 12, "t": 24, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#343a46"},
        hoverlabel={"bgcolor": "#1d2433", "font": {"color": "#ffffff"}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        bargap=0.08,
    )
    return figure
