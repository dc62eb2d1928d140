"""An ONNX detector with our input and head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from perception_nodes.networks.cell_heads import Grid
from perception_nodes.networks.head import Head, Normalisation, Writer
from perception_nodes.networks.image import take_bytes
from perception_nodes.networks.levels import REG_MAX, find_levels
from perception_nodes.networks.model import ModelError
from perception_nodes.networks.rewritten import Rewritten
from perception_nodes.networks.source import OnnxSource


def rewrite_onnx(
    source: OnnxSource,
    head: Head,
    classes: int,
    kept: Sequence[int],
    normalisation: Normalisation,
) -> Rewritten:
    """Give a network our input and outputs.

    Args:
        source: the network.
        head: its head.
        classes: number of its classes.
        kept: those to keep, in the order that they are to have.
        normalisation: what it expects of its pixels.
    """
    network = onnx.ModelProto()
    network.CopyFrom(source.network)
    # What it says is read already, and other tools of ours read their own facts there.
    del network.metadata_props[:]
    levels, strides = None, None
    if isinstance(head, Grid) and (strides := head.strides(source)):
        levels = find_levels(source, strides, classes)
    outputs: dict[str, Any]
    if levels is not None and strides is not None:
        made = [*levels[0], *levels[1]]
        if list(kept) != list(range(classes)):
            for name in levels[1]:
                _keep_channels(network.graph, name, kept)
        kinds = [[f"{kind}_{stride}" for stride in strides] for kind in ("box", "class")]
        names = [*kinds[0], *kinds[1]]
        outputs = {"head": "levels", "strides": list(strides), "reg_max": REG_MAX}
        outputs |= dict(zip(("box", "class"), kinds, strict=True))
    else:
        to = Writer()
        boxes, scores = head.write(source, classes, to)
        made = [boxes, to.some(scores, kept, classes)]
        network.graph.node.extend(to.nodes)
        network.graph.initializer.extend(to.constants)
        names = ["boxes", "scores"]
        outputs = {"head": "cells", "cells": 0, "suppressed": head.suppressed}
        outputs |= {"box": names[:1], "class": names[1:]}
    take_bytes(network, source, normalisation)
    _end_at(network, dict(zip(made, names, strict=True)))
    network = onnx.shape_inference.infer_shapes(network)
    if levels is None:
        outputs["cells"] = network.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    try:
        onnx.checker.check_model(network)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"{source.path} is no network any more with our input and outputs "
            f"({' '.join(str(error).split())}); where a tensor inside it has their name, rename it"
        ) from error
    weights = [
        tensor for tensor in network.graph.initializer if tensor.data_type == TensorProto.FLOAT
    ]
    parameters = sum(int(np.prod(tensor.dims)) for tensor in weights)
    return Rewritten({"onnx": network.SerializeToString()}, outputs, parameters)


def _keep_channels(graph: onnx.GraphProto, output: str, kept: Sequence[int]) -> None:
    """Leave only some channels of the convolution that computes a tensor."""
    node = next(node for node in graph.node if output in node.output)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for place, name in enumerate(node.input[1:], start=1):
        values = numpy_helper.to_array(tensors[name])[list(kept)]
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
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names.values()
    )
