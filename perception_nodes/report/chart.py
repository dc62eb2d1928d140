"""A chart of a page: data and looks, which `assets/charts.js` draws with uPlot in the browser."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps

from perception_nodes.core.frame import FrameStatus, latency_ms
from perception_nodes.core.health import HealthMode
from perception_nodes.report.page import NO_RESULT
from perception_nodes.report.palette import HEALTH_COLOURS, STATUS_COLOURS, STATUS_SHAPES
from perception_nodes.report.recording import HealthChange, ReportedFrame

DEADLINE_COLOUR = "#e03131"
DISTANCE_S = 1e-6
Values = Sequence[float | None] | Sequence[float]
Texts = Mapping[float, str]
"""Texts of points, by their x."""


@dataclass
class Axis:
    """An axis of a chart.

    Attributes:
        title: quantity and unit.
        range: lowest and highest value; None for those of the data.
        top: highest value that has a tick; None for that of the range.
        rails: values beyond the top, and their names.
        log: whether the axis is logarithmic.
        percent: whether shares are shown in percent.
        is_drive: whether it is the time of a drive: a click shows the frame in the page's player.
    """

    title: str
    range: tuple[float, float] | None = None
    top: float | None = None
    rails: Sequence[tuple[float, str]] = ()
    log: bool = False
    percent: bool = False
    is_drive: bool = False


@dataclass
class Chart:
    """A chart; a template shows it as a part of a page.

    Attributes:
        x, y: the axes.
        height_px: height of the chart with its axes.
        tables: x and the values of some series, each as uPlot takes them.
        series: looks of the series, in the order of the tables.
        lines: lines across the chart.
        spans: shaded parts of the x axis.
    """

    x: Axis
    y: Axis
    height_px: int
    tables: list[list[Values]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)

    def add(self, x: Values, y: Values, name: str, colour: str, kind: str, **looks: Any) -> None:
        """Add a series.

        Args:
            x: ascending values, all of them different.
            y: None interrupts the series.
            name: name in the legend.
            colour: as `#rrggbb`.
            kind: `stack` for steps on top of the stack so far; `steps`, `line` or `points`.
            looks: `size` of lines and points in pixels, `dash`, `shape` of points, `texts` that the
                legend shows for points, and `labels` that are written at points; both are `Texts`.
        """
        if not self.tables or self.tables[-1][0] is not x:
            self.tables.append([x])
        self.tables[-1].append(y)
        for texts in looks.keys() & {"texts", "labels"}:
            looks[texts] = [*looks[texts].items()]
        self.series.append({"name": name, "colour": colour, "kind": kind, **looks})

    def line(self, text: str, colour: str = "", **at: float) -> None:
        """Draw a line across the chart at `x` or `y`; it is soft if it has no colour."""
        self.lines.append({"text": text, "colour": colour, **at})

    def deadline(self, deadline_ms: float, **at: float) -> None:
        """Draw the line of the deadline at `x` or `y`."""
        self.line(f"deadline {deadline_ms:g} ms", DEADLINE_COLOUR, **at)

    def span(self, begin: float, end: float, text: str) -> None:
        """Shade the chart between two values of x."""
        self.spans.append({"begin": begin, "end": end, "text": text})

    def __html__(self) -> str:
        data = htmlsafe_json_dumps(asdict(self), separators=(",", ":"))
        return f'<div class="chart"><script type="application/json">{data}</script></div>'


class LatencyAxis:
    """Places of latencies on an axis that shows every frame.

    Two rails lie beyond its top: one for slower frames, one for frames without a result.

    Attributes:
        top: the highest latency with a place of its own, in ms.
        slower, without: places of the two rails.
        end: end of the axis.
    """

    def __init__(self, top: float, distance: float = 0.1) -> None:
        """The rails are `distance` apart, as a share of `top`."""
        self.top = round(top, 3)
        self.slower, self.without, self.end = (
            round(top * (1 + place * distance), 3) for place in (0.9, 1.9, 2.6)
        )

    @property
    def rails(self) -> list[tuple[float, str]]:
        """The places of the rails, and their names."""
        return [(self.slower, f"> {self.top:.3g}"), (self.without, NO_RESULT)]

    def axis(self, title: str, begin: float = 0.0) -> Axis:
        """The axis of a chart; `begin` is its lowest value."""
        return Axis(title, (begin, self.end), self.top, self.rails)

    def place(self, latency: float | None) -> float:
        """The place of a latency in ms, or of a frame without a result, whose latency is None."""
        if latency is None:
            return self.without
        return self.slower if latency > self.top else round(latency, 3)

    def add_frames(
        self, chart: Chart, seconds: Sequence[float], reports: Sequence[ReportedFrame], size: int
    ) -> None:
        """Add a point for each frame in the colour of its status; slower ones have a label.

        Args:
            chart: the chart, whose y axis this is.
            seconds: x of the frames, all of them different.
            reports: the frames.
            size: size of the points in pixels.
        """
        for status in FrameStatus:
            found = [
                (at_s, latency_ms(report), report.reason)
                for at_s, report in zip(seconds, reports, strict=True)
                if report.status == status
            ]
            if found:
                chart.add(
                    [at_s for at_s, _, _ in found],
                    [self.place(latency) for _, latency, _ in found],
                    f"{status.name} ({len(found)})",
                    STATUS_COLOURS[status],
                    "points",
                    size=size,
                    shape="" if status == FrameStatus.OK else STATUS_SHAPES[status],
                    texts={at_s: reason for at_s, _, reason in found if reason},
                    labels={
                        at_s: f"{latency:.0f}"
                        for at_s, latency, _ in found
                        if latency is not None and latency > self.top
                    },
                )


def add_health(
    chart: Chart,
    changes: Sequence[HealthChange],
    start_ns: int,
    end_ns: int,
    place: Callable[[HealthMode], float],
) -> None:
    """Add a thick line for each health mode while it lasted; the legend shows the causes.

    Args:
        chart: the chart, whose x are seconds.
        changes: the changes of the mode.
        start_ns: log time of second 0.
        end_ns: log time at which the last mode ends.
        place: y of a mode.
    """
    times_s = [max(0.0, (one.log_time_ns - start_ns) / 1e9) for one in changes]
    spans = list(zip(changes, pairwise([*times_s, (end_ns - start_ns) / 1e9]), strict=True))
    for mode in HealthMode:
        x: list[float] = []
        y: list[float | None] = []
        causes: dict[float, str] = {}
        for change, (begin_s, end_s) in spans:
            if change.mode == mode and begin_s < end_s:
                x += [begin_s, end_s, end_s + DISTANCE_S]
                y += [place(mode), place(mode), None]
                causes |= dict.fromkeys((begin_s, end_s), change.cause)
        if x:
            chart.add(x, y, mode.name, HEALTH_COLOURS[mode], "line", size=8, texts=causes)


def seconds_of(times_ns: Sequence[int], start_ns: int) -> list[float]:
    """Ascending log times as different seconds since another one."""
    seconds = (np.array(times_ns, np.float64) - start_ns) / 1e9
    least = np.arange(len(seconds)) * DISTANCE_S
    apart: list[float] = (np.maximum.accumulate(seconds - least) + least).round(6).tolist()
    return apart
