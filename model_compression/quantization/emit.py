"""Write a float detector and its table of ranges as a Q/DQ file, in the dialect of a runtime.

Two dialects carry the same integers:

- ``u8`` for OpenVINO and ONNX Runtime: activations are uint8 with zero point 128.
- ``s8`` for TensorRT: int8 with zero point 0. A code is that of ``u8`` less 128.

Both have the step amax / 127, so that codes run from -128 to 127 and 0 is code 0. For networks of
ReLU alone half of the codes are never used; one rule for all is worth that bit to the devices,
which then multiply int8 by int8 and need no zero points.

The image. Its code is the byte less 128, its step is the graph's own, mostly 1/255. In ``u8`` the
bytes are read as they are, with zero point 0. TensorRT allows no zero point, so ``s8`` subtracts
128 and gives it back in the first convolution's bias: (b - 128) w = b w - 128 w, summed over every
weight of a channel. That holds at the border too if what is outside of the picture is byte 0, that
is code -128; so ``s8`` has a Pad of -128 steps in front of a convolution without padding. The sums
of products are then the same integers in both, and in hardware.

Where values are rounded: behind a convolution's activation, or behind the residual sum where there
is one; never between. Weights are rounded by ``weights.py``; biases stay float. The head's outputs
stay float. Operators that move values keep them 8-bit by working between two tensors of one scale.
TensorRT does not see that through a Resize, so ``s8`` rounds behind it once more, which changes
nothing: the values are codes already.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from model_compression.errors import CompressionError
from model_compression.quantization.graph import MOVES, Block, Layout, weights_of
from model_compression.quantization.table import SCHEME, RangeTable
from model_compression.quantization.weights import round_weight, weight_scale
from perception_nodes.system.files import write_whole

Dialect = Literal["u8", "s8"]
ZERO_POINT = {"u8": np.uint8(128), "s8": np.int8(0)}


def write_files(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, dict[str, str]]:
    """Write a model's graphs, by dialect, into its folder; gives what `model.yaml` says of them.

    A description that is there is removed first, so that it never names a missing file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").unlink(missing_ok=True)
    files = {}
    for dialect, graph in graphs.items():
        file, content = f"{folder.name}.{dialect}.onnx", graph.SerializeToString()
        write_whole(folder / file, content)
        files[dialect] = {"file": file, "sha256": hashlib.sha256(content).hexdigest()}
    return files


def emit(model: onnx.ModelProto, table: RangeTable, dialect: Dialect) -> onnx.ModelProto:
    """Quantize a float graph.

    Args:
        model: the float graph, as ``model_compression.export`` or ``float_of`` makes it.
        table: its table of ranges.
        dialect: "u8" or "s8".

    Raises:
        CompressionError: the table is not the model's, or the model cannot be quantized.
    """
    layout = table.check(model)
    amax = table.amax
    if dialect == "s8":
        amax |= _resized(model, amax)
    quantized = rewrite(
        model,
        layout,
        amax,
        {block.name for block in layout.blocks} - set(table.float_convolutions),
        table.weight_bits,
        dialect,
    )
    if dialect == "s8":
        _image_to_s8(quantized.graph, layout)
    facts = {
        "scheme": SCHEME,
        "dialect": dialect,
        "weight_bits": table.weight_bits,
        "output_amax": table.outputs,
    }
    for key, value in facts.items():
        quantized.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def rewrite(
    model: onnx.ModelProto,
    layout: Layout,
    amax: dict[str, float],
    convolutions: set[str],
    weight_bits: int,
    dialect: Dialect = "u8",
) -> onnx.ModelProto:
    """Return the graph with some tensors and some convolutions' weights rounded.

    Args:
        model: the float graph.
        layout: of the model.
        amax: by tensor; tensors that are not named stay float.
        convolutions: names of those whose weights are rounded.
        weight_bits: of a weight.
        dialect: how codes are stored.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    del graph.value_info[:]
    weights = weights_of(model)
    blocks = {block.name: block for block in layout.blocks}
    nodes, replaced, added = [], set(), []
    for node in graph.node:
        if node.op_type == "Conv" and node.name in convolutions:
            block = blocks[node.name]
            added += _weight_parameters(block, weights, weight_bits)
            replaced.add(block.weight)
            names = [f"{block.weight}{suffix}" for suffix in ("_q", "_scale", "_zero_point")]
            nodes.append(helper.make_node("DequantizeLinear", names, [block.weight], axis=0))
        node.input[:] = [f"{name}_dq" if name in amax else name for name in node.input]
        nodes.append(node)
        for name in node.output:
            if name in amax:
                nodes += _rounding(name)
                added += [
                    numpy_helper.from_array(np.float32(amax[name] / 127), f"{name}_scale"),
                    numpy_helper.from_array(ZERO_POINT[dialect], f"{name}_zero_point"),
                ]
    kept = [tensor for tensor in graph.initializer if tensor.name not in replaced]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([*kept, *added])
    graph.node.extend(nodes)
    return quantized


def float_of(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Return the float graph of a u8 file: nothing rounded but the weights.

    With the file's table ``emit`` makes the file again, bit for bit.

    Raises:
        CompressionError: it is not a u8 file.
    """
    facts = {entry.key: entry.value for entry in quantized.metadata_props}
    if facts.get("dialect") == json.dumps("s8"):
        raise CompressionError(
            "this is an s8 file, whose first convolution is rewritten; take the u8 file beside it"
        )
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    del model.metadata_props[:]
    graph = model.graph
    image = graph.input[0].name
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    kept, dropped, restored = [], set(), {}
    back: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [back.get(name, name) for name in node.input]
        if node.op_type == "QuantizeLinear":
            dropped |= set(node.input[1:])
            back[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            dropped |= set(node.input)
            codes, scale = (numpy_helper.to_array(tensors[name]) for name in node.input[:2])
            weight = codes.astype(np.float32) * scale[:, None, None, None]
            restored[node.output[0]] = numpy_helper.from_array(weight, node.output[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] != image:
            back[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    remaining = [tensor for tensor in graph.initializer if tensor.name not in dropped]
    # Weights go back where an exporter puts them, in one order whatever was rounded.
    weights = restored | {tensor.name: tensor for tensor in remaining}
    order = [name for node in kept for name in node.input if name in weights]
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(weights[name] for name in dict.fromkeys(order))
    graph.node.extend(kept)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def float_convolutions(quantized: onnx.ModelProto) -> tuple[str, ...]:
    """Name the convolutions of a quantized file whose weights are float."""
    initializers = {tensor.name for tensor in quantized.graph.initializer}
    return tuple(
        node.name
        for node in quantized.graph.node
        if node.op_type == "Conv" and node.input[1] in initializers
    )


def _resized(model: onnx.ModelProto, amax: dict[str, float]) -> dict[str, float]:
    """Name what Resize writes, with the range of what it reads."""
    moved = dict(amax)
    for node in model.graph.node:
        if node.op_type in MOVES and node.input[0] in moved:
            moved |= dict.fromkeys(node.output, moved[node.input[0]])
    return {
        node.output[0]: moved[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Resize"
    }


def _rounding(name: str) -> list[onnx.NodeProto]:
    parameters = [f"{name}_scale", f"{name}_zero_point"]
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"]),
    ]


def _weight_parameters(
    block: Block, weights: dict[str, np.ndarray], bits: int
) -> list[onnx.TensorProto]:
    scale = weight_scale(weights[block.weight], weights[block.bias], bits)
    return [
        numpy_helper.from_array(round_weight(weights[block.weight], scale), f"{block.weight}_q"),
        numpy_helper.from_array(scale, f"{block.weight}_scale"),
        numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{block.weight}_zero_point"),
    ]


def _image_to_s8(graph: onnx.GraphProto, layout: Layout) -> None:
    """Let the first convolution read signed bytes; see the head of this file."""
    dequantize, transpose = graph.node[0], graph.node[1]
    first = next(node for node in graph.node if node.op_type == "Conv")
    ours = (dequantize.op_type, transpose.op_type, first.input[0])
    if ours != ("DequantizeLinear", "Transpose", transpose.output[0]):
        raise CompressionError("the graph does not begin as model_compression.export writes it")
    block = layout.blocks[0]
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    if block.weight in values:
        weight = values[block.weight].astype(np.float64)
    else:
        weight = (
            values[f"{block.weight}_q"]
            * values[f"{block.weight}_scale"].astype(np.float64)[:, None, None, None]
        )
    step = values[dequantize.input[1]]
    shift = 128 * float(step)
    bias = values[block.bias] + shift * weight.sum(axis=(1, 2, 3))
    tensors[block.bias].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), block.bias))

    pads = next(attribute for attribute in first.attribute if attribute.name == "pads")
    top, left, bottom, right = pads.ints
    pads.ints[:] = [0, 0, 0, 0]
    image, signed = layout.image, "image_s8"
    first.input[0] = f"{signed}_dq"
    for name in dequantize.input[1:]:
        graph.initializer.remove(tensors[name])
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(128), "image_middle"),
            numpy_helper.from_array(step, f"{signed}_scale"),
            numpy_helper.from_array(np.int8(0), f"{signed}_zero_point"),
            numpy_helper.from_array(
                np.array([0, 0, top, left, 0, 0, bottom, right], np.int64), "image_border"
            ),
            numpy_helper.from_array(np.float32(-shift), "image_outside"),
        ]
    )
    nodes = [
        helper.make_node("Cast", [image], ["image_bytes"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["image_bytes", "image_middle"], ["image_signed"]),
        helper.make_node("Mul", ["image_signed", f"{signed}_scale"], ["image_scaled"]),
        helper.make_node("Transpose", ["image_scaled"], ["image_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Pad", ["image_planes", "image_border", "image_outside"], [signed]),
        *_rounding(signed),
        *list(graph.node)[2:],
    ]
    del graph.node[:]
    graph.node.extend(nodes)
