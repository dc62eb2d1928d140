"""The picture of a comparison: latency against accuracy, each model with its parent, as SVG."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from perception_nodes.evaluation.pareto import Point, front_of
from perception_nodes.report.static_chart import INK, LINE, SOFT, drawing, saved

WIDTH_IN, HEIGHT_IN = 10.0, 5.4
SVG_DPI = 72
COLOURS = {"int8": "#4263eb", "fp32": "#e8590c"}
OTHER_COLOUR = "#868e96"
FRONT, HALO = "#1f9d55", "#ffffff"
DARK = {INK: "#e6edf3", SOFT: "#9aa4b2", LINE: "#30363d", FRONT: "#3fb950", HALO: "#161b22"}
"""The colours in a dark browser."""
STEPS_OF_A_LINE = 80
OFFSETS = [(dx, dy) for dy in (0, 14, -14, 28, -28, 42, -42) for dx in (11, -11, 0) if dx or dy]
"""Candidate label offsets in points, preferred first."""
Place = tuple[float, float]
"""Latency and accuracy."""


def pareto_svg(points: Sequence[Point], data: str, subtitle: str) -> str:
    """Draw the picture, which is light or dark as the reader's browser is.

    Args:
        points: the models, at least one.
        data: the dataset's name.
        subtitle: machine and settings.
    """
    with drawing(WIDTH_IN, HEIGHT_IN, SVG_DPI) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        axes.set(xlabel=f"median latency, ms ({subtitle})", ylabel=f"mAP50-95 on {data}")
        axes.set_xlim(0, 1.12 * max(point.latency_ms for point in points))
        accuracies = [point.accuracy for point in points]
        margin = max(0.2 * (max(accuracies) - min(accuracies)), 0.01)
        axes.set_ylim(max(0, min(accuracies) - margin), min(1, max(accuracies) + margin))
        _draw(axes, points)
        figure.draw_without_rendering()  # lays the axes out, which the places of names depend on
        _name(axes, points)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        svg = saved(figure, "svg", metadata=nothing, transparent=True).decode()
    return _with_theme(svg[svg.index("<svg") :])


def _draw(axes: Axes, points: Sequence[Point]) -> None:
    for precision in dict.fromkeys(point.precision for point in points):
        x, y = np.transpose([point.place for point in points if point.precision == precision])
        colour = COLOURS.get(precision, OTHER_COLOUR)
        axes.scatter(x, y, s=110, color=colour, label=precision, zorder=3)
    for start, end in _kinship(points):
        arrow = {"arrowstyle": "-|>", "color": SOFT, "shrinkA": 8, "shrinkB": 8}
        axes.annotate("", end, start, arrowprops=arrow)
    axes.plot(*np.transpose(_front_path(points)), color=FRONT, ls="--", lw=2, label="Pareto front")
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color=SOFT, marker=">"))
    axes.legend(handles, [*labels, "parent to child"], ncols=len(handles), loc="lower right",
                bbox_to_anchor=(1, 1))  # fmt: skip


def _front_path(points: Sequence[Point]) -> list[Place]:
    """The corners of the front: an accuracy is available from the latency of the next model on."""
    front = [point.place for point in front_of(points)]
    path = front[:1]
    for faster, slower in pairwise(front):
        path += [(slower[0], faster[1]), slower]
    return path


def _kinship(points: Sequence[Point]) -> Iterator[tuple[Place, Place]]:
    """The places of each parent and its child."""
    by_name = {point.name: point for point in points}
    for point in points:
        parent = by_name.get(point.parent or "")
        if parent is not None and parent.place != point.place:
            yield parent.place, point.place


def _name(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name beside its dot, at the first place without dots, lines and other names."""

    def pixels(places: Sequence[Place]) -> NDArray[np.float64]:
        return np.asarray(axes.transData.transform(places))

    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in pixels([p.place for p in points])]
    for start, end in map(pixels, [*_kinship(points), *pairwise(_front_path(points))]):
        for x, y in np.linspace(start, end, STEPS_OF_A_LINE):
            taken.append(Bbox.from_bounds(x - 1, y - 1, 2, 2))
    for point in points:
        text = axes.annotate(
            point.name, point.place, OFFSETS[0], textcoords="offset points", weight="bold",
            va="center", bbox={"facecolor": HALO, "alpha": 0.75, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        # If no place is free, the name goes to the first one.
        for dx, dy in [*OFFSETS, OFFSETS[0]]:
            text.xyann = (dx, dy)
            text.set_horizontalalignment("left" if dx > 0 else "right" if dx else "center")
            box = text.get_window_extent()
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not box.count_overlaps(taken):
                break
        taken.append(box)


def _with_theme(svg: str) -> str:
    """Replace the colours by variables, which follow the reader's browser."""
    names = {colour: f"--c{index}" for index, colour in enumerate(DARK)}
    for colour, name in names.items():
        svg = svg.replace(f": {colour}", f": var({name})")
    light = ";".join(f"{name}:{colour}" for colour, name in names.items())
    dark = ";".join(f"{name}:{DARK[colour]}" for colour, name in names.items())
    theme = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, end, rest = svg.partition(">")
    return head + end + theme + rest
