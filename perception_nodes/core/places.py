"""Where stored tensors lie, and what convolutions read there: groups of 16 channels.

Tensors that are joined lie side by side in a buffer. A lane, a channel of a group that is read, may
hold nothing that the convolution wants; its weights are 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.inference import BackendError
from perception_nodes.core.tensor_graph import GROUP, ConvolutionNode, TensorGraph, View


@dataclass(frozen=True)
class Place:
    """Consecutive channel groups of a buffer.

    Attributes:
        buffer: number of the buffer.
        group: first group.
        groups: number of groups.
        upsampled: whether every code is read twice in both directions.
    """

    buffer: int
    group: int
    groups: int
    upsampled: bool = False


@dataclass(frozen=True)
class Lanes:
    """A convolution's numbers for whole groups of output channels and of lanes.

    Attributes:
        weight: int8 [out, ky, kx, in].
        bias, multiplier: int32 [out].
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]


def place_tensors(graph: TensorGraph) -> dict[str, Place]:
    """The place of every stored tensor, by name.

    Buffer 0 is the image's; the others are those of `graph.buffers`, in their order.
    """
    places = {graph.image: Place(0, 0, graph.tensors[graph.image].groups)}
    for number, names in enumerate(graph.buffers, 1):
        group = 0
        for name in names:
            places[name] = Place(number, group, graph.tensors[name].groups)
            group += places[name].groups
    return places


def place_of(view: View, places: Mapping[str, Place]) -> Place:
    """The place of spans that are stored side by side: all groups that they are in."""
    first, last = view[0], view[-1]
    begin = places[first.tensor].group + first.begin // GROUP
    end = places[last.tensor].group + -(-last.end // GROUP)
    return Place(places[first.tensor].buffer, begin, end - begin, first.upsampled)


def lanes_of(node: ConvolutionNode) -> Lanes:
    """A convolution's numbers, for the lanes of its segments one behind the other.

    Raises:
        BackendError: it has weights of more than 8 bits.
    """
    layer, channels = node.layer, len(node.layer.weight)
    limits = np.iinfo(np.int8)
    if layer.weight.min() < limits.min or layer.weight.max() > limits.max:
        raise BackendError(
            f"Convolution {layer.name!r} has weights of more than 8 bits, which our engines lack: "
            "quantize the model without layers that are kept in float"
        )
    used = np.concatenate([_used(segment) for segment in node.segments])
    out = -(-channels // GROUP) * GROUP
    weight = np.zeros((out, *layer.weight.shape[2:], len(used)), np.int8)
    weight[:channels, :, :, used] = layer.weight.transpose(0, 2, 3, 1)
    bias, multiplier = (np.zeros(out, np.int32) for _ in range(2))
    bias[:channels], multiplier[:channels] = layer.bias, layer.multiplier
    return Lanes(weight, bias, multiplier)


def _used(segment: View) -> NDArray[np.bool_]:
    """For every lane of a segment, whether it holds a channel that the layer reads."""
    lanes = []
    for span in segment:
        channels = np.arange(span.begin // GROUP * GROUP, -(-span.end // GROUP) * GROUP)
        lanes.append((channels >= span.begin) & (channels < span.end))
    return np.concatenate(lanes)
