"""What a head is: how an answer of a network becomes boxes and scores that the run time reads.

Each head writes ONNX nodes behind a network's outputs that compute what `CellsDecoder` reads:
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

from perception_nodes.networks.model import Shape
from perception_nodes.networks.source import Source

STRIDES = (8, 16, 32)
ABSURD = 1000.0
"""What makes no probability of a score that is not next to nothing."""
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
        """Probabilities [1, classes, n] from a score and a class number of each of n objects.

        Those of an object whose class has no name are absurd, which fails the frame: as zeros they
        would let it vanish.
        """
        whole = self.op("Cast", self.shaped(labels, 1, 1, count), to=TensorProto.INT64)
        numbers = self.constant(np.arange(classes).reshape(1, classes, 1), np.int64)
        score = self.shaped(scores, 1, 1, count)
        unnamed = self.op("Greater", whole, self.constant(classes - 1, np.int64))
        absurd = self.op("Mul", score, self.constant(ABSURD))
        other = self.op("Where", unnamed, absurd, self.constant(0.0))
        return self.op("Where", self.op("Equal", whole, numbers), score, other)


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


def only_output(source: Source) -> tuple[str, Shape] | None:
    """The network's output and its shape if it has one only, of one image and three dimensions."""
    if len(source.outputs) != 1:
        return None
    ((name, shape),) = source.outputs.items()
    return (name, shape) if len(shape) == 3 and shape[0] == 1 else None


class Numbered(ABC):
    """Heads that give an object the number of its class, and leave open how many there are."""

    @abstractmethod
    def numbers(self, found: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The class of each object in the network's outputs."""
