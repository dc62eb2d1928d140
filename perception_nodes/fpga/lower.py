"""Lowering: convolutions as the engine runs them, with 16 input and 16 or 32 output channels.

A tensor is stored in groups of 16 channels; lanes beyond its last channel get weights of 0. The
engine computes 32 output channels of a pixel at a time (*wide*), or 16 channels of twice as many
pixels (*narrow*). A layer with an odd number of output groups becomes two operations, which write
different groups of the same tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.inference import BackendError
from perception_nodes.core.integer import Convolution
from perception_nodes.core.places import Lanes, Place, lanes_of, place_of, place_tensors
from perception_nodes.core.tensor_graph import GROUP, ConvolutionNode, Tensor, TensorGraph
from perception_nodes.fpga.fold import fold_image
from perception_nodes.fpga.layout import BANKS

MAX_KERNEL = 15
MAX_STRIDE = 2
MAX_RESIDUAL_MULTIPLIER = 1 << 13
"""Up to this the sum with the residual fits into 22 bits."""
IMAGE_ALIGNMENT = 4
"""The image's width must be a multiple of this, and of twice this if it is folded."""


@dataclass(frozen=True)
class Buffer:
    """Activation memory for tensors of one size that are stored side by side.

    Attributes:
        name: names of the tensors.
        height, width: size of the tensors in pixels.
        groups: number of groups of 16 channels; also the distance, in rows, from four pixels to the
            next four.
    """

    name: str
    height: int
    width: int
    groups: int

    @property
    def line_stride(self) -> int:
        """Rows from one line to the next; four neighbouring pixels share a row."""
        return -(-self.width // BANKS) * self.groups

    @property
    def rows(self) -> int:
        """Number of rows of activation memory."""
        return self.height * self.line_stride


@dataclass(frozen=True)
class Operation:
    """A convolution, or a part of its output channels, as the engine runs it.

    Attributes:
        layer: the convolution; all its numbers except those below apply.
        wide: whether 32 output channels are computed at a time, instead of 16 channels of twice as
            many pixels.
        segments: places that are read.
        height, width: size of what is read, after upsampling.
        kernel: height and width of the kernel.
        stride: stride in both directions.
        top, left: rows and columns of padding.
        out_height, out_width: size of the result.
        target: where codes are written; None if the result is an output of the network.
        output_group: first group of 16 output channels that is computed.
        residual: place of the residual that is added, None if there is none.
        weight: int8 [out, ky, kx, in], padded to full lanes; out is a multiple of 16 or 32.
        bias, multiplier: int32 [out].
        products: multiplications that the network needs for one value of the result.
    """

    layer: Convolution
    wide: bool
    segments: tuple[Place, ...]
    height: int
    width: int
    kernel: tuple[int, int]
    stride: int
    top: int
    left: int
    out_height: int
    out_width: int
    target: Place | None
    output_group: int
    residual: Place | None
    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    products: int

    @property
    def groups(self) -> int:
        """Number of groups of 16 output channels."""
        return len(self.weight) // GROUP

    @property
    def channels(self) -> int:
        """Number of output channels, without the lanes beyond the layer's last one."""
        return min(len(self.weight), len(self.layer.weight) - GROUP * self.output_group)

    def buffers_read(self) -> set[int]:
        """Numbers of the buffers that the operation reads."""
        places = [*self.segments, *([self.residual] if self.residual else [])]
        return {place.buffer for place in places}


@dataclass(frozen=True)
class Lowered:
    """A network as operations of the engine.

    Attributes:
        folded: whether the image is folded, see `fold`.
        buffers: all buffers; number 0 is the image's.
        places: place of every stored tensor, by name.
        operations: operations in the order of execution.
        outputs: the network's outputs, by name.
    """

    folded: bool
    buffers: list[Buffer]
    places: dict[str, Place]
    operations: list[Operation]
    outputs: dict[str, Tensor]


def lower(graph: TensorGraph) -> Lowered:
    """Turn a graph into operations.

    Raises:
        BackendError: the engine cannot run a layer; the text names it.
    """
    image = graph.tensors[graph.image]
    if image.width % IMAGE_ALIGNMENT:
        raise BackendError(
            f"fpga: the image is {image.width} pixels wide; the engine loads widths that are a "
            f"multiple of {IMAGE_ALIGNMENT}"
        )
    folded = fold_image(graph) if image.width % (2 * IMAGE_ALIGNMENT) == 0 else None
    graph = folded or graph
    for node in graph.convolutions:
        _check(node.layer)
    places = place_tensors(graph)
    buffers = []
    for names in ((graph.image,), *graph.buffers):
        tensors = [graph.tensors[name] for name in names]
        groups = sum(tensor.groups for tensor in tensors)
        buffers.append(Buffer(", ".join(names), tensors[0].height, tensors[0].width, groups))
    operations = [
        operation for node in graph.convolutions for operation in _operations(node, graph, places)
    ]
    outputs = {name: graph.tensors[name] for name in graph.outputs}
    return Lowered(folded is not None, buffers, places, operations, outputs)


def _check(layer: Convolution) -> None:
    name, kernel = layer.name, layer.weight.shape[2:]
    if max(*kernel, *layer.pads[:2]) > MAX_KERNEL or layer.stride > MAX_STRIDE:
        raise BackendError(
            f"fpga: Convolution {name!r} has a kernel of {kernel[0]}x{kernel[1]}, stride "
            f"{layer.stride} and padding {layer.pads}; the engine supports kernels and padding up "
            f"to {MAX_KERNEL} and strides up to {MAX_STRIDE}"
        )
    if layer.store is not None and layer.store.residual_multiplier > MAX_RESIDUAL_MULTIPLIER:
        raise BackendError(
            f"fpga: Convolution {name!r} has a residual multiplier of "
            f"{layer.store.residual_multiplier}; the engine supports up to "
            f"{MAX_RESIDUAL_MULTIPLIER}"
        )


def _is_apart(node: ConvolutionNode, lanes: Lanes) -> bool:
    """Whether each group of a result needs only the same group of the source."""
    (first, *others), *more = node.segments
    if others or more or first.begin % GROUP:
        return False
    groups = len(lanes.weight) // GROUP
    used = lanes.weight.reshape(groups, GROUP, -1, lanes.weight.shape[3] // GROUP, GROUP) != 0
    needed = np.count_nonzero(used, axis=(1, 2, 4))
    return needed.shape == (groups, groups) and not (needed - np.diag(np.diag(needed))).any()


def _operations(
    node: ConvolutionNode, graph: TensorGraph, places: dict[str, Place]
) -> Iterator[Operation]:
    """The wide operation of a layer, its narrow one, or both.

    An output, and a depthwise convolution, has one for every two groups.
    """
    layer, target = node.layer, graph.tensors[node.layer.target]
    segments = tuple(place_of(segment, places) for segment in node.segments)
    lanes = lanes_of(node)
    source = graph.tensors[node.segments[0][0].tensor]
    factor = 2 if segments[0].upsampled else 1
    height, width = factor * source.height, factor * source.width
    wide = target.groups // 2 * 2
    apart = _is_apart(node, lanes)
    step = max(wide, 1) if target.name in places and not apart else 2
    parts = [(begin, begin + step) for begin in range(0, wide, step)]
    if wide < target.groups:
        parts.append((wide, target.groups))
    for begin, end in parts:
        channels = slice(begin * GROUP, end * GROUP)
        place = places.get(target.name)
        weight, read = lanes.weight[channels], segments
        if apart:
            weight = weight[..., channels]
            read = (replace(segments[0], group=segments[0].group + begin, groups=end - begin),)
        residual = None
        if node.residual is not None:
            there = place_of((node.residual,), places)
            residual = Place(there.buffer, there.group + begin, end - begin)
        yield Operation(
            layer=layer,
            wide=begin < wide,
            segments=read,
            height=height,
            width=width,
            kernel=(layer.weight.shape[2], layer.weight.shape[3]),
            stride=layer.stride,
            top=layer.pads[0],
            left=layer.pads[1],
            out_height=target.height,
            out_width=target.width,
            target=place and Place(place.buffer, place.group + begin, end - begin),
            output_group=begin,
            residual=residual,
            weight=weight,
            bias=lanes.bias[channels],
            multiplier=lanes.multiplier[channels],
            products=node.products,
        )
