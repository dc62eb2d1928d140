"""An OpenVINO detector (`.xml` and `.bin`), and the same with our input and head."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper
from openvino.preprocess import ColorFormat, PrePostProcessor

from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.networks.exported import (
    ANCHOR_MAP_DIMS,
    INPUT_NAME,
    NEW_OPSET,
    OTHER_SIZE,
    ExportedNetwork,
    Head,
    Normalisation,
    RewrittenNetwork,
    check_task,
    chosen_size,
)
from perception_nodes.networks.graph_writer import Writer
from perception_nodes.networks.model import ModelError
from perception_nodes.networks.openvino_core import core, last_line

SLICES = ("Slice", "StridedSlice")
CONVOLUTIONS = ("Convolution", "GroupConvolution")


@dataclass(frozen=True)
class OpenvinoNetwork(ExportedNetwork):
    """A detector that was exported as OpenVINO's two files.

    Attributes:
        network: the graph, with fixed shapes.
    """

    network: Any = None

    def run(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See `ExportedNetwork`."""
        try:
            found = core().compile_model(self.network, "CPU")(image)
        except RuntimeError as error:
            raise ModelError(f"{self.path} does not run ({last_line(error)})") from error
        return {name: found[place] for place, name in enumerate(self.outputs)}


def read_openvino(path: Path, size: tuple[int, int] | None) -> OpenvinoNetwork:
    """Read an OpenVINO model.

    Args:
        path: the `.xml` file; its weights are beside it, in a `.bin` file.
        size: width and height of the input, for a network that leaves them open.

    Raises:
        ModelError: it cannot be used; the text says why and what to do.
    """
    weights = path.with_suffix(".bin")
    for file in (path, weights):
        if not file.is_file():
            raise ModelError(f"{file} is not there; an OpenVINO model is {path.name} and its .bin")
    try:
        network = core().read_model(str(path), str(weights))
    except RuntimeError as error:
        raise ModelError(
            f"{path} and {weights.name} are no whole OpenVINO model ({last_line(error)}); convert "
            "it again"
        ) from error
    facts = _facts_beside(path)
    check_task(path, facts)
    if len(network.inputs) != 1:
        raise ModelError(f"{path} has {len(network.inputs)} inputs; a detector has one image")
    image = network.input(0)
    shape = [0 if dim.is_dynamic else dim.get_length() for dim in image.get_partial_shape()]
    if len(shape) != 4 or shape[1] != 3 or shape[0] > 1 or image.element_type != ov.Type.f32:
        raise ModelError(
            f"{path}: the input is {image.element_type.to_string()} {shape}, not f32 [1, 3, "
            "height, width]; convert it from ONNX as it is"
        )
    _check_weights(path, network)
    fixed = (shape[3], shape[2]) if shape[2] and shape[3] else None
    width, height = chosen_size(path, facts, fixed, size)
    try:
        network.reshape({image: [1, 3, height, width]})
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not run at {width}x{height} ({last_line(error)}); {OTHER_SIZE}"
        ) from error
    answers = [
        result
        for result in network.get_results()
        if len(result.get_output_partial_shape(0)) != ANCHOR_MAP_DIMS
    ]
    if answers:
        network = ov.Model(answers, network.get_parameters(), "detector")
    shapes = {}
    for number, output in enumerate(network.outputs):
        if output.get_partial_shape().is_dynamic:
            raise ModelError(
                f"{path} has outputs of open size; convert it again without NMS inside"
            )
        name = min(output.names) if output.names else f"output{number}"
        shapes[name] = tuple(output.get_shape())
    operators = frozenset(op.get_type_name() for op in network.get_ops())
    targets = network.input(0).get_target_inputs()
    readers = [target.get_node().get_type_name() for target in targets]
    sliced = len(readers) > 1 and set(readers) <= {*SLICES}
    dead = _dead(network)
    return OpenvinoNetwork(
        path, INPUT_NAME, width, height, shapes, operators, sliced, facts, dead, network
    )


def rewrite_openvino(
    exported: OpenvinoNetwork,
    head: Head,
    classes: int,
    kept: Sequence[int],
    normalisation: Normalisation,
) -> RewrittenNetwork:
    """Give a network our input and outputs; see `rewrite_onnx`."""
    network = exported.network
    to = Writer()
    boxes, scores = head.write(exported, classes, to)
    made = [boxes, to.some(scores, kept, classes)]
    names = ["boxes", "scores"]
    to.nodes += [
        helper.make_node("Identity", [old], [new]) for old, new in zip(made, names, strict=True)
    ]
    types = {ov.Type.i64: TensorProto.INT64, ov.Type.i32: TensorProto.INT32}
    kinds = [output.get_element_type() for output in network.outputs]
    values = [
        helper.make_tensor_value_info(name, types.get(kind, TensorProto.FLOAT), shape)
        for (name, shape), kind in zip(exported.outputs.items(), kinds, strict=True)
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(to.nodes, "head", values, outputs, to.constants)
    opset = [helper.make_opsetid("", NEW_OPSET)]
    written = helper.make_model(graph, opset_imports=opset, ir_version=8)
    tail = core().read_model(onnx.shape_inference.infer_shapes(written).SerializeToString())
    places = {name: place for place, name in enumerate(exported.outputs)}
    for parameter in tail.get_parameters():
        (name,) = places.keys() & parameter.output(0).names
        origin = network.get_results()[places[name]].input_value(0)
        parameter.output(0).replace(origin)
    whole = ov.Model(tail.get_results(), network.get_parameters(), "detector")
    for output, name in zip(whole.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    whole = _taking_bytes(whole, normalisation)
    count = whole.output(0).get_shape()[2]
    parameters = sum(
        int(np.prod(op.get_output_shape(0)))
        for op in whole.get_ops()
        if op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.f32
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.xml"
        ov.save_model(whole, path, compress_to_fp16=False)
        files = {"xml": path.read_bytes(), "bin": path.with_suffix(".bin").read_bytes()}
    described = {"head": "cells", "cells": count, "suppressed": head.suppressed}
    return RewrittenNetwork(files, described | {"box": names[:1], "class": names[1:]}, parameters)


def _taking_bytes(network: Any, wanted: Normalisation) -> Any:
    processor = PrePostProcessor(network)
    entry = processor.input(0)
    given = entry.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    given.set_color_format(ColorFormat.BGR)
    entry.model().set_layout(ov.Layout("NCHW"))
    steps = entry.preprocess().convert_element_type(ov.Type.f32)
    if wanted.color == "RGB":
        steps = steps.convert_color(ColorFormat.RGB)
    steps.mean(list(wanted.mean)).scale(list(wanted.std))
    made = processor.build()
    made.input(0).get_tensor().set_names({INPUT_NAME})
    return made


def _dead(network: Any) -> tuple[str, ...]:
    weights = {
        op.get_friendly_name(): op.input_value(1).get_node()
        for op in network.get_ops()
        if op.get_type_name() in CONVOLUTIONS
    }
    return tuple(
        name
        for name, one in weights.items()
        if one.get_type_name() == "Constant" and not one.data.any()
    )


def _check_weights(path: Path, network: Any) -> None:
    """Refuse weights that are not numbers, or in half precision."""
    for op in network.get_ops():
        if op.get_type_name() != "Constant":
            continue
        if op.get_element_type() in (ov.Type.f16, ov.Type.bf16):
            raise ModelError(
                f"{path} is in half precision; convert it again with compress_to_fp16=False"
            )
        if op.get_element_type() == ov.Type.f32 and not np.isfinite(op.data).all():
            raise ModelError(f"{path}: weights of {op.get_friendly_name()!r} are not finite")


def _facts_beside(path: Path) -> dict[str, str]:
    """The metadata that Ultralytics writes beside the files."""
    file = path.with_name("metadata.yaml")
    if not file.is_file():
        return {}
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ModelError(f"{file} cannot be read: {error}; move it away") from error
    return {str(k): str(v) for k, v in values.items()} if isinstance(values, dict) else {}
