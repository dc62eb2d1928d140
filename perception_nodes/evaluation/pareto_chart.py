"""The picture of a comparison: latency against accuracy, each model with its parent, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from perception_nodes.evaluation.pareto import Places, front_of, places_of
from perception_nodes.report.static_chart import SOFT, drawing, saved

WIDTH_IN, HEIGHT_IN, SVG_DPI = 10.0, 5.4, 72
COLOURS = {"int8": "#4263eb", "fp32": "#e8590c"}
OTHER_COLOUR, FRONT_COLOUR = "#868e96", "#1f9d55"
"""All colours are readable on white and on black."""
DOT_PX = 11
OFFSETS = [(0, dy) for distance in range(13, 99, 12) for dy in (distance, -distance)]
"""Candidate offsets of a name in points: above and below its dot, the nearest first."""


def pareto_svg(models: Sequence[dict[str, Any]], data: str, subtitle: str) -> str:
    """Draw the picture, without a background.

    Args:
        models: as in the result of `ModelsBench.run`; at least one was measured on the dataset.
        data: the dataset's name.
        subtitle: machine and settings.
    """
    places = places_of(models, data)
    models = [model for model in models if model["name"] in places]
    with drawing(WIDTH_IN, HEIGHT_IN, SVG_DPI) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot(xscale="log")
        axes.set(xlabel=f"median latency, ms ({subtitle})", ylabel=f"mAP50-95 on {data}")
        for precision in dict.fromkeys(model["precision"] for model in models):
            names = [model["name"] for model in models if model["precision"] == precision]
            x, y = np.transpose([places[name] for name in names])
            colour = COLOURS.get(precision, OTHER_COLOUR)
            axes.scatter(x, y, DOT_PX**2, colour, label=precision, zorder=3)
        front = np.transpose([places[name] for name in front_of(places)])
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
        _name(axes, places, {model["name"]: model["parent"] for model in models})
        svg = saved(figure, "svg", metadata={"Date": None}, transparent=True).decode()
    return svg[svg.index("<svg") :]


def _name(axes: Axes, places: Places, parents: Mapping[str, Any]) -> None:
    """Write each name where no dot or other name is, and draw the arrow from its parent."""
    taken = [
        Bbox.from_bounds(x - DOT_PX / 2, y - DOT_PX / 2, DOT_PX, DOT_PX)
        for x, y in axes.transData.transform(list(places.values()))
    ]
    arrow = {"arrowstyle": "-|>", "color": SOFT, "shrinkA": 8, "shrinkB": 8}
    style: dict[str, Any] = {"color": SOFT, "weight": "bold", "ha": "center", "va": "center"}
    for name, place in places.items():
        if (parent := parents[name]) in places:
            axes.annotate("", place, places[parent], arrowprops=arrow)
        text = axes.annotate(name, place, (0, 0), textcoords="offset points", **style)
        for text.xyann in OFFSETS:
            if not text.get_window_extent().count_overlaps(taken):
                break
        taken.append(text.get_window_extent())
