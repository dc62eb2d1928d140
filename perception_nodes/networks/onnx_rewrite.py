"""An ONNX detector with our input and head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from perception_nodes.networks.exported import INPUT_NAME, Normalisation, RewrittenNetwork
from perception_nodes.networks.graph_writer import Writer
from perception_nodes.networks.head_writer import write_head
from perception_nodes.networks.heads import FoundHead
from perception_nodes.networks.levels import REG_MAX, find_levels
from perception_nodes.networks.model import ModelError
from perception_nodes.networks.onnx_file import OnnxNetwork


def rewrite_onnx(
    exported: OnnxNetwork,
    head: FoundHead,
    classes: int,
    kept: Sequence[Sequence[int]],
    normalisation: Normalisation,
) -> RewrittenNetwork:
    """Give a network our input and outputs.

    Args:
        exported: the network.
        head: its head.
        classes: number of its classes.
        kept: indices of the classes to keep, in their new order; those of a group become one.
        normalisation: what it expects of its pixels.
    """
    network = onnx.ModelProto()
    network.CopyFrom(exported.network)
    # This metadata was read already, and other tools of ours read facts of their own there.
    del network.metadata_props[:]
    strides = head.strides
    alone = [one for group in kept for one in group]
    has_levels = head.name == "ultralytics" and len(alone) == len(kept)
    levels = find_levels(exported, strides, classes) if has_levels else None
    outputs: dict[str, Any]
    if levels is not None:
        made = [*levels[0], *levels[1]]
        if alone != list(range(classes)):
            for name in levels[1]:
                _keep_channels(network.graph, name, alone)
        kinds = [[f"{kind}_{stride}" for stride in strides] for kind in ("box", "class")]
        names = [*kinds[0], *kinds[1]]
        outputs = {"head": "levels", "strides": list(strides), "reg_max": REG_MAX}
        outputs |= dict(zip(("box", "class"), kinds, strict=True))
    else:
        to = Writer()
        boxes, scores = write_head(head, classes, to)
        made = [boxes, to.some(scores, kept, classes)]
        network.graph.node.extend(to.nodes)
        network.graph.initializer.extend(to.constants)
        names = ["boxes", "scores"]
        outputs = {"head": "cells", "cells": 0, "suppressed": head.head.suppressed}
        outputs |= {"box": names[:1], "class": names[1:]}
    _take_bytes(network, exported, normalisation)
    _end_at(network, dict(zip(made, names, strict=True)))
    network = onnx.shape_inference.infer_shapes(network)
    if levels is None:
        outputs["cells"] = network.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    try:
        onnx.checker.check_model(network)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"{exported.path} is no network any more with our input and outputs "
            f"({' '.join(str(error).split())}); where a tensor inside it has their name, rename it"
        ) from error
    weights = [one for one in network.graph.initializer if one.data_type == TensorProto.FLOAT]
    parameters = sum(int(np.prod(one.dims)) for one in weights)
    return RewrittenNetwork({"onnx": network.SerializeToString()}, outputs, parameters)


def _keep_channels(graph: onnx.GraphProto, output: str, kept: list[int]) -> None:
    """Leave only some channels of the convolution that computes a tensor."""
    node = next(node for node in graph.node if output in node.output)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for place, name in enumerate(node.input[1:], start=1):
        values = numpy_helper.to_array(tensors[name])[kept]
        graph.initializer.append(numpy_helper.from_array(values, f"{name}/kept"))
        node.input[place] = f"{name}/kept"


def _end_at(network: onnx.ModelProto, names: dict[str, str]) -> None:
    """Make these tensors the outputs, by new names, and drop what they do not need."""
    graph = network.graph
    writers = {name: node for node in graph.node for name in node.output}
    needed, open_names = set[str](), list(names)
    while open_names:
        name = open_names.pop()
        if name not in needed:
            needed.add(name)
            open_names += writers[name].input if name in writers else []
    kept = [node for node in graph.node if needed & set(node.output)]
    taken = {name for node in kept for name in (*node.input, *node.output)}
    renamed = dict(names)
    for new in names.values():  # the network's own tensors may have our names
        if new in taken and new not in names:
            renamed[new] = f"{new}/own"
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    for tensor in tensors:
        tensor.name = renamed.get(tensor.name, tensor.name)
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)
    made = helper.make_tensor_value_info
    graph.output.extend(made(name, TensorProto.FLOAT, None) for name in names.values())


def _take_bytes(network: onnx.ModelProto, exported: OnnxNetwork, wanted: Normalisation) -> None:
    """Give a network our input; its results stay the same.

    One dequantization stands in front, which runtimes fuse with the first convolution. If only that
    convolution reads the image, its weights have their channels swapped.
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
    if wanted.color == "RGB" and not _swapped(graph, exported.image):
        pixels = to.op("Gather", pixels, to.constant([2, 1, 0], np.int64), axis=1)
    for node in graph.node:
        node.input[:] = [pixels if name == exported.image else name for name in node.input]
    del graph.input[:]
    shape = (1, exported.height, exported.width, 3)
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
