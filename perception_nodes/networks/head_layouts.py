"""Layouts of a head: the shapes of its outputs as they are written in `heads.yaml`.

A layout is read as a pattern. It is compared with the shapes of a network, and the same pattern
then takes the outputs apart, in NumPy or in ONNX nodes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_nodes.networks.model import Shape

CHANNELS, ABSENT = "channels", "absent"
LEVEL = ("grid", "height", "width")
"""Axes of an output that each level has."""
MAX_OBJECTS = 1000
"""Largest number of outputs of a network that reports objects; one that reports cells has more."""
OPEN = ("classes", "points")
"""Parts whose width is not in the pattern."""
_GROUP = re.compile(r"(\d+)\(([^)]*)\)|(\S+)")
_PART = re.compile(r"([a-z]+)(\d*)")


class Arrays:
    """Takes arrays apart as `Writer` takes tensors of a graph apart."""

    def part(self, tensor: Any, axis: int, start: int, stop: int) -> Any:
        """See `Writer`."""
        return tensor.take(range(start, stop), axis)

    def shaped(self, tensor: Any, *shape: int) -> Any:
        """See `Writer`."""
        return tensor.reshape(shape)

    def turned(self, tensor: Any, perm: Sequence[int]) -> Any:
        """See `Writer`."""
        return tensor.transpose(perm)

    def joined(self, tensors: Sequence[Any], axis: int) -> Any:
        """See `Writer`."""
        return np.concatenate(tensors, axis)


@dataclass(frozen=True)
class Output:
    """The pattern of one output.

    Attributes:
        text: as it is written.
        axes: names or numbers of its axes, one of them `CHANNELS` or `ABSENT`.
        groups: the channels: how often, and the parts with their widths, 0 for one of `OPEN`.
    """

    text: str
    axes: tuple[str, ...]
    groups: tuple[tuple[int, tuple[tuple[str, int], ...]], ...]

    @property
    def each_level(self) -> bool:
        """Whether there is one such output for each level."""
        return any(axis in LEVEL for axis in self.axes)

    def fits(
        self, shape: Shape, sizes: Mapping[str, int], widths: Mapping[str, int]
    ) -> dict[str, int] | None:
        """Widths of the parts if a shape is of this pattern.

        Args:
            shape: of an output.
            sizes: of the named axes, such as `cells`.
            widths: of parts that are known already.
        """
        axes = self.there
        if len(axes) != len(shape):
            return None
        found = dict(widths)
        for axis, size in zip(axes, shape, strict=True):
            if axis == CHANNELS:
                parts = [(n, name) for n, some in self.groups for name, _ in some]
                unknown = sum(n for n, name in parts if name in OPEN and name not in found)
                rest = size - self.channels(found)
                if rest % unknown or rest <= 0 if unknown else rest:
                    return None
                if unknown:
                    found["classes"] = rest // unknown
            elif axis == "objects" and size > MAX_OBJECTS:
                return None
            elif axis not in ("objects", "any", str(size)) and size != sizes.get(axis):
                return None
        return found

    @property
    def there(self) -> list[str]:
        """The axes that the output's shape has."""
        return [axis for axis in self.axes if axis != ABSENT]

    def channels(self, widths: Mapping[str, int]) -> int:
        """Number of the channels, those of unknown width left out."""
        return sum(n * sum(widths.get(p, w) for p, w in parts) for n, parts in self.groups)

    def parts(
        self, to: Any, tensor: Any, widths: Mapping[str, int], anchors: int
    ) -> Iterator[tuple[str, Any]]:
        """The parts of an output by name, each [1, width, n], anchor by anchor."""
        if not self.groups:
            return
        axes, names = self.there, ["1", "3", CHANNELS]
        place = [names.index(axis) if axis in names else 9 for axis in axes]
        order = sorted(range(len(axes)), key=place.__getitem__)
        rows = anchors if "3" in axes else 1
        tensor = to.shaped(to.turned(tensor, order), 1, rows, self.channels(widths), -1)
        start = 0
        for times, parts in self.groups:
            width = sum(widths.get(name, width) for name, width in parts)
            group = to.part(tensor, 2, start, start + times * width)
            start += times * width
            if times > 1:
                group = to.shaped(group, 1, times, width, -1)
            first = 0
            for name, fixed in parts:
                size = widths.get(name, fixed)
                one = to.part(group, 2, first, first + size)
                first += size
                if max(times, rows) < anchors:
                    one = to.joined([one] * anchors, 1)
                yield name, to.shaped(to.turned(one, (0, 2, 1, 3)), 1, size, -1)


def read_output(text: str) -> Output:
    """The pattern that a text stands for."""
    axes, groups = [], list[tuple[int, tuple[tuple[str, int], ...]]]()
    for axis in text.split(", "):
        if axis.isdigit() or axis in (*LEVEL, "cells", "3cells", "objects", "any"):
            axes.append(axis)
            continue
        axes.append(ABSENT if axis.startswith("(") else CHANNELS)
        for times, inner, single in _GROUP.findall(axis.strip("()") if axis[0] == "(" else axis):
            parts = (_PART.fullmatch(part) for part in (inner or single).split())
            found = tuple((one[1], int(one[2] or 0)) for one in parts if one)
            groups.append((int(times or 1), found))
    return Output(text, tuple(axes), tuple(groups))


def assignments(
    wanted: Sequence[tuple[Output, Mapping[str, int]]],
    shapes: Mapping[str, Shape],
    widths: Mapping[str, int],
) -> Iterator[tuple[list[str], dict[str, int]]]:
    """Which output each pattern may be, in all ways, with the widths of the parts.

    Args:
        wanted: patterns, each with the sizes of its axes.
        shapes: of the outputs that are left, by name.
        widths: of parts that are known.
    """
    if not wanted:
        yield [], dict(widths)
        return
    (output, sizes), *others = wanted
    for name, shape in shapes.items():
        if (found := output.fits(shape, sizes, widths)) is not None:
            rest = {other: one for other, one in shapes.items() if other != name}
            for names, all_widths in assignments(others, rest, found):
                yield [name, *names], all_widths
