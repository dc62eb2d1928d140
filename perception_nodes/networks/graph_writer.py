"""Writes ONNX nodes behind the outputs of a network, or in front of its input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

ABSURD = 1000.0
"""Factor that makes a score an impossible probability, unless the score is next to nothing."""


class Writer:
    """Writes nodes of a graph.

    Attributes:
        nodes: the nodes written so far.
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

    def turned(self, tensor: str, perm: Sequence[int]) -> str:
        """The tensor with its axes in another order."""
        return self.op("Transpose", tensor, perm=list(perm))

    def joined(self, tensors: Sequence[str], axis: int) -> str:
        """Tensors behind each other along an axis."""
        return self.op("Concat", *tensors, axis=axis)

    def corners(self, centres: str, sizes: str) -> str:
        """Corners, [1, 4, n], from centres and sizes, each [1, 2, n]."""
        half = self.op("Mul", sizes, self.constant(0.5))
        low, high = self.op("Sub", centres, half), self.op("Add", centres, half)
        return self.op("Concat", low, high, axis=1)

    def middles(self, boxes: str) -> str:
        """Corners from boxes of centre and size, both [1, 4, n]."""
        return self.corners(self.part(boxes, 1, 0, 2), self.part(boxes, 1, 2, 4))

    def some(self, scores: str, kept: Sequence[Sequence[int]], classes: int) -> str:
        """The scores of some classes, the best of each group; `scores` themselves if all alone."""
        if list(kept) == [[one] for one in range(classes)]:
            return scores
        most = max(map(len, kept))
        full = [[*group, *[group[0]] * (most - len(group))] for group in kept]
        columns = [self.constant(part, np.int64) for part in zip(*full, strict=True)]
        parts = [self.op("Gather", scores, column, axis=1) for column in columns]
        return parts[0] if most == 1 else self.op("Max", *parts)

    def labelled(self, scores: str, labels: str, numbers: Sequence[int]) -> str:
        """Probabilities [1, classes, n] from a score and a class number of each of n objects.

        An object whose class has no name gets absurd probabilities, which fail the frame; zeros
        would hide the object.

        Args:
            scores: float32 [1, 1, n].
            labels: int64 [1, 1, n].
            numbers: of the classes that have a name.
        """
        known = self.constant(np.reshape(numbers, (1, -1, 1)), np.int64)
        unnamed = self.op("Greater", labels, self.constant(max(numbers), np.int64))
        absurd = self.op("Mul", scores, self.constant(ABSURD))
        other = self.op("Where", unnamed, absurd, self.constant(0.0))
        return self.op("Where", self.op("Equal", labels, known), scores, other)
