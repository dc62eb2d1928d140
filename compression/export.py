"""Write a trained road detector as a float ONNX file that takes the camera's bytes."""

import argparse
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from ultralytics.nn.modules import C2f

from compression.contract import (
    INPUT_HEIGHT_PX,
    INPUT_NAME,
    INPUT_WIDTH_PX,
    OUTPUT_NAMES,
)
from compression.model import build_model, load_model

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


def take_bytes(graph: onnx.GraphProto, float_name: str) -> None:
    """Replace the float NCHW input by uint8 NHWC: one dequantization and a transpose.

    The dequantization belongs to the first convolution, which can then run on the bytes as they
    are; a subtraction or division would force a full-size float image. It stands before the
    transpose: behind it, OpenVINO 2026.4 makes the first convolution a float one.
    """
    shape = (1, INPUT_HEIGHT_PX, INPUT_WIDTH_PX, 3)
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


def export(model: nn.Module, path: Path) -> None:
    """Write the float32 ONNX file with the contract's input and outputs."""
    model = take_bgr(model)
    split_statically(model)
    example = torch.zeros(1, 3, INPUT_HEIGHT_PX, INPUT_WIDTH_PX)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, and folds BatchNorm
        torch.onnx.export(
            model,
            (example,),
            str(path),
            opset_version=OPSET,
            input_names=["image_float"],
            output_names=list(OUTPUT_NAMES),
            dynamo=False,
        )
    exported = onnx.load(path)
    take_bytes(exported.graph, "image_float")
    del exported.graph.value_info[:]
    exported = onnx.shape_inference.infer_shapes(exported, strict_mode=True)
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, path)


def main() -> None:
    """Export a checkpoint, or the COCO weights with no training at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="what compression.train wrote")
    source.add_argument("--coco-weights", type=Path, help="YOLOv8n checkpoint, used untrained")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(
        load_model(args.checkpoint) if args.checkpoint else build_model(args.coco_weights),
        args.out,
    )


if __name__ == "__main__":
    main()
