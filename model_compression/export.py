"""Write a trained road detector as a float ONNX file that takes the camera's bytes."""

import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from ultralytics.nn.modules import C2f

from model_compression.contract import INPUT_NAME, OUTPUT_NAMES

OPSET = 17


def take_bgr(model: nn.Module) -> nn.Module:
    """Return a copy whose first convolution expects BGR, at no cost at run time."""
    model = deepcopy(model).eval()
    weight = model.model[0].conv.weight
    weight.data = weight.data.flip(1)
    return model


def split_statically(model: nn.Module) -> None:
    """Let C2f blocks split at a constant channel, rather than compute where half of them is."""
    for module in model.modules():
        if isinstance(module, C2f):
            module.forward = module.forward_split


def take_bytes(graph: onnx.GraphProto, float_name: str, size_px: tuple[int, int]) -> None:
    """Replace the float NCHW input by uint8 NHWC: one dequantization and a transpose.

    The dequantization belongs to the first convolution, which can then run on the bytes as they
    are; a subtraction or division would force a full-size float image. It stands before the
    transpose: behind it, OpenVINO 2026.4 makes the first convolution a float one.
    """
    shape = (1, size_px[1], size_px[0], 3)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(1 / 255), "image_scale"),
            numpy_helper.from_array(np.uint8(0), "image_zero_point"),
        ]
    )
    dequantize = helper.make_node(
        "DequantizeLinear", [INPUT_NAME, "image_scale", "image_zero_point"], ["image_dq"]
    )
    transpose = helper.make_node("Transpose", ["image_dq"], [float_name], perm=[0, 3, 1, 2])
    graph.node.insert(0, dequantize)
    graph.node.insert(1, transpose)


def inline_identities(graph: onnx.GraphProto) -> None:
    """Let every layer name its weights itself: the exporter stores equal ones once."""
    same = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    kept = [node for node in graph.node if node.op_type != "Identity"]
    for node in kept:
        node.input[:] = [same.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)


def export(model: nn.Module, path: Path, size_px: tuple[int, int]) -> onnx.ModelProto:
    """Write the float32 ONNX file with the contract's input, of width and height, and outputs."""
    model = take_bgr(model)
    split_statically(model)
    partial = path.with_suffix(".partial")
    example = torch.zeros(1, 3, size_px[1], size_px[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, and folds BatchNorm
        torch.onnx.export(
            model,
            (example,),
            str(partial),
            opset_version=OPSET,
            input_names=["image_float"],
            output_names=list(OUTPUT_NAMES),
            dynamo=False,
        )
    exported = onnx.load(partial)
    inline_identities(exported.graph)
    take_bytes(exported.graph, "image_float", size_px)
    del exported.graph.value_info[:]
    exported = onnx.shape_inference.infer_shapes(exported, strict_mode=True)
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, partial)
    partial.rename(path)
    return exported
