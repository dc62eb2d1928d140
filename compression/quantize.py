"""Quantize a float ONNX detector to 8 bits (Q/DQ) from one table of activation ranges.

The ``u8`` dialect, right on OpenVINO and ONNX Runtime alike:

- Activations are uint8 with one scale and zero point a stored tensor; tensors that meet in a
  Concat (also behind Split, MaxPool and Resize, which only move values) share theirs.
- No rounding between a convolution and its activation, nor before a residual Add.
- Weights are int8, symmetric, one scale an output channel, and within [-63, 63]: x86 without
  VNNI adds pairs of uint8 x int8 products in 16 bits, and saturates with larger weights, so that
  the same file would give other results on other computers.
- The last convolutions of the head stay float: they are cheap, and their rounding shows most.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from compression.contract import INPUT_NAME, OUTPUT_NAMES
from compression.letterbox import letterbox

MOVES = {"Concat", "Split", "MaxPool", "Resize"}
"""Operators that move values without computing new ones, so that both sides share a scale."""


def stored_tensors(graph: onnx.GraphProto) -> list[str]:
    """Name the tensors to be stored as uint8: what activations and residual Adds compute.

    An activation that only feeds an Add is not stored: it is added within the same kernel.
    """
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node.op_type)
    return [
        node.output[0]
        for node in graph.node
        if node.op_type == "Add"
        or (node.op_type == "HardSwish" and readers[node.output[0]] != ["Add"])
    ]


def group_by_scale(graph: onnx.GraphProto, stored: list[str]) -> dict[str, str]:
    """Map each stored tensor to a name shared by all that must have the same scale."""
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
    return {name: root(name) for name in stored}


def measure_ranges(
    model: onnx.ModelProto, tensors: list[str], images: list[Path], percentile: float
) -> dict[str, tuple[float, float]]:
    """Run the float model on images and return each tensor's (lowest, highest) value.

    An image's own bounds are percentiles over its values; the widest image decides.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    low = dict.fromkeys(tensors, 0.0)
    high = dict.fromkeys(tensors, 0.0)
    for path in images:
        frame = letterbox(cv2.imread(str(path)))[0]
        for name, values in zip(
            tensors, session.run(tensors, {INPUT_NAME: frame[None]}), strict=True
        ):
            bounds = np.percentile(values, [100 - percentile, percentile])
            low[name] = min(low[name], float(bounds[0]))
            high[name] = max(high[name], float(bounds[1]))
    return {name: (low[name], high[name]) for name in tensors}


def insert_activation_qdq(
    graph: onnx.GraphProto, groups: dict[str, str], ranges: dict[str, tuple[float, float]]
) -> None:
    """Store each tensor as uint8: insert Q and DQ behind it, with its group's scale."""
    low, high = defaultdict(float), defaultdict(float)
    for name, group in groups.items():
        low[group] = min(low[group], ranges[name][0])
        high[group] = max(high[group], ranges[name][1])
    for group in low:
        scale = np.float32(max(high[group] - low[group], 1e-6) / 255)
        zero_point = np.uint8(np.clip(round(-low[group] / float(scale)), 0, 255))
        graph.initializer.extend(
            [
                numpy_helper.from_array(scale, f"{group}_scale"),
                numpy_helper.from_array(zero_point, f"{group}_zero_point"),
            ]
        )
    nodes = []
    for node in graph.node:
        node.input[:] = [f"{name}_dq" if name in groups else name for name in node.input]
        nodes.append(node)
        for name in set(node.output) & set(groups):
            parameters = [f"{groups[name]}_scale", f"{groups[name]}_zero_point"]
            nodes += [
                helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]),
                helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"]),
            ]
    del graph.node[:]
    graph.node.extend(nodes)


def insert_weight_dq(graph: onnx.GraphProto, bits: int) -> None:
    """Store the weights of all but the head's last convolutions as int8 of ``bits`` bits."""
    largest = 2 ** (bits - 1) - 1
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Conv" and node.output[0] not in OUTPUT_NAMES:
            name = node.input[1]
            values = numpy_helper.to_array(weights[name])
            scale = np.abs(values).max(axis=(1, 2, 3)) / largest
            scale = np.maximum(scale, 1e-9).astype(np.float32)
            rounded = np.rint(values / scale[:, None, None, None]).astype(np.int8)
            graph.initializer.remove(weights[name])
            graph.initializer.extend(
                [
                    numpy_helper.from_array(rounded, f"{name}_q"),
                    numpy_helper.from_array(scale, f"{name}_scale"),
                    numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero_point"),
                ]
            )
            parameters = [f"{name}_q", f"{name}_scale", f"{name}_zero_point"]
            nodes.append(helper.make_node("DequantizeLinear", parameters, [name], axis=0))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def quantize(
    model: onnx.ModelProto,
    images: list[Path],
    weight_bits: int = 7,
    percentile: float = 99.99,
) -> onnx.ModelProto:
    """Return the 8-bit form of a float model, with ranges measured on the given images."""
    stored = stored_tensors(model.graph)
    ranges = measure_ranges(model, stored, images, percentile)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    insert_activation_qdq(quantized.graph, group_by_scale(model.graph, stored), ranges)
    insert_weight_dq(quantized.graph, weight_bits)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def note_facts(model: onnx.ModelProto, args: argparse.Namespace) -> None:
    """Write into the file how it was quantized."""
    facts = {
        "scheme": "u8: uint8 activations, asymmetric, one scale a tensor; int8 weights, "
        "symmetric, one scale an output channel; last head convolutions float",
        "weight_bits": args.weight_bits,
        "calibration_images": args.images,
        "range_percentile": args.percentile,
        "tool": "compression.quantize",
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=json.dumps(value))


def main() -> None:
    """Quantize one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="what compression.export wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="what compression.dataset wrote")
    parser.add_argument("--images", type=int, default=200, help="calibration images")
    parser.add_argument("--percentile", type=float, default=99.99, help="of an image's values")
    parser.add_argument("--weight-bits", type=int, default=7, choices=range(2, 9))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images = sorted((args.data / "images").glob("*.jpg"))
    chosen = np.random.default_rng(args.seed).choice(len(images), args.images, replace=False)
    model = quantize(
        onnx.load(args.model), [images[i] for i in chosen], args.weight_bits, args.percentile
    )
    note_facts(model, args)
    partial = args.out.with_suffix(".partial")
    onnx.save(model, partial)
    partial.rename(args.out)


if __name__ == "__main__":
    main()
