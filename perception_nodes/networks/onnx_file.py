"""An ONNX file as its exporter wrote it: checked, with fixed shapes and folded constants."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from perception_nodes.networks.exported import (
    ANCHOR_MAP_DIMS,
    NEW_OPSET,
    OTHER_SIZE,
    ExportedNetwork,
    check_task,
    chosen_size,
)
from perception_nodes.networks.external_data import named_outside
from perception_nodes.networks.model import MAX_NETWORK_BYTES, ModelError, Shape, in_another_file
from perception_nodes.system.files import read_file

OPSETS = range(11, 24)
"""Opsets that all runtimes here read; older ones define the same operators differently."""
PER_CHANNEL = 13
"""The first opset that can quantize weights by channel; older files are converted to
`NEW_OPSET`."""
SIZES = ("orig_target_sizes", "orig_image_sizes")
"""Names of inputs of DETR-like exports that take the image's size, width first."""
FORMATS = (
    "read are ONNX, OpenVINO's .xml with its .bin, and .pt of Ultralytics; python -m "
    "model_compression.ncnn makes ONNX of NanoDet-Plus for ncnn"
)

UNWANTED = ["SliceConcatToSpaceToDepthFusion"]
"""Simplifications of ONNX Runtime that other runtimes are slower with, or do not know."""


@dataclass(frozen=True)
class OnnxNetwork(ExportedNetwork):
    """A detector that was exported as ONNX.

    Attributes:
        network: the graph, with fixed shapes.
    """

    network: onnx.ModelProto = field(default_factory=onnx.ModelProto)

    def run(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See `ExportedNetwork`."""
        names = list(self.outputs)
        return dict(
            zip(names, session_of(self.network).run(names, {self.image: image}), strict=True)
        )


def read_onnx(path: Path, size: tuple[int, int] | None) -> OnnxNetwork:
    """Read an ONNX file.

    Args:
        path: the file.
        size: width and height of the input, for a network that leaves them open.

    Raises:
        ModelError: it cannot be used; the text says why and what to do.
    """
    network = _parsed(path)
    _check(path, network)
    facts = {entry.key: entry.value for entry in network.metadata_props}
    check_task(path, facts)
    image = _fix_inputs(path, network, facts, size)
    network = _folded(path, _with_newer_operators(path, network), size)
    shapes = _outputs_of(path, network)
    height, width = _dims(network.graph.input[0])[2:]
    operators = frozenset(node.op_type for node in network.graph.node)
    readers = [node.op_type for node in network.graph.node if image in node.input]
    sliced = len(readers) > 1 and set(readers) == {"Slice"}
    dead = _dead(network.graph)
    return OnnxNetwork(path, image, width, height, shapes, operators, sliced, facts, dead, network)


def _dead(graph: onnx.GraphProto) -> tuple[str, ...]:
    zero = {one.name for one in graph.initializer if not numpy_helper.to_array(one).any()}
    return tuple(n.input[1] for n in graph.node if n.op_type == "Conv" and n.input[1] in zero)


def session_of(network: onnx.ModelProto) -> ort.InferenceSession:
    """Open a network in ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    content = network.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        content = read_file(path, MAX_NETWORK_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    try:
        network = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, which has no public name
        remedy = "export or copy it again" if path.suffix.lower() == ".onnx" else FORMATS
        raise ModelError(f"{path} is not a whole ONNX file; {remedy}") from error
    graph = network.graph
    if any(
        isinstance(one.name, bytes) for one in (*graph.input, *graph.output, *graph.initializer)
    ):
        # protobuf gives this for a text that is not UTF-8.
        raise ModelError(f"{path} is damaged: its names are no text; export or copy it again")
    if not network.graph.node or not network.graph.output:
        raise ModelError(f"{path} has no network in it; export it again")
    return network


def _check(path: Path, network: onnx.ModelProto) -> None:
    """Refuse a network that no option can make usable."""
    graph = network.graph
    opset = next((one.version for one in network.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise ModelError(
            f"{path} has opset {opset}; {OPSETS[0]} to {OPSETS[-1]} are read: export it again with "
            "opset=17"
        )
    foreign = sorted({(n.domain, n.op_type) for n in graph.node if n.domain not in ("", "ai.onnx")})
    if foreign:
        names = ", ".join(f"{domain}.{kind}" for domain, kind in foreign[:3])
        raise ModelError(
            f"{path} has custom operators ({names}), which only some runtimes know; export it "
            "again with standard ones, and NMS outside (nms=False)"
        )
    tensors = list(graph.initializer)
    if other := named_outside(network):
        raise in_another_file(path, other)
    values = [*graph.input, *graph.output]
    types = {v.type.tensor_type.elem_type for v in values} | {one.data_type for one in tensors}
    if types & {TensorProto.FLOAT16, TensorProto.BFLOAT16}:
        raise ModelError(
            f"{path} is in half precision; export it again in float32 (half=False), and quantize "
            "it here (--int8)"
        )
    for one in tensors:
        if one.data_type == TensorProto.FLOAT and not _is_sound(one):
            raise ModelError(
                f"{path}: weights {one.name!r} are not whole, or not finite; train, export or copy "
                "it again"
            )


def _is_sound(tensor: onnx.TensorProto) -> bool:
    try:
        return bool(np.isfinite(numpy_helper.to_array(tensor)).all())
    except ValueError:  # the values are missing
        return False


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The dimensions of a tensor; 0 for an open one, which some exporters write as -1."""
    return tuple(max(dim.dim_value, 0) for dim in value.type.tensor_type.shape.dim)


def _fix_inputs(
    path: Path, network: onnx.ModelProto, facts: dict[str, str], size: tuple[int, int] | None
) -> str:
    """Fix the image's size, and turn the input that asks for this size into a constant."""
    graph = network.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    images = [one for one in inputs if len(_dims(one)) == 4]
    others = [one for one in inputs if one not in images]
    said = ", ".join(f"{' '.join(one.name.split())} {list(_dims(one))}" for one in inputs)
    if len(images) != 1 or any(one.name not in SIZES for one in others):
        raise ModelError(
            f"{path} has the inputs {said}; a detector has one image, and at most "
            f"{SIZES[0]}: export it for inference"
        )
    image = images[0]
    batch, channels, height, width = _dims(image)
    if image.type.tensor_type.elem_type != TensorProto.FLOAT or channels != 3 or batch > 1:
        raise ModelError(
            f"{path}: input {said} is not float32 [1, 3, height, width]; export it as PyTorch "
            "does, for one image at a time"
        )
    fixed = (width, height) if width and height else None
    chosen = chosen_size(path, facts, fixed, size)
    for dim, value in zip(image.type.tensor_type.shape.dim, (1, 3, *chosen[::-1]), strict=True):
        dim.Clear()
        dim.dim_value = value
    for one in others:
        graph.input.remove(one)
        kind = onnx.helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)
        graph.initializer.append(numpy_helper.from_array(np.array([chosen], kind), one.name))
    return str(image.name)


def _with_newer_operators(path: Path, network: onnx.ModelProto) -> onnx.ModelProto:
    if network.opset_import[0].version >= PER_CHANNEL:
        return network
    try:
        return onnx.version_converter.convert_version(network, NEW_OPSET)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be brought from opset {network.opset_import[0].version} to "
            f"{NEW_OPSET} ({_short(error)}); export it again with opset={NEW_OPSET}"
        ) from error


def _folded(path: Path, network: onnx.ModelProto, size: tuple[int, int] | None) -> onnx.ModelProto:
    """The network after ONNX Runtime has computed all constants in it."""
    # The exporter's shapes may be wrong for another size.
    del network.graph.value_info[:]
    for output in network.graph.output:
        output.type.tensor_type.ClearField("shape")
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        try:
            ort.InferenceSession(
                network.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=UNWANTED,
            )
        except Exception as error:
            remedy = "export it again" if size is None else OTHER_SIZE
            raise ModelError(
                f"{path}: ONNX Runtime refuses it ({_short(error)}); {remedy}"
            ) from error
        folded = onnx.load(options.optimized_model_filepath)
    kept = [one for one in folded.opset_import if one.domain in ("", "ai.onnx")]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    folded.ir_version = min(folded.ir_version, 10)
    return onnx.shape_inference.infer_shapes(folded)


def _outputs_of(path: Path, network: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of the outputs, as a run gives them."""
    session = session_of(network)
    image = network.graph.input[0]
    try:
        found = session.run(None, {image.name: np.full(_dims(image), 0.4, np.float32)})
    except Exception as error:
        raise ModelError(
            f"{path} does not run at {_dims(image)[3]}x{_dims(image)[2]} ({_short(error)}); "
            f"{OTHER_SIZE}"
        ) from error
    names = [output.name for output in session.get_outputs()]
    shapes = {name: tuple(array.shape) for name, array in zip(names, found, strict=True)}
    answers = {name: shape for name, shape in shapes.items() if len(shape) != ANCHOR_MAP_DIMS}
    return answers or shapes


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
