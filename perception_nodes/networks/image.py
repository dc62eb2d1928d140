"""A network's float image becomes our slot's bytes: uint8 [1, height, width, 3] BGR."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from perception_nodes.networks.head import Normalisation, Writer
from perception_nodes.networks.source import OnnxSource

INPUT_NAME = "image"


def take_bytes(network: onnx.ModelProto, source: OnnxSource, wanted: Normalisation) -> None:
    """Give a network our input; it keeps its numbers.

    One dequantization stands in front, which runtimes fuse with the first convolution. Channels are
    swapped in that convolution's weights where the image goes there alone.
    """
    graph, to = network.graph, Writer("image")
    mean, std = np.array(wanted.mean), np.array(wanted.std)
    if wanted.color == "RGB":
        mean, std = mean[::-1], std[::-1]
    plain = not mean.any() and (std == std[0]).all()
    scale = to.constant(1 / std[0] if plain else 1.0)
    pixels = to.op("DequantizeLinear", INPUT_NAME, scale, to.constant(0, np.uint8))
    pixels = to.op("Transpose", pixels, perm=[0, 3, 1, 2])
    if not plain:
        pixels = to.op("Sub", pixels, to.constant(mean.reshape(1, 3, 1, 1)))
        pixels = to.op("Div", pixels, to.constant(std.reshape(1, 3, 1, 1)))
    if wanted.color == "RGB" and not _swapped(graph, source.image):
        pixels = to.op("Gather", pixels, to.constant([2, 1, 0], np.int64), axis=1)
    for node in graph.node:
        node.input[:] = [pixels if name == source.image else name for name in node.input]
    del graph.input[:]
    shape = (1, source.height, source.width, 3)
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
    graph.initializer.extend(to.constants)
    for place, node in enumerate(to.nodes):
        graph.node.insert(place, node)


def _swapped(graph: onnx.GraphProto, image: str) -> bool:
    """Swap the channels of the one convolution that reads the image, if there is just one."""
    readers = [node for node in graph.node if image in node.input]
    if len(readers) != 1 or readers[0].op_type != "Conv":
        return False
    weights = next((one for one in graph.initializer if one.name == readers[0].input[1]), None)
    if weights is None or weights.dims[1] != 3:
        return False
    swapped = numpy_helper.to_array(weights)[:, ::-1].copy()
    graph.initializer.append(numpy_helper.from_array(swapped, f"{weights.name}/bgr"))
    readers[0].input[1] = f"{weights.name}/bgr"
    return True
