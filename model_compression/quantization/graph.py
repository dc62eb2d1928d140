"""The float detector as the quantizer sees it: blocks, stored tensors, and who shares a scale.

A *block* is what one kernel computes: a convolution, its activation and a residual sum. Only what
leaves a block is stored in 8 bits. Everything between blocks (Concat, Split, MaxPool, Resize)
moves stored values without computing new ones, so what it joins must have one scale.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from model_compression.errors import CompressionError

MOVES = ("Concat", "Split", "MaxPool", "Resize")
ACTIVATIONS = ("HardSwish", "Relu", "Clip", "Sigmoid", "Mul")
KNOWN = {"DequantizeLinear", "Transpose", "Constant", "Conv", "Add", *ACTIVATIONS, *MOVES}


@dataclass(frozen=True)
class Block:
    """A convolution with what is fused behind it.

    Attributes:
        name: of the convolution's node.
        source: the tensor it reads.
        weight: the initializer with its weights, float32 [out, in, height, width].
        bias: the initializer with its bias, float32 [out].
        activation: "HardSwish", "Relu", "Clip" (to 0..6), "SiLU", or "" for none.
        residual: the stored tensor that is added behind the activation, "" for none.
        output: the tensor that leaves the block.
    """

    name: str
    source: str
    weight: str
    bias: str
    activation: str
    residual: str
    output: str


@dataclass(frozen=True)
class Layout:
    """What the quantizer needs to know of a float graph.

    Attributes:
        image: the graph's input, uint8 [1, height, width, 3] BGR.
        height, width: of the image, in pixels.
        blocks: in the order of execution.
        outputs: the graph's outputs, each written by a block without activation.
        groups: the stored tensors, in groups that share a scale; all in the order of execution.
    """

    image: str
    height: int
    width: int
    blocks: tuple[Block, ...]
    outputs: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    @property
    def stored(self) -> tuple[str, ...]:
        """The tensors to be stored in 8 bits."""
        return tuple(block.output for block in self.blocks if block.output not in self.outputs)


def read_layout(model: onnx.ModelProto) -> Layout:
    """Take a float graph of ``model_compression.export`` apart.

    Raises:
        CompressionError: it has an operator or a shape that cannot be quantized.
    """
    graph = model.graph
    for node in graph.node:
        if node.op_type not in KNOWN:
            raise CompressionError(
                f"operator {node.op_type} of node {node.name!r} cannot be quantized; known are "
                f"{', '.join(sorted(KNOWN))}. Rewrite the model, take the float graph (float_of) "
                "where this is a quantized one, or perception model import --int8 where it was "
                "imported: NNCF quantizes any"
            )
    image = graph.input[0]
    shape = tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim)
    if image.type.tensor_type.elem_type != onnx.TensorProto.UINT8 or (
        len(shape) != 4 or shape[0] != 1 or shape[3] != 3
    ):
        raise CompressionError(
            f"input {image.name!r} has shape {list(shape)}; uint8 [1, height, width, 3] is needed: "
            "export the model with model_compression.export"
        )
    outputs = tuple(output.name for output in graph.output)
    blocks = _read_blocks(graph, outputs)
    stored = [block.output for block in blocks if block.output not in outputs]
    return Layout(image.name, shape[1], shape[2], blocks, outputs, _group(graph, stored))


def is_known(model: onnx.ModelProto) -> bool:
    """Whether ``read_layout`` can take a graph apart."""
    try:
        read_layout(model)
    except CompressionError:
        return False
    return True


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the graph's initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _read_blocks(graph: onnx.GraphProto, outputs: tuple[str, ...]) -> tuple[Block, ...]:
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)

    def activated(tensor: str) -> tuple[str, str]:
        """Follow a convolution's output through its activation."""
        following = readers[tensor]
        kinds = sorted(node.op_type for node in following)
        if kinds in (["HardSwish"], ["Relu"], ["Clip"]):
            return kinds[0], following[0].output[0]
        if kinds == ["Mul", "Sigmoid"]:
            mul = following[0] if following[0].op_type == "Mul" else following[1]
            return "SiLU", mul.output[0]
        return "", tensor

    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    ends = [activated(node.output[0]) for node in convolutions]
    # A sum belongs to the block that is computed last, if nobody else reads what it adds.
    owner: dict[str, onnx.NodeProto] = {}
    for _, end in ends:
        adds = [node for node in readers[end] if node.op_type == "Add"]
        if len(readers[end]) == 1 and adds:
            owner[adds[0].output[0]] = adds[0]
    last = {
        name: max(i for i, (_, end) in enumerate(ends) if end in node.input)
        for name, node in owner.items()
    }
    blocks = []
    for index, (node, (activation, end)) in enumerate(zip(convolutions, ends, strict=True)):
        residual, output = "", end
        for name, add in owner.items():
            if last[name] == index:
                residual = next(other for other in add.input if other != end)
                output = name
        if len(node.input) < 3:
            raise CompressionError(f"convolution {node.name!r} has no bias; fold BatchNorm first")
        blocks.append(Block(node.name, *node.input[:3], activation, residual, output))
    _check_covered(graph, blocks, outputs)
    return tuple(blocks)


def _check_covered(graph: onnx.GraphProto, blocks: list[Block], outputs: tuple[str, ...]) -> None:
    made = {block.output for block in blocks}
    for node in graph.node:
        if node.op_type == "Add" and node.output[0] not in made:
            raise CompressionError(
                f"sum {node.name!r} is not behind a convolution that only it reads; "
                "only residual sums can be quantized"
            )
    for name in outputs:
        block = next((block for block in blocks if block.output == name), None)
        if block is None or block.activation or block.residual:
            raise CompressionError(
                f"output {name!r} is not what a plain convolution computes; export the raw head"
            )
    names = [block.name for block in blocks]
    if "" in names or len(set(names)) < len(names):
        raise CompressionError("convolutions need names, each its own; export the model again")


def _group(graph: onnx.GraphProto, stored: list[str]) -> tuple[tuple[str, ...], ...]:
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node in graph.node:
        if node.op_type in MOVES:
            inputs = node.input if node.op_type == "Concat" else node.input[:1]
            for name in (*inputs, *node.output):
                parent[root(name)] = root(node.output[0])
    groups = defaultdict(list)
    for name in stored:
        groups[root(name)].append(name)
    return tuple(tuple(names) for names in groups.values())
