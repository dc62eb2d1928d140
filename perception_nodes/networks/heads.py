"""Which head a network has: by the shapes of its outputs, its operators, answer and metadata."""

import importlib.resources
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, cached_property
from itertools import islice, product
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.networks.class_names import COCO_NAMES, COCO_NUMBERS, python_value
from perception_nodes.networks.exported import STRIDES, ExportedNetwork, Normalisation
from perception_nodes.networks.head_layouts import Arrays, Output, assignments, read_output
from perception_nodes.networks.model import ModelError

THEIR_NAMES = re.compile(r"(^|/)model\.\d+[./]")
"""Names of layers and weights in YOLOv5 and all that grew out of it: `model.0.conv.weight`."""
OF_ULTRALYTICS = "AGPL-3.0"
POINTS = 51
"""Numbers of a pose, unless the metadata says another one: 17 points of x, y and visibility."""
MOSTLY = 0.9
MOST_WAYS = 4
"""Outputs of equal shape may stand for each other; so many ways are looked at."""


Head = SimpleNamespace
"""One kind of output, with the keys that `heads.yaml` describes."""


@dataclass(frozen=True)
class FoundHead:
    """A head as a network has it.

    Attributes:
        head: the kind.
        exported: the network.
        strides: of its levels.
        tensors: pattern and name of each output, level by level.
        widths: of parts whose width is the network's.
    """

    head: Head
    exported: ExportedNetwork
    strides: Sequence[int]
    tensors: list[tuple[Output, str]]
    widths: Mapping[str, int]

    @property
    def name(self) -> str:
        """Value of `--head`."""
        return str(self.head.name)

    @property
    def numbered(self) -> bool:
        """Whether it gives an object the number of its class, and not a score of each class."""
        return "classes" not in self.widths

    @property
    def scored(self) -> int:
        """Number of scores of a cell, one of which may be for no object."""
        return self.widths["classes"]

    @property
    def classes(self) -> int:
        """Number of its classes; 0 if it leaves that open."""
        if self.numbered:
            return 0
        return len(COCO_NUMBERS) if self.in_91 else self.scored - bool(self.head.nothing)

    @property
    def in_91(self) -> bool:
        """Whether the classes are COCO's by the numbers of 2014, some of which no class has."""
        return not self.numbered and self.scored - (self.head.nothing == "last") == 91

    def numbers(self, named: int) -> Sequence[int]:
        """The numbers that an object's class may have, if so many classes have a name."""
        if self.head.first and named == len(COCO_NUMBERS):
            return COCO_NUMBERS
        return range(self.head.first, self.head.first + named)

    @property
    def normalisation(self) -> Normalisation:
        """What the network expects of its pixels; RF-DETR calls its boxes dets."""
        is_rf = self.name == "detr-queries" and "dets" in self.exported.outputs
        pixels: Normalisation = (_heads()["detr-softmax"] if is_rf else self.head).pixels
        return pixels

    def parts(self, to: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The parts of the outputs by name, each [1, width, n], all levels behind each other."""
        found: dict[str, list[Any]] = {}
        for output, name in self.tensors:
            anchors = len(self.head.anchors[0])
            for part, tensor in output.parts(to, tensors[name], self.widths, anchors):
                found.setdefault(part, []).append(tensor)
        return {part: one[0] if len(one) == 1 else to.joined(one, 2) for part, one in found.items()}

    @cached_property
    def answer(self) -> dict[str, NDArray[Any]]:
        """The parts of its answer to a picture of noise."""
        return self.parts(Arrays(), self.exported.answer)

    @cached_property
    def in_shares(self) -> bool:
        """Whether boxes are shares of the picture; some networks have a few larger ones."""
        boxes = self.answer["box"]
        boxes = boxes[..., np.abs(boxes).max(axis=(0, 1)) > 0]
        return bool(boxes.size and np.median(np.abs(boxes)) <= 1)

    @property
    def adds_up(self) -> bool:
        """Whether the scores of an object add up to 1."""
        return bool(np.allclose(self.answer["classes"].sum(axis=1), 1, atol=0.01))

    def places(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Column and row of each cell, [n, 2], its stride, [n], and its anchor's size, [n, 2]."""
        levels = [(*cells_of(self.exported, [one]), n) for n, one in enumerate(self.strides)]
        anchors = self.head.anchors
        order = list(product(levels, range(len(anchors[0]))))
        if not self.tensors[0][0].each_level:  # then all cells come once for each anchor
            order.sort(key=lambda pair: pair[1])
        sizes = [np.tile(anchors[n % len(anchors)][a], (len(s), 1)) for (_, s, n), a in order]
        corners, strides, _ = zip(*(level for level, _ in order), strict=True)
        return np.concatenate(corners), np.concatenate(strides), np.concatenate(sizes)


def _ordered(found: FoundHead) -> bool:
    x1, y1, x2, y2 = found.answer["box"][0]
    return bool(((x2 < x1) | (y2 < y1)).sum() <= (1 - MOSTLY) * x1.size)


def _probable(found: FoundHead) -> bool:
    scores = found.answer["classes"]
    return bool(scores.min() >= 0 and scores.max() <= 1)


def _mostly_nothing(found: FoundHead, place: int) -> bool:
    """Whether one class stands for no object: it is the best almost everywhere."""
    scores = found.answer["classes"]
    best = scores.argmax(axis=1) == place % found.scored
    return found.scored > 1 and bool((best & (scores[:, place] > 0)).mean() > MOSTLY)


CONDITIONS: dict[str, Callable[[FoundHead], bool]] = {
    "Exp or no slices": lambda it: "Exp" in it.exported.operators or not it.exported.sliced,
    "no Exp": lambda it: "Exp" not in it.exported.operators,
    "no slices": lambda it: not it.exported.sliced,
    "whole numbers": lambda it: bool((it.answer["number"] % 1 == 0).all()),
    "no whole numbers": lambda it: it.scored != 2 or bool((it.answer["classes"][:, 1] % 1).any()),
    "shares": lambda it: it.in_shares,
    "pixels": lambda it: not it.in_shares,
    "corners": _ordered,
    "no corners": lambda it: not _ordered(it),
    "sizes": lambda it: bool((it.answer["box"][:, 2:] > 0).mean() > MOSTLY),
    "probabilities": _probable,
    "logits": lambda it: not _probable(it),
    "no softmax": lambda it: not (_probable(it) and it.adds_up),
    "nothing first": lambda it: _mostly_nothing(it, 0),
    "nothing last": lambda it: _mostly_nothing(it, -1),
    "no nothing": lambda it: not _mostly_nothing(it, -1),
    "no cells": lambda it: not {*it.exported.outputs[it.tensors[0][1]]} & _cells(it.exported),
}
"""By name: what a network must show in its answer to noise, or in its operators."""


@cache
def _heads() -> dict[str, Head]:
    """All heads by name."""
    file = importlib.resources.files("perception_nodes.networks") / "heads.yaml"
    said = parse_yaml(file.read_text(encoding="utf-8"))
    pixels = {name: Normalisation(**one) for name, one in said["pixels"].items()}
    heads = {}
    for name, own in said["heads"].items():
        one = Head(**said["defaults"] | own, name=name)
        one.layouts = [list(map(read_output, layout)) for layout in one.layouts]
        one.pixels = pixels[one.pixels]
        heads[name] = one
    return heads


def is_of_ultralytics(exported: ExportedNetwork) -> bool:
    """Whether Ultralytics exported it; its networks all expect the same of their pixels."""
    return exported.facts.get("author", "").lower() == "ultralytics"


def probable_license(found: FoundHead) -> tuple[str, str]:
    """The licence that author, head or graph hint at, and what does so; empty if nothing does."""
    facts, head = found.exported.facts, found.head
    if "ultralytics" in (facts.get("author", "") + facts.get("description", "")).lower():
        return OF_ULTRALYTICS, "its metadata is of Ultralytics"
    if head.license:
        return head.license, f"its head is that of {head.title}"
    name = next((name for name in found.exported.names if THEIR_NAMES.search(name)), "")
    return (OF_ULTRALYTICS, f"its layers have names of Ultralytics ({name})") if name else ("", "")


def recognise(exported: ExportedNetwork, wanted: str = "", classes: int | None = None) -> FoundHead:
    """The head of a network.

    Args:
        exported: the network.
        wanted: its name, if the user gave one.
        classes: number of its class names, if they are known; it decides if several heads fit.

    Raises:
        ModelError: none fits, or several do and the user must say which.
    """
    said = ", ".join(f"{name} {list(shape)}" for name, shape in exported.outputs.items())
    sized = f"{said} at {exported.width}x{exported.height}"
    heads = _heads()
    if wanted and wanted not in heads:
        raise ModelError(f"--head {wanted} is unknown; known are {', '.join(heads)}")
    shaped = [one for head in heads.values() for one in _in_shape(exported, head)]
    faults = [(one, _fault(one, wanted)) for one in shaped]
    fitting = [one for one, fault in faults if not fault]
    others = ", ".join(dict.fromkeys(one.name for one in fitting)) or "none"
    asked = [one for one in fitting if one.name == wanted]
    fitting = asked if wanted else _likely(fitting, exported, classes)
    if not fitting:
        what = f"not the head {wanted}" if wanted else "no head of a detector that is known here"
        near = [heads[wanted]] if wanted else list(heads.values())
        what = f"{what}; {_difference(exported, near, faults)}; fitting are: {others}"
        raise ModelError(f"{exported.path} has the outputs {sized}, which is {what}")
    if len({one.name for one in fitting}) > 1:
        names = ", ".join(f"{one.name} ({one.head.title})" for one in fitting)
        may = f"the outputs {said}, which may be {names}"
        raise ModelError(f"{exported.path} has {may}: say which with --head")
    return fitting[0]


def _likely(
    fitting: list[FoundHead], exported: ExportedNetwork, classes: int | None
) -> list[FoundHead]:
    """Those of fitting heads that author, task and number of classes leave."""
    by_author = is_of_ultralytics(exported)
    found = [one for one in fitting if one.head.ultralytics or not by_author]
    if classes is not None:  # a head that leaves the number of classes open fits any
        found = [one for one in found if one.classes in (0, classes)] or found
    task = exported.facts.get("task")
    sure = [one for one in found if by_author or task == one.head.task or one.classes == classes]
    found = [one for one in found if one in sure or not one.head.asked]
    if len(found) > 1 and classes is None:  # a network that names no classes has those of COCO
        found = [one for one in found if one.classes in (0, len(COCO_NAMES))] or found
    return found


def _fault(found: FoundHead, wanted: str) -> str:
    """What a network lacks whose outputs have the shapes of a head; empty if it has the head."""
    head, task = found.head, found.exported.facts.get("task")
    if head.only_asked and wanted != head.name and task != head.task:
        return f"it has to be asked for (--head {head.name})"
    if task and head.task not in (task, "any") and head.name != wanted:
        return f"its metadata says {task}"
    lacking = next((need for need in head.needs if not CONDITIONS[need](found)), "")
    return lacking and f"it lacks {lacking!r}"


def _in_shape(exported: ExportedNetwork, head: Head) -> Iterator[FoundHead]:
    """A head as the shapes of a network's outputs allow it, in all ways of the first layout."""
    points = python_value(exported.facts.get("kpt_shape", ""))
    widths = {"points": prod(points) if isinstance(points, list | tuple) else POINTS}
    shapes = exported.outputs
    rare = head.rare if exported.facts else ()
    if head.named and {*head.named} != {*shapes}:
        return
    if head.named:
        shapes = {name: shapes[name] for name in head.named}
    for strides, layout in product((*head.strides, *rare), head.layouts):
        wanted = [(one, _sizes(exported, some)) for one, some in _levels(layout, strides)]
        fits = assignments(wanted, shapes, widths) if len(wanted) == len(shapes) else iter(())
        outputs = [one for one, _ in wanted]
        found = [
            FoundHead(head, exported, strides, list(zip(outputs, names, strict=True)), all_widths)
            for names, all_widths in islice(fits, MOST_WAYS)
        ]
        if found:
            yield from found
            return


def _cells(exported: ExportedNetwork) -> set[int]:
    """How many cells networks with anchors or without have."""
    counts = [exported.cells(*some) for some in (STRIDES, (*STRIDES, 64))]
    return {anchors * count for anchors in (1, 3) for count in counts}


def _sizes(exported: ExportedNetwork, strides: Sequence[int]) -> dict[str, int]:
    """Sizes of named axes; height, width and grid are those of one level."""
    cells, stride = exported.cells(*strides), strides[0]
    height, width = -(-exported.height // stride), -(-exported.width // stride)
    sizes = {"cells": cells, "3cells": 3 * cells}
    return sizes | {"grid": height * width, "height": height, "width": width}


def _difference(
    exported: ExportedNetwork, heads: list[Head], faults: list[tuple[FoundHead, str]]
) -> str:
    """The nearest of some heads, and what differs from it."""
    for found, fault in faults:
        if found.head in heads and fault:
            return f"the nearest is {found.name} ({found.head.title}), but {fault}"
    said = str(sorted(map(str, exported.outputs.values())))
    texts = [
        (head, _written(exported, layout, strides))
        for head in heads
        for strides, layout in product(head.strides, head.layouts)
    ]
    head, text = max(texts, key=lambda one: SequenceMatcher(None, said, one[1]).ratio())
    return f"the nearest is {head.name} ({head.title}), which has {text}"


def _written(exported: ExportedNetwork, layout: Sequence[Output], strides: Sequence[int]) -> str:
    """A layout's outputs, with the numbers that their axes have at this size."""
    texts = []
    for output, some in _levels(layout, strides):
        sizes = _sizes(exported, some)
        axes = (str(sizes.get(axis, axis)) for axis in output.text.split(", ") if axis[0] != "(")
        texts.append(f"({', '.join(axes)})")
    return ", ".join(texts)


def _levels(
    layout: Sequence[Output], strides: Sequence[int]
) -> Iterator[tuple[Output, tuple[int, ...]]]:
    """The outputs of a layout, those of each level one by one, with the strides they are of."""
    for output in layout:
        each = [(one,) for one in strides] if output.each_level else [tuple(strides)]
        yield from ((output, some) for some in each)


def cells_of(
    exported: ExportedNetwork, strides: Sequence[int] | list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column and row of each cell, [n, 2], and its stride, [n]."""
    corners, of = [], []
    for stride in strides:
        columns, rows = -(-exported.width // stride), -(-exported.height // stride)
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        corners.append(np.stack([x.ravel(), y.ravel()], axis=1))
        of.append(np.full(columns * rows, stride))
    return np.concatenate(corners).astype(np.float64), np.concatenate(of).astype(np.float64)
