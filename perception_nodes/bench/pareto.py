"""The picture of a comparison: latency against accuracy, each model beside its parent, as SVG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

WIDTH, HEIGHT = 900, 480
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 28, 56
LETTER_PX, LINE_PX = 7.8, 16
STEPS_OF_A_LINE = 80
COLOURS = {"int8": "#4263eb", "fp32": "#e8590c"}
OTHER_COLOUR = "#868e96"
LIGHT = "--ink:#1d2433;--soft:#667085;--line:#e4e7ee;--front:#1f9d55;--halo:#ffffff"
DARK = "--ink:#e6edf3;--soft:#9aa4b2;--line:#30363d;--front:#3fb950;--halo:#0d1117"

Box = tuple[float, float, float, float]
Line = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Point:
    """A model in the picture.

    Attributes:
        name: its name.
        parent: its parent's name, if it has one.
        precision: of its arithmetic, which gives the colour.
        latency_ms: median.
        accuracy: mAP50-95.
    """

    name: str
    parent: str | None
    precision: str
    latency_ms: float
    accuracy: float


def common_set(models: Sequence[dict[str, Any]]) -> str | None:
    """The first dataset that most of the models were measured on; None if there is none."""
    names = list(dict.fromkeys(name for model in models for name in model["map50_95"]))
    return max(names, key=lambda n: sum(n in m["map50_95"] for m in models), default=None)


def points_of(models: Sequence[dict[str, Any]], data: str) -> list[Point]:
    """The models that were measured on a dataset."""
    return [
        Point(
            model["name"],
            model["parent"],
            model["precision"],
            model["latency_ms"]["p50"],
            model["map50_95"][data],
        )
        for model in models
        if data in model["map50_95"]
    ]


def pareto_svg(points: Sequence[Point], data: str, subtitle: str, follows_theme: bool) -> str:
    """Draw the picture.

    Args:
        points: the models, at least one.
        data: the dataset's name.
        subtitle: machine and settings.
        follows_theme: dark where the reader's browser is; a page that is light itself wants False.
    """
    frame = _Frame(points)
    theme = f"svg{{{LIGHT}}}"
    if follows_theme:
        theme += f"@media(prefers-color-scheme:dark){{svg{{{DARK}}}}}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Latency against mAP50-95 on {escape(data)}" '
        'font-family="system-ui,-apple-system,Segoe UI,Roboto,sans-serif" font-size="13">',
        f"<style>{theme}"
        "text{fill:var(--ink)}.soft{fill:var(--soft)}.grid{stroke:var(--line)}"
        ".name{font-weight:600;paint-order:stroke;stroke:var(--halo);stroke-width:4px}"
        ".kin{stroke:var(--soft);stroke-width:1.2}"
        ".front{stroke:var(--front);stroke-width:2;stroke-dasharray:6 5;fill:none}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" style="fill:var(--soft)"/>'
        "</marker></defs>",
        *frame.axes(data, subtitle),
        *_front(points, frame),
        *_kinship(points, frame),
        *_dots(points, frame),
        *_names(points, frame),
        *_legend(points),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Frame:
    """Where milliseconds and accuracies are on the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._x_ticks = _ticks(0, max(p.latency_ms for p in points) * 1.12, 8)
        values = [p.accuracy for p in points]
        margin = max((max(values) - min(values)) * 0.2, 0.01)
        self._y_ticks = _ticks(max(0, min(values) - margin), min(1, max(values) + margin), 6)

    def place(self, point: Point) -> tuple[float, float]:
        return self._x(point.latency_ms), self._y(point.accuracy)

    def axes(self, data: str, subtitle: str) -> Iterator[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for value in self._x_ticks:
            x = self._x(value)
            yield f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>'
            yield (
                f'<text class="soft" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">'
                f"{value:g}</text>"
            )
        for value in self._y_ticks:
            y = self._y(value)
            yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
            yield (
                f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                f"{value:g}</text>"
            )
        yield (
            f'<text class="soft" x="{right}" y="{HEIGHT - 14}" text-anchor="end">'
            f"median latency, ms ({escape(subtitle)})</text>"
        )
        yield f'<text class="soft" x="{LEFT}" y="{TOP - 12}">mAP50-95 on {escape(data)}</text>'

    def _x(self, value: float) -> float:
        first, last = self._x_ticks[0], self._x_ticks[-1]
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        first, last = self._y_ticks[0], self._y_ticks[-1]
        return HEIGHT - BOTTOM - (value - first) / (last - first) * (HEIGHT - BOTTOM - TOP)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers that enclose a range."""
    raw = (high - low) / wanted
    power = 10 ** np.floor(np.log10(raw))
    step = float(next(s for s in (1, 2, 2.5, 5, 10) if s * power >= raw) * power)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [round(step * i, 10) for i in range(first, last + 1)]


def front_of(points: Sequence[Point]) -> list[Point]:
    """Models that no other beats in both, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def _front_corners(points: Sequence[Point], frame: _Frame) -> list[tuple[float, float]]:
    """The edge of what is possible: an accuracy is to be had from the next faster model's time."""
    corners: list[tuple[float, float]] = []
    for x, y in map(frame.place, front_of(points)):
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def _front(points: Sequence[Point], frame: _Frame) -> Iterator[str]:
    corners = _front_corners(points, frame)
    if len(corners) > 1:
        yield f'<path class="front" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}"/>'


def _lines(points: Sequence[Point], frame: _Frame) -> Iterator[Line]:
    """From each parent to its child, between the edges of their dots."""
    by_name = {point.name: point for point in points}
    for point in points:
        parent = by_name.get(point.parent or "")
        if parent is None:
            continue
        (x1, y1), (x2, y2) = frame.place(parent), frame.place(point)
        length = float(np.hypot(x2 - x1, y2 - y1))
        if length > 24:
            x, y = (x2 - x1) / length * 9, (y2 - y1) / length * 9
            yield (x1 + x, y1 + y), (x2 - x, y2 - y)


def _kinship(points: Sequence[Point], frame: _Frame) -> Iterator[str]:
    for (x1, y1), (x2, y2) in _lines(points, frame):
        yield (
            f'<path class="kin" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" marker-end="url(#tip)"/>'
        )


def _dots(points: Sequence[Point], frame: _Frame) -> Iterator[str]:
    for point in points:
        x, y = frame.place(point)
        colour = COLOURS.get(point.precision, OTHER_COLOUR)
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}">'
            f"<title>{escape(point.name)}: {point.latency_ms:.2f} ms, "
            f"mAP50-95 {point.accuracy:.4f}</title></circle>"
        )


def _names(points: Sequence[Point], frame: _Frame) -> Iterator[str]:
    """Names beside their dots, each at the first place around that is free of dots and lines."""
    taken: list[Box] = []
    for point in points:
        x, y = frame.place(point)
        taken.append((x - 8, y - 8, x + 8, y + 8))
    corners = _front_corners(points, frame)
    for start, end in [*_lines(points, frame), *pairwise(corners)]:
        for x, y in np.linspace(start, end, STEPS_OF_A_LINE).tolist():
            taken.append((x - 1, y - 1, x + 1, y + 1))
    for point in points:
        x, y = frame.place(point)
        width = LETTER_PX * len(point.name)
        places = [
            (x + dx if dx > 0 else x + dx - width if dx < 0 else x - width / 2, y + dy)
            for dy in (4, -10, 20, -26, 36, -42, 52)
            for dx in (12, -12, 0)
            if dx or abs(dy - 4) > 12
        ]
        boxes = [(left, base - LINE_PX + 4, left + width, base + 4) for left, base in places]
        free = next((box for box in boxes if _is_free(box, taken)), boxes[0])
        taken.append(free)
        place = f'x="{free[0]:.1f}" y="{free[3] - 4:.1f}"'
        yield f'<text class="name" {place}>{escape(point.name)}</text>'


def _is_free(box: Box, taken: Sequence[Box]) -> bool:
    left, top, right, bottom = box
    if left < LEFT or right > WIDTH - 4 or top < TOP or bottom > HEIGHT - BOTTOM:
        return False
    return all(
        right < other[0] or left > other[2] or bottom < other[1] or top > other[3]
        for other in taken
    )


def _legend(points: Sequence[Point]) -> Iterator[str]:
    entries = [
        (f'<circle cx="6" cy="-4" r="5" fill="{COLOURS.get(name, OTHER_COLOUR)}"/>', name)
        for name in dict.fromkeys(point.precision for point in points)
    ]
    entries.append(('<path class="kin" d="M0 -4H18" marker-end="url(#tip)"/>', "parent to child"))
    entries.append(('<path class="front" d="M0 -4H18"/>', "Pareto front"))
    x = float(WIDTH - RIGHT)
    for symbol, name in reversed(entries):
        x -= 24 + LETTER_PX * len(name) + 14
        yield (
            f'<g transform="translate({x:.1f} {TOP - 12})">{symbol}'
            f'<text class="soft" x="24">{escape(name)}</text></g>'
        )
