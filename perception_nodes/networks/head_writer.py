"""Writes what a head's outputs mean: corners in input pixels, and class probabilities.

The written ONNX nodes stand behind the network's outputs. They compute what `CellsDecoder` reads:
corners of boxes, float32 [1, 4, n], and probabilities, float32 [1, c, n]. The run time does not
know where a network comes from.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from perception_nodes.networks.class_names import COCO_NUMBERS
from perception_nodes.networks.graph_writer import Writer
from perception_nodes.networks.heads import FoundHead

Parts = dict[str, str]


def write_head(found: FoundHead, classes: int, to: Writer) -> tuple[str, str]:
    """Write the nodes, and name the tensors of corners and of probabilities.

    Args:
        found: the head; its network's outputs have their names.
        classes: number of classes, for a head that leaves it open.
        to: what writes.
    """
    exported = found.exported
    tensors = {name: name for name in exported.outputs}
    for name, axis in exported.open.items():
        tensors[name] = _padded(name, exported.outputs[name], axis, to)
    parts = found.parts(to, tensors)
    return BOXES[found.head.box](found, parts, to), _scores(found, parts, classes, to)


def _padded(name: str, shape: tuple[int, ...], axis: int, to: Writer) -> str:
    """An output of open length, with zeros behind what it has."""
    values = to.op("Cast", name, to=TensorProto.FLOAT)
    longer = to.op("Concat", values, to.constant(np.zeros(shape)), axis=axis)
    return to.shaped(to.part(longer, axis, 0, shape[axis]), *shape)


def _size(found: FoundHead) -> Any:
    return np.array([found.exported.width, found.exported.height] * 2).reshape(1, 4, 1)


def _in_pixels(found: FoundHead, boxes: str, to: Writer) -> str:
    unit = found.head.unit
    if unit == "shares" or (unit == "either" and found.in_shares):
        return to.op("Mul", boxes, to.constant(_size(found)))
    return boxes


def _turned(found: FoundHead, parts: Parts, to: Writer) -> str:
    """The upright box around a turned one."""
    cos, sin = (to.op("Abs", to.op(kind, parts["angle"])) for kind in ("Cos", "Sin"))
    sides = [to.part(parts["box"], 1, n, n + 1) for n in (2, 3)]
    spans = [
        to.op("Add", to.op("Mul", sides[0], one), to.op("Mul", sides[1], other))
        for one, other in ((cos, sin), (sin, cos))
    ]
    return to.corners(to.part(parts["box"], 1, 0, 2), to.op("Concat", *spans, axis=1))


def _offsets(found: FoundHead, parts: Parts, to: Writer) -> str:
    """YOLOX: offsets from a cell in strides, and logarithms of sizes."""
    corners, strides, _ = found.places()
    stride = to.constant(strides[None, None])
    moved = to.op("Add", to.part(parts["box"], 1, 0, 2), to.constant(corners.T[None]))
    sizes = to.op("Exp", to.part(parts["box"], 1, 2, 4))
    return to.corners(to.op("Mul", moved, stride), to.op("Mul", sizes, stride))


def _distances(found: FoundHead, parts: Parts, to: Writer) -> str:
    """Distances to four sides over bins (Li et al. 2020, Generalized Focal Loss)."""
    corners, strides, _ = found.places()
    bins = found.answer["bins"].shape[1] // 4
    weights = to.op("Softmax", to.shaped(parts["bins"], 1, 4, bins, -1), axis=2)
    places = to.constant(np.arange(bins).reshape(1, 1, bins, 1))
    axes = to.constant([2], np.int64)
    reach = to.op("ReduceSum", to.op("Mul", weights, places), axes, keepdims=0)
    reach = to.op("Mul", reach, to.constant(strides[None, None]))
    centres = to.constant(((corners + found.head.offset) * strides[:, None]).T[None])
    low = to.op("Sub", centres, to.part(reach, 1, 0, 2))
    return to.op("Concat", low, to.op("Add", centres, to.part(reach, 1, 2, 4)), axis=1)


def _anchors(found: FoundHead, parts: Parts, to: Writer) -> str:
    """YOLOv5: shares of two strides around a cell, and of twice an anchor, squared."""
    corners, strides, sizes = found.places()
    twice = to.op("Mul", _squashed(found, "box", parts, to), to.constant(2.0))
    moved = to.op("Add", to.part(twice, 1, 0, 2), to.constant(corners.T[None] - 0.5))
    centres = to.op("Mul", moved, to.constant(strides[None, None]))
    square = to.op("Mul", to.part(twice, 1, 2, 4), to.part(twice, 1, 2, 4))
    return to.corners(centres, to.op("Mul", square, to.constant(sizes.T[None])))


def _fastestdet(found: FoundHead, parts: Parts, to: Writer) -> str:
    """FastestDet: a centre within a stride of its cell, and shares of the picture."""
    corners, strides, _ = found.places()
    moved = to.op("Tanh", to.part(parts["box"], 1, 0, 2))
    moved = to.op("Add", moved, to.constant(corners.T[None]))
    centres = to.op("Mul", moved, to.constant(strides[None, None]))
    sizes = to.op("Sigmoid", to.part(parts["box"], 1, 2, 4))
    return to.corners(centres, to.op("Mul", sizes, to.constant(_size(found)[:, :2])))


BOXES: dict[str, Callable[[FoundHead, Parts, Writer], str]] = {
    "corners": lambda found, parts, to: _in_pixels(found, parts["box"], to),
    "centre": lambda found, parts, to: to.middles(_in_pixels(found, parts["box"], to)),
    "turned": _turned,
    "offsets": _offsets,
    "distances": _distances,
    "anchors": _anchors,
    "fastestdet": _fastestdet,
}
"""By the `box` of a head: what writes the corners."""


def _squashed(found: FoundHead, part: str, parts: Parts, to: Writer) -> str:
    """A part through a sigmoid, unless the network has done so: its answer shows it."""
    seen = found.answer[part]
    return parts[part] if seen.min() >= 0 and seen.max() <= 1 else to.op("Sigmoid", parts[part])


def _scores(found: FoundHead, parts: Parts, classes: int, to: Writer) -> str:
    head = found.head
    if found.numbered:
        return _of_numbers(found, parts, classes, to)
    scores = parts["classes"]
    if head.scores == "sigmoid":
        scores = _squashed(found, "classes", parts, to)
    elif head.scores == "softmax" and not found.adds_up:
        scores = to.op("Softmax", scores, axis=1)
    if head.nothing:
        start = int(head.nothing == "first")
        scores = to.part(scores, 1, start, start + found.scored - 1)
    if found.in_91:
        scores = to.op("Gather", scores, to.constant(COCO_NUMBERS, np.int64), axis=1)
    if "object" in parts:
        sure, powers = _squashed(found, "object", parts, to), map(to.constant, head.powers)
        if head.powers != [1.0, 1.0]:
            sure, scores = (to.op("Pow", *one) for one in zip((sure, scores), powers, strict=True))
        scores = to.op("Mul", scores, sure)
    return scores


def _of_numbers(found: FoundHead, parts: Parts, classes: int, to: Writer) -> str:
    score, number = parts["score"], to.op("Cast", parts["number"], to=TensorProto.INT64)
    if "image" in parts:  # a negative one ends the list
        there = to.op("Greater", to.op("Cast", parts["image"], to=1), to.constant(-0.5))
        score = to.op("Where", there, score, to.constant(0.0))
    return to.labelled(score, number, found.numbers(classes))
