"""The heads of published detectors: how each is recognised, and how it becomes boxes and scores.

Each class writes ONNX nodes behind a network's outputs that compute what `CellsDecoder` reads:
corners of boxes in input pixels, float32 [1, 4, n], and class probabilities, float32 [1, c, n]. So
the run time knows nothing of where a network comes from.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from perception_nodes.backends.model import ModelError, Shape
from perception_nodes.importing import coco
from perception_nodes.importing.source import Source

STRIDES = (8, 16, 32)
MAX_OBJECTS = 1000
"""A network that reports objects, and not cells, has no more of them."""


@dataclass(frozen=True)
class Normalisation:
    """What a network expects of its pixels, and of the place of the picture.

    Attributes:
        color: order of the channels, "RGB" or "BGR".
        mean, std: by channel in that order: the network gets (byte - mean) / std.
        resize: "letterbox" or "stretch".
        padding: grey of the letterbox's border.
    """

    color: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    resize: str = "letterbox"
    padding: int = 114


IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class Writer:
    """Writes nodes of a graph.

    Attributes:
        nodes: those written.
        constants: the tensors that they read.
    """

    def __init__(self, prefix: str = "head") -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        """A constant tensor."""
        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The result of an operator."""
        name = f"{self._prefix}/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def part(self, tensor: str, axis: int, start: int, stop: int) -> str:
        """The part of a tensor from `start` to `stop` along an axis."""
        limits = ([value] for value in (start, stop, axis))
        return self.op("Slice", tensor, *(self.constant(value, np.int64) for value in limits))

    def shaped(self, tensor: str, *shape: int) -> str:
        """The tensor in another shape."""
        return self.op("Reshape", tensor, self.constant(shape, np.int64))

    def turned(self, tensor: str) -> str:
        """[1, a, b] as [1, b, a]."""
        return self.op("Transpose", tensor, perm=[0, 2, 1])

    def corners(self, centres: str, sizes: str) -> str:
        """Corners, [1, 4, n], from centres and sizes, each [1, 2, n]."""
        half = self.op("Mul", sizes, self.constant(0.5))
        low, high = self.op("Sub", centres, half), self.op("Add", centres, half)
        return self.op("Concat", low, high, axis=1)

    def middles(self, boxes: str) -> str:
        """Corners from boxes of centre and size, both [1, 4, n]."""
        return self.corners(self.part(boxes, 1, 0, 2), self.part(boxes, 1, 2, 4))

    def some(self, scores: str, kept: Sequence[int], classes: int) -> str:
        """The scores of some classes; `scores` themselves if these are all."""
        if list(kept) == list(range(classes)):
            return scores
        return self.op("Gather", scores, self.constant(kept, np.int64), axis=1)

    def labelled(self, scores: str, labels: str, count: int, classes: int) -> str:
        """Probabilities [1, classes, n] from a score and a class number of each of n objects."""
        whole = self.op("Cast", self.shaped(labels, 1, 1, count), to=TensorProto.INT64)
        numbers = self.constant(np.arange(classes).reshape(1, classes, 1), np.int64)
        same = self.op("Equal", whole, numbers)
        return self.op("Where", same, self.shaped(scores, 1, 1, count), self.constant(0.0))


class Head(Protocol):
    """One kind of output.

    Attributes:
        name: what `--head` calls it.
        title: what people call it.
        suppressed: whether it reports an object only once.
        normalisation: what networks with it expect, unless they say otherwise.
    """

    name: str
    title: str
    suppressed: bool

    def normalisation(self, source: Source) -> Normalisation:
        """What a network with this head expects, as far as can be known."""
        ...

    def classes(self, source: Source) -> int | None:
        """Number of classes if the network has this head, and 0 if that number is not in it."""
        ...

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """Write nodes that compute corners and probabilities, and name these two."""
        ...


def only_output(source: Source, dims: int = 3) -> tuple[str, Shape] | None:
    """The network's output and its shape if it has one only, of one image and `dims` dimensions."""
    if len(source.outputs) != 1:
        return None
    ((name, shape),) = source.outputs.items()
    return (name, shape) if len(shape) == dims and shape[0] == 1 else None


class Grid:
    """Ultralytics YOLOv5u, v8, v9, 10, 11, 12, 26: a column a cell, centre, size and scores."""

    name = "ultralytics"
    title = "Ultralytics, 1 x (4 + classes) x cells"
    suppressed = False

    def normalisation(self, source: Source) -> Normalisation:
        """RGB from 0 to 1, in a letterbox."""
        return Normalisation()

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        found = only_output(source)
        if found is None or found[1][1] <= 4:
            return None
        return found[1][1] - 4 if self.strides(source) else None

    def strides(self, source: Source) -> tuple[int, ...] | None:
        """Strides of the levels whose cells are as many as the output has."""
        # Networks of four levels are rare, and others look like them.
        known = [STRIDES, (*STRIDES, 64), (4, *STRIDES)] if source.facts else [STRIDES]
        ((_, shape),) = source.outputs.items()
        return next((some for some in known if source.cells(*some) == shape[2]), None)

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, _),) = source.outputs.items()
        return to.middles(to.part(name, 1, 0, 4)), to.part(name, 1, 4, 4 + classes)


class Numbered(ABC):
    """Heads that give an object the number of its class, and leave open how many there are."""

    @abstractmethod
    def numbers(self, found: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The class of each object in the network's outputs."""


class Objects(Numbered):
    """Ultralytics with NMS inside, or one-to-one (v10, 26): rows of corners, score, class."""

    name = "ultralytics-nms"
    title = "rows of x1 y1 x2 y2 score class, each object once"
    suppressed = True

    def normalisation(self, source: Source) -> Normalisation:
        """RGB from 0 to 1, in a letterbox."""
        return Normalisation()

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        found = only_output(source)
        if found is None or found[1][2] != 6 or found[1][1] > MAX_OBJECTS:
            return None
        return 0

    def numbers(self, found: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """See `Numbered`."""
        (rows,) = found.values()
        return rows[..., 5]

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, shape),) = source.outputs.items()
        score, label = to.part(name, 2, 4, 5), to.part(name, 2, 5, 6)
        boxes = to.turned(to.part(name, 2, 0, 4))
        return boxes, to.labelled(score, label, shape[1], classes)


class _Scored:
    """A row a cell: centre, size, probability of an object, and of each class if there is one."""

    suppressed = False

    def _write(self, name: str, classes: int, to: Writer) -> tuple[str, str]:
        columns = to.turned(name)
        scores = to.op("Mul", to.part(columns, 1, 5, 5 + classes), to.part(columns, 1, 4, 5))
        return to.part(columns, 1, 0, 4), scores


class Anchors(_Scored):
    """YOLOv5 and YOLOv7 with their own exporters: three anchors a cell."""

    name = "yolov5"
    title = "YOLOv5 or v7, three anchors a cell"

    def normalisation(self, source: Source) -> Normalisation:
        """RGB from 0 to 1, in a letterbox."""
        return Normalisation()

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        found = only_output(source)
        counts = 3 * source.cells(*STRIDES), 3 * source.cells(*STRIDES, 64)
        if found is None or found[1][1] not in counts or found[1][2] <= 5:
            return None
        return found[1][2] - 5

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, _),) = source.outputs.items()
        boxes, scores = self._write(name, classes, to)
        return to.middles(boxes), scores


class YoloxDecoded(_Scored):
    """YOLOX exported with decode_in_inference."""

    name = "yolox"
    title = "YOLOX, decoded"

    def normalisation(self, source: Source) -> Normalisation:
        """BGR from 0 to 255, in a letterbox."""
        return Normalisation("BGR", std=(1.0, 1.0, 1.0))

    def _rows(self, source: Source) -> int | None:
        found = only_output(source)
        if found is None or found[1][1] != source.cells(*STRIDES) or found[1][2] <= 5:
            return None
        return found[1][2] - 5

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        fits = "Exp" in source.operators or not source.sliced
        return self._rows(source) if fits else None

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, _),) = source.outputs.items()
        boxes, scores = self._write(name, classes, to)
        return to.middles(boxes), scores


class YoloxRaw(YoloxDecoded):
    """YOLOX as its exporter writes it: offsets in strides, and logarithms of sizes."""

    name = "yolox-raw"
    title = "YOLOX, not decoded"

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        return self._rows(source) if "Exp" not in source.operators else None

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, _),) = source.outputs.items()
        boxes, scores = self._write(name, classes, to)
        corners, strides = cells_of(source, STRIDES)
        stride = to.constant(strides[None, None])
        moved = to.op("Add", to.part(boxes, 1, 0, 2), to.constant(corners.T[None]))
        centres = to.op("Mul", moved, stride)
        sizes = to.op("Mul", to.op("Exp", to.part(boxes, 1, 2, 4)), stride)
        return to.corners(centres, sizes), scores


class Yolov6(_Scored):
    """YOLOv6: rows as those of YOLOX, of an RGB network."""

    name = "yolov6"
    title = "YOLOv6"

    def normalisation(self, source: Source) -> Normalisation:
        """RGB from 0 to 1, in a letterbox."""
        return Normalisation()

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        return None if source.sliced else YoloxDecoded()._rows(source)

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        return YoloxDecoded().write(source, classes, to)


class NanodetPlus:
    """NanoDet-Plus: class scores, and distances to four sides over bins; strides 8 to 64."""

    name = "nanodet-plus"
    title = "NanoDet-Plus, 1 x cells x (classes + 4 x 8)"
    suppressed = False
    bins = 8

    def normalisation(self, source: Source) -> Normalisation:
        """BGR by the mean and deviation of ImageNet, stretched."""
        mean, std = (values[::-1] for values in IMAGENET)
        return Normalisation("BGR", mean, std, "stretch")

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        found = only_output(source)
        cells = source.cells(*STRIDES, 64)
        if found is None or cells not in found[1][1:]:
            return None
        channels = found[1][1] * found[1][2] // cells - 4 * self.bins
        return channels if channels > 0 else None

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, shape),) = source.outputs.items()
        corners, strides = cells_of(source, (*STRIDES, 64))
        count = len(strides)
        rows = name if shape[1] == count else to.turned(name)
        scores = to.turned(to.part(rows, 2, 0, classes))
        if "Sigmoid" not in source.operators:  # ncnn's files leave it to their reader
            scores = to.op("Sigmoid", scores)
        sides = to.part(rows, 2, classes, classes + 4 * self.bins)
        bins = to.op("Softmax", to.shaped(sides, 1, count, 4, self.bins), axis=-1)
        mean = to.op("MatMul", bins, to.constant(np.arange(self.bins)[:, None]))
        reach = to.op("Mul", to.turned(to.shaped(mean, 1, count, 4)), to.constant(strides[None]))
        centres = to.constant((corners * strides[:, None]).T[None])
        low = to.op("Sub", centres, to.part(reach, 1, 0, 2))
        high = to.op("Add", centres, to.part(reach, 1, 2, 4))
        return to.op("Concat", low, high, axis=1), scores


class _Detr:
    """Networks that report an object once, in a stretched picture."""

    suppressed = True

    def normalisation(self, source: Source) -> Normalisation:
        """RGB from 0 to 1, stretched."""
        return Normalisation(resize="stretch")


class DetrObjects(_Detr, Numbered):
    """RT-DETR, D-FINE and DEIM with their postprocessor: labels, boxes, scores."""

    name = "detr"
    title = "RT-DETR, D-FINE or DEIM: labels, boxes, scores"

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        return 0 if set(source.outputs) == {"labels", "boxes", "scores"} else None

    def numbers(self, found: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """See `Numbered`."""
        return found["labels"]

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        count = source.outputs["boxes"][1]
        return to.turned("boxes"), to.labelled("scores", "labels", count, classes)


class DetrQueries(_Detr):
    """RT-DETR, RF-DETR and others without it: logits, and boxes from 0 to 1."""

    name = "detr-queries"
    title = "RT-DETR, RF-DETR, D-FINE or DEIM: logits and boxes"

    def normalisation(self, source: Source) -> Normalisation:
        """RGB, stretched; RF-DETR, which calls its boxes dets, has the deviation of ImageNet."""
        if "dets" in source.outputs:
            return Normalisation("RGB", *IMAGENET, "stretch")
        return super().normalisation(source)

    def _names(self, source: Source) -> tuple[str, str] | None:
        """Names of the boxes and of the logits."""
        shapes = source.outputs
        if len(shapes) != 2 or any(len(one) != 3 or one[0] != 1 for one in shapes.values()):
            return None
        boxes = [name for name, one in shapes.items() if one[2] == 4]
        others = [name for name in shapes if name not in boxes]
        if len(boxes) != 1 or shapes[boxes[0]][1] != shapes[others[0]][1]:
            return None
        return boxes[0], others[0]

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        names = self._names(source)
        if names is None:
            return None
        count = source.outputs[names[1]][2]
        return len(coco.NUMBERS) if count == 91 else count

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        names = self._names(source)
        assert names is not None
        scores = to.op("Sigmoid", to.turned(names[1]))
        if source.outputs[names[1]][2] == 91:
            scores = to.op("Gather", scores, to.constant(coco.NUMBERS, np.int64), axis=1)
        return _in_pixels(source, to.turned(names[0]), to), scores


class UltralyticsDetr(_Detr):
    """RT-DETR of Ultralytics: a row a query, box from 0 to 1 and scores."""

    name = "ultralytics-rtdetr"
    title = "RT-DETR of Ultralytics, 1 x queries x (4 + classes)"

    def classes(self, source: Source) -> int | None:
        """See `Head`."""
        found = only_output(source)
        if found is None or found[1][1] > MAX_OBJECTS or found[1][2] <= 4:
            return None
        three, four = source.cells(*STRIDES), source.cells(*STRIDES, 64)
        if {three, four, 3 * three, 3 * four} & {*found[1]}:
            return None
        return found[1][2] - 4

    def write(self, source: Source, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, _),) = source.outputs.items()
        columns = to.turned(name)
        boxes, scores = to.part(columns, 1, 0, 4), to.part(columns, 1, 4, 4 + classes)
        return _in_pixels(source, boxes, to), scores


def _in_pixels(source: Source, boxes: str, to: Writer) -> str:
    """Corners in pixels from centres and sizes from 0 to 1, both [1, 4, n]."""
    size = np.array([source.width, source.height] * 2).reshape(1, 4, 1)
    return to.middles(to.op("Mul", boxes, to.constant(size)))


def cells_of(
    source: Source, strides: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column and row of each cell, [n, 2], and its stride, [n]."""
    corners, of = [], []
    for stride in strides:
        columns, rows = -(-source.width // stride), -(-source.height // stride)
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        corners.append(np.stack([x.ravel(), y.ravel()], axis=1))
        of.append(np.full(columns * rows, stride))
    return np.concatenate(corners).astype(np.float64), np.concatenate(of).astype(np.float64)


HEADS: dict[str, Head] = {
    one.name: one
    for one in (
        *(Grid(), Objects(), Anchors(), YoloxDecoded(), YoloxRaw(), Yolov6()),
        *(NanodetPlus(), DetrObjects(), DetrQueries(), UltralyticsDetr()),
    )
}


def recognise(source: Source, wanted: str = "", classes: int | None = None) -> Head:
    """The head of a network.

    Args:
        source: the network.
        wanted: its name, if the user gave one.
        classes: number of names of its classes, if they are known; it decides where several fit.

    Raises:
        ModelError: none fits, or several do and the user must say which.
    """
    said = ", ".join(f"{name} {list(shape)}" for name, shape in source.outputs.items())
    fitting = [head for head in HEADS.values() if head.classes(source) is not None]
    if source.facts.get("author", "").lower() == "ultralytics" and not wanted:
        likely = _of_ultralytics(source)
        fitting = [head for head in fitting if head.name in likely]
    if wanted:
        if wanted not in HEADS:
            raise ModelError(f"--head {wanted} is unknown; known are {', '.join(HEADS)}")
        if HEADS[wanted] not in fitting:
            others = ", ".join(head.name for head in fitting) or "none"
            raise ModelError(
                f"{source.path} has the outputs {said} at {source.width}x{source.height}, which is "
                f"not the head {wanted}; fitting are: {others}"
            )
        return HEADS[wanted]
    if not fitting:
        known = "; ".join(f"{head.name} ({head.title})" for head in HEADS.values())
        raise ModelError(
            f"{source.path} has the outputs {said} at {source.width}x{source.height}, which is no "
            f"head of a detector that is known here: {known}. Export the detector with one of them"
        )
    if len(fitting) > 1 and classes is not None:
        # One that leaves the number open fits any.
        fitting = [head for head in fitting if head.classes(source) in (0, classes)] or fitting
    if len(fitting) > 1:
        names = ", ".join(f"{head.name} ({head.title})" for head in fitting)
        raise ModelError(
            f"{source.path} has the outputs {said}, which may be {names}: say which with --head"
        )
    return fitting[0]


def _of_ultralytics(source: Source) -> set[str]:
    """Names of the heads that a network of Ultralytics may have by its metadata."""
    decoder = source.facts.get("head", "").lower()
    said = decoder + source.facts.get("description", "").lower().replace("-", "")
    if "rtdetr" in said:
        return {UltralyticsDetr.name}
    arguments = source.fact("args")
    nms = isinstance(arguments, dict) and arguments.get("nms")
    if "detect" in decoder or "yolo" in said or nms or source.fact("end2end") is True:
        return {Grid.name, Objects.name}
    # Older versions describe a detector of one's own by its file: "best model".
    return {Grid.name, Objects.name, UltralyticsDetr.name}
