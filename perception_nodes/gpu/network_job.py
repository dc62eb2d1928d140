"""The integer network on the GPU: its plan, and the arguments of `kernels/network.cu`.

A tensor lies channels-last in a buffer, beside those that it is joined with, so that Concat, Slice
and Upsample are only addresses. Every buffer has memory of its own: a few megabytes in all, and
after a frame each tensor can be compared with the golden model. Convolutions that do not depend on
each other form a *wave* and run in one launch: kernels are so short that their number counts.
"""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core import tensor_graph
from perception_nodes.core.inference import BackendError
from perception_nodes.core.integer import Activation, Network
from perception_nodes.core.places import Place, lanes_of, place_of, place_tensors
from perception_nodes.core.structures import fields

TILE = (32, 32)
"""Pixels and channels that a block computes."""
THREADS = 128
MAX_LAYERS = 8
"""Layers of a launch."""
COLOURS = 3
ACTIVATIONS: dict[Activation, int] = {"none": 0, "relu": 1, "hardswish": 2}


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """How a network runs.

    Attributes:
        graph: convolutions and stored tensors.
        places: place of every stored tensor, by name.
        buffers: size of every buffer in bytes; number 0 is the image, uint8 [height, width, 3].
        waves: convolutions that run at once, in the order of execution.
        constants: for each convolution of the waves its weights, int8 [groups, steps, lanes of the
            warp, 16], and its bias and multiplier, int32 [out, 2].
    """

    graph: tensor_graph.TensorGraph
    places: dict[str, Place]
    buffers: list[int]
    waves: list[list[tensor_graph.ConvolutionNode]]
    constants: list[NDArray[np.signedinteger]]

    def output_bytes(self, name: str) -> int:
        """Size of an output, float32 [channels, height, width]."""
        tensor = self.graph.tensors[name]
        return 4 * tensor.channels * tensor.height * tensor.width

    def codes(self, name: str, buffers: Sequence[NDArray[np.uint8]]) -> NDArray[np.int8]:
        """A stored tensor, int8 [channels, height, width], from the content of all buffers."""
        tensor, place = self.graph.tensors[name], self.places[name]
        pixels = buffers[place.buffer].view(np.int8).reshape(tensor.height, tensor.width, -1)
        first = tensor_graph.GROUP * place.group
        return pixels[:, :, first : first + tensor.channels].transpose(2, 0, 1)


def plan_network(network: Network) -> NetworkPlan:
    """Make the plan of a network.

    Raises:
        BackendError: the kernels do not support an operator, a weight or a size; the text names it.
    """
    return plan_graph(tensor_graph.build_graph(network))


def plan_graph(graph: tensor_graph.TensorGraph) -> NetworkPlan:
    """Make the plan of a network whose stored tensors are known; see `plan_network`."""
    image = graph.tensors[graph.image]
    sizes = [image.height * image.width * COLOURS]
    for names in graph.buffers:
        tensors = [graph.tensors[name] for name in names]
        pixels = tensors[0].height * tensors[0].width
        sizes.append(pixels * tensor_graph.GROUP * sum(tensor.groups for tensor in tensors))
        if sizes[-1] >= 1 << 31:
            raise BackendError(f"tensor {names[0]!r} takes more than 2 GB; use a smaller input")
    for node in graph.convolutions:
        _check_image(node, graph)
    waves = _waves(graph.convolutions)
    places = place_tensors(graph)
    constants = [array for wave in waves for node in wave for array in _constants(node, places)]
    return NetworkPlan(graph, places, sizes, waves, constants)


def _check_image(node: tensor_graph.ConvolutionNode, graph: tensor_graph.TensorGraph) -> None:
    """Refuse a convolution that reads the image in any other way than as a whole."""
    whole = ((tensor_graph.ChannelSpan(graph.image, 0, COLOURS),),)
    read = {span.tensor for segment in node.segments for span in segment}
    summed = node.residual is not None and node.residual.tensor == graph.image
    if summed or (graph.image in read and node.segments != whole):
        raise BackendError(
            f"Convolution {node.layer.name!r} reads the image joined, cut, enlarged or as a "
            "residual; the CUDA kernels read it only as it is"
        )


def _read(node: tensor_graph.ConvolutionNode) -> set[str]:
    """Names of the tensors that a convolution reads."""
    spans = [span for segment in node.segments for span in segment]
    return {span.tensor for span in (*spans, node.residual) if span is not None}


def _waves(
    nodes: Sequence[tensor_graph.ConvolutionNode],
) -> list[list[tensor_graph.ConvolutionNode]]:
    """Each convolution in the first wave after those whose results it reads."""
    wave_of: dict[str, int] = {}
    waves: list[list[tensor_graph.ConvolutionNode]] = []
    for node in nodes:
        number = max((wave_of[name] + 1 for name in _read(node) if name in wave_of), default=0)
        wave_of[node.layer.target] = number
        waves[number:] = waves[number:] or [[]]
        waves[number].append(node)
    return [wave[n : n + MAX_LAYERS] for wave in waves for n in range(0, len(wave), MAX_LAYERS)]


def _constants(
    node: tensor_graph.ConvolutionNode, places: Mapping[str, Place]
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    lanes = lanes_of(node)
    groups = [place_of(segment, places).groups for segment in node.segments]
    ends = tensor_graph.GROUP * np.cumsum(groups)
    weight = [pack_weights(part) for part in np.split(lanes.weight, ends[:-1], axis=3)]
    return np.concatenate(weight, axis=1), np.stack([lanes.bias, lanes.multiplier], axis=1)


def pack_weights(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """The weights of a segment in the order in which the lanes of a warp read them.

    Args:
        weight: int8 [out, ky, kx, in], whole groups of both.

    Returns:
        int8 [groups, steps, 32, 16]: the registers of each of 32 lanes. A step is two slabs of 16
        codes. A lane has a quarter of these, for channels lane / 4 and lane / 4 + 8 of the group.
    """
    slabs = weight.reshape(len(weight), -1, tensor_graph.GROUP)
    slabs = np.pad(slabs, ((0, 0), (0, slabs.shape[1] % 2), (0, 0)))
    steps = slabs.shape[1] // 2
    # Axes: group, plus 8, channel, step, slab, half, code. Channel, slab and half make a lane.
    split = slabs.reshape(-1, 2, 8, steps, 2, 2, tensor_graph.GROUP // 2)
    return split.transpose(0, 3, 2, 4, 5, 1, 6).reshape(-1, steps, 32, tensor_graph.GROUP)


class SegmentJob(ctypes.Structure):
    """`Segment` of `network.cu`."""

    _fields_ = fields("uint64 codes; int32 row_bytes, pixel_bytes, groups, upsampled")


class LayerJob(ctypes.Structure):
    """`Layer` of `network.cu`."""

    _fields_ = [
        ("segments", SegmentJob * 2),
        *fields("uint64 weights, parameters, target, output, residual"),
        *fields("int32 target_bytes, residual_bytes, image, height, width, kernel_height"),
        *fields("int32 kernel_width, stride, top, left, outside, out_width, pixels, groups"),
        *fields("int32 channels, activation, shift, fraction, store_multiplier, store_shift"),
        *fields("int32 residual_multiplier; float step; int32 first_block"),
    ]


class LaunchJob(ctypes.Structure):
    """`Launch` of `network.cu`."""

    _fields_ = [("layers", LayerJob * MAX_LAYERS), ("count", ctypes.c_int32)]


def build_launches(
    plan: NetworkPlan, buffers: Sequence[int], constants: Sequence[int], outputs: Mapping[str, int]
) -> list[tuple[LaunchJob, int]]:
    """Build the kernel's arguments and its number of blocks for every wave, in their order.

    Args:
        plan: plan of the network.
        buffers: addresses of the buffers, aligned to 16 bytes, like those below.
        constants: addresses of the plan's constants.
        outputs: addresses of the outputs, by name.
    """
    left, launches = iter(constants), []
    for wave in plan.waves:
        launch, blocks = LaunchJob(count=len(wave)), 0
        for job, node in zip(launch.layers, wave, strict=False):
            _fill(job, node, plan, buffers, left, outputs)
            job.first_block = blocks
            blocks += -(-job.pixels // TILE[0]) * -(-job.groups * tensor_graph.GROUP // TILE[1])
        launches.append((launch, blocks))
    return launches


def _fill(
    job: LayerJob,
    node: tensor_graph.ConvolutionNode,
    plan: NetworkPlan,
    buffers: Sequence[int],
    constants: Iterator[int],
    outputs: Mapping[str, int],
) -> None:
    layer, tensors = node.layer, plan.graph.tensors
    target = tensors[layer.target]

    def pixel_bytes(place: Place) -> int:
        first = tensors[plan.graph.buffers[place.buffer - 1][0]]
        return plan.buffers[place.buffer] // (first.height * first.width)

    def address(place: Place) -> int:
        return buffers[place.buffer] + tensor_graph.GROUP * place.group

    source = tensors[node.segments[0][0].tensor]
    job.image = source.name == plan.graph.image
    for segment, view in zip(job.segments, node.segments, strict=False):
        place = place_of(view, plan.places)
        segment.codes, segment.groups = address(place), place.groups
        segment.pixel_bytes = COLOURS if job.image else pixel_bytes(place)
        segment.row_bytes = segment.pixel_bytes * tensors[view[0].tensor].width
        segment.upsampled = place.upsampled
    upsampled = job.segments[0].upsampled
    job.height, job.width = source.height << upsampled, source.width << upsampled
    job.weights, job.parameters = next(constants), next(constants)
    job.kernel_height, job.kernel_width = layer.weight.shape[2:]
    job.stride, (job.top, job.left) = layer.stride, layer.pads[:2]
    job.outside = (layer.outside & 0xFF) * 0x01010101
    job.out_width, job.pixels = target.width, target.height * target.width
    job.groups, job.channels = target.groups, target.channels
    job.activation = ACTIVATIONS[layer.activation]
    job.shift, job.fraction = layer.shift, layer.fraction
    if layer.store is None:
        job.output, job.step = outputs[target.name], 2.0**-layer.fraction
        return
    place = plan.places[target.name]
    job.target, job.target_bytes = address(place), pixel_bytes(place)
    job.store_multiplier, job.store_shift = layer.store.multiplier, layer.store.shift
    if node.residual is not None:
        place = place_of((node.residual,), plan.places)
        job.residual, job.residual_bytes = address(place), pixel_bytes(place)
        job.residual_multiplier = layer.store.residual_multiplier
