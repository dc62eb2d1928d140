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
from openvino import opset13 as opset
from openvino.preprocess import ColorFormat, PrePostProcessor

from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.networks.exported import (
    ANCHOR_MAP_DIMS,
    INPUT_NAME,
    MOST_OBJECTS,
    NEW_OPSET,
    OTHER_SIZE,
    ExportedNetwork,
    Normalisation,
    RewrittenNetwork,
    chosen_size,
)
from perception_nodes.networks.graph_writer import Writer
from perception_nodes.networks.head_layouts import MAX_OBJECTS
from perception_nodes.networks.head_writer import write_head
from perception_nodes.networks.heads import FoundHead
from perception_nodes.networks.model import ModelError, Shape
from perception_nodes.networks.openvino_core import core, last_line

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
HALF = (ov.Type.f16, ov.Type.bf16)
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
            found = core().compile_model(self.network, "CPU", EXACT)(image)
        except RuntimeError as error:
            raise ModelError(f"{self.path} does not run ({last_line(error)})") from error
        return {name: found[place] for place, name in enumerate(self.outputs)}


def read_openvino(path: Path, size: tuple[int, int] | None) -> OpenvinoNetwork:
    """Read an OpenVINO model, or a TFLite model by OpenVINO.

    Args:
        path: the `.xml` file, whose weights are beside it in a `.bin` file; or the `.tflite` file.
        size: width and height of the input, for a network that leaves them open.

    Raises:
        ModelError: it cannot be used; the text says why and what to do.
    """
    files = [path] if path.suffix.lower() == ".tflite" else [path, path.with_suffix(".bin")]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file} is not there; an OpenVINO model is {path.name} and its .bin")
    try:
        network = core().read_model(*map(str, files))
    except RuntimeError as error:
        names = " and ".join(one.name for one in files)
        why = f"are no whole model ({last_line(error)}); convert or copy it again"
        raise ModelError(f"{names} in {path.parent} {why}") from error
    facts = _facts_beside(path)
    _check_weights(path, network)
    if len(network.inputs) != 1:
        raise ModelError(f"{path} has {len(network.inputs)} inputs; a detector has one image")
    _check_float(path, network)
    network = _channels_first(network)
    image = network.input(0)
    shape = [0 if dim.is_dynamic else dim.get_length() for dim in image.get_partial_shape()]
    if len(shape) != 4 or shape[1] != 3 or shape[0] > 1 or image.element_type != ov.Type.f32:
        wanted = "f32 [1, 3, height, width]; convert it from ONNX as it is"
        raise ModelError(
            f"{path}: the input is {image.element_type.to_string()} {shape}, not {wanted}"
        )
    fixed = (shape[3], shape[2]) if shape[2] and shape[3] else None
    width, height = chosen_size(path, facts, fixed, size)
    try:
        network.reshape({image: [1, 3, height, width]})
    except RuntimeError as error:
        why = f"does not run at {width}x{height} ({last_line(error)}); {OTHER_SIZE}"
        raise ModelError(f"{path} {why}") from error
    answers = [
        result
        for result in network.get_results()
        if len(result.get_output_partial_shape(0)) != ANCHOR_MAP_DIMS
    ]
    if answers:
        network = ov.Model(answers, network.get_parameters(), "detector")
    shapes, axes = {}, {}
    for number, output in enumerate(network.outputs):
        name = min(output.names) if output.names else f"output{number}"
        shapes[name], axis = _shape_of(output)
        if axis is not None:
            axes[name] = axis
    operators = frozenset(op.get_type_name() for op in network.get_ops())
    readers = [target.get_node().get_type_name() for target in network.input(0).get_target_inputs()]
    sliced = len(readers) > 1 and set(readers) <= {*SLICES}
    dead = _dead(network)
    ids = frozenset(op.get_friendly_name() for op in network.get_ops())
    return OpenvinoNetwork(
        path, INPUT_NAME, width, height, shapes, operators, sliced, facts, dead, ids, axes, network
    )


def _shape_of(output: Any) -> tuple[Shape, int | None]:
    """The largest shape of an output, and its axis of open size."""
    shape, axis = [], None
    for number, dim in enumerate(output.get_partial_shape()):
        size = dim.get_max_length()
        if dim.is_dynamic:
            axis = number
            size = size if 0 < size <= MAX_OBJECTS else MOST_OBJECTS
        shape.append(size)
    return tuple(shape), axis


def rewrite_openvino(
    exported: OpenvinoNetwork,
    head: FoundHead,
    classes: int,
    kept: Sequence[Sequence[int]],
    normalisation: Normalisation,
) -> RewrittenNetwork:
    """Give a network our input and outputs; see `rewrite_onnx`."""
    network = exported.network
    to = Writer()
    boxes, scores = write_head(head, classes, to)
    made = [boxes, to.some(scores, kept, classes)]
    names = ["boxes", "scores"]
    renamed = zip(made, names, strict=True)
    to.nodes += [helper.make_node("Identity", [old], [new]) for old, new in renamed]
    types = {ov.Type.i64: TensorProto.INT64, ov.Type.i32: TensorProto.INT32}
    kinds = [output.get_element_type() for output in network.outputs]
    values = [
        helper.make_tensor_value_info(
            name,
            types.get(kind, TensorProto.FLOAT),
            [None if axis == exported.open.get(name) else size for axis, size in enumerate(shape)],
        )
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
        parameter.output(0).replace(network.get_results()[places[name]].input_value(0))
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
    described = {"head": "cells", "cells": count, "suppressed": head.head.suppressed}
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
    found = [op for op in network.get_ops() if op.get_type_name() in CONVOLUTIONS]
    weights = {op.get_friendly_name(): op.input_value(1).get_node() for op in found}
    constants = {n: one.data for n, one in weights.items() if one.get_type_name() == "Constant"}
    return tuple(name for name, values in constants.items() if not values.any())


def _check_float(path: Path, network: Any) -> None:
    """Refuse a network whose ends are 8-bit codes, at a step that only its own runtime knows."""
    kinds = [one.get_element_type() for one in (*network.inputs, *network.outputs)]
    if {ov.Type.i8, ov.Type.u8} & {*kinds}:
        raise ModelError(
            f"{path} is quantized already, its image and its answer too (full integer); take the "
            "float file of the same export (float32 or float16), and quantize it here (--int8)"
        )


def _channels_first(network: Any) -> Any:
    """The network with an image [1, 3, height, width], if its own is [1, height, width, 3]."""
    (own,) = network.get_parameters()
    shape = own.get_partial_shape()
    if len(shape) != 4 or shape[3] != ov.Dimension(3) or shape[1] == ov.Dimension(3):
        return network
    image = opset.parameter([shape[0], shape[3], shape[1], shape[2]], own.get_element_type())
    own.output(0).replace(opset.transpose(image, [0, 2, 3, 1]).output(0))
    return ov.Model(network.get_results(), [image], "detector")


def _check_weights(path: Path, network: Any) -> None:
    """Refuse weights that are not numbers."""
    for op in network.get_ops():
        if op.get_type_name() == "Constant" and op.get_element_type() in (ov.Type.f32, *HALF):
            if not np.isfinite(op.data).all():
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
