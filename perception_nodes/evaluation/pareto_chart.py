"""The picture of a comparison: latency against accuracy, each model with its parent, as SVG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from perception_nodes.evaluation.pareto import Point, front_of
from perception_nodes.report.static_chart import SOFT, drawing, saved

WIDTH_IN, HEIGHT_IN, SVG_DPI = 10.0, 5.4, 72
COLOURS = {"int8": "#4263eb", "fp32": "#e8590c"}
OTHER_COLOUR, FRONT_COLOUR = "#868e96", "#1f9d55"
"""All colours are readable on white and on black."""
DOT_PX = 11
OFFSETS = [(0, dy) for distance in range(13, 99, 12) for dy in (distance, -distance)]
"""Candidate offsets of a name in points: above and below its dot, the nearest first."""


def pareto_svg(points: Sequence[Point], data: str, subtitle: str) -> str:
    """Draw the picture, without a background.

    Args:
        points: the models, at least one.
        data: the dataset's name.
        subtitle: machine and settings.
    """
    with drawing(WIDTH_IN, HEIGHT_IN, SVG_DPI) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot(xscale="log")
        axes.set(xlabel=f"median latency, ms ({subtitle})", ylabel=f"mAP50-95 on {data}")
        for precision in dict.fromkeys(point.precision for point in points):
            x, y = np.transpose([point.place for point in points if point.precision == precision])
            colour = COLOURS.get(precision, OTHER_COLOUR)
            axes.scatter(x, y, DOT_PX**2, colour, label=precision, zorder=3)
        front = np.transpose([point.place for point in front_of(points)])
        axes.step(*front, FRONT_COLOUR, where="post", ls="--", lw=2, label="Pareto front")
        axes.plot([], [], SOFT, marker=">", label="parent to child")
        axes.legend(labelcolor=SOFT, ncols=5, loc="lower right", bbox_to_anchor=(1, 1))
        axes.margins(0.1)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(color=SOFT, alpha=0.3)
        axes.spines[:].set_visible(False)
        figure.draw_without_rendering()  # lays the axes out, which the places of names depend on
        _name(axes, points)
        svg = saved(figure, "svg", metadata={"Date": None}, transparent=True).decode()
    return svg[svg.index("<svg") :]


def _name(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name where no dot or other name is, and draw the arrow from its parent."""
    places = {point.name: point.place for point in points}
    taken = [
        Bbox.from_bounds(x - DOT_PX / 2, y - DOT_PX / 2, DOT_PX, DOT_PX)
        for x, y in axes.transData.transform(list(places.values()))
    ]
    arrow = {"arrowstyle": "-|>", "color": SOFT, "shrinkA": 8, "shrinkB": 8}
    style: dict[str, Any] = {"color": SOFT, "weight": "bold", "ha": "center", "va": "center"}
    for point in points:
        if point.parent in places:
            axes.annotate("", point.place, places[point.parent], arrowprops=arrow)
        text = axes.annotate(point.name, point.place, (0, 0), textcoords="offset points", **style)
        for text.xyann in OFFSETS:
            if not text.get_window_extent().count_overlaps(taken):
                break
        taken.append(text.get_window_extent())
