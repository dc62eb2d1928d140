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
from onnx.external_data_helper import load_external_data_for_model

from perception_nodes.networks import exported
from perception_nodes.networks.external_data import messages, named_outside
from perception_nodes.networks.model import MAX_NETWORK_BYTES, ModelError, Shape
from perception_nodes.system.files import read_file

OPSETS = range(7, 24)
"""Opsets that can be read here, or converted to `NEW_OPSET`."""
PER_CHANNEL = 13
"""The first opset that can quantize weights by channel; older files are converted."""
HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
SIZES = ("orig_target_sizes", "orig_image_sizes")
"""Names of inputs of DETR-like exports that take the image's size, width first."""
PADDLE = {"im_shape": lambda width, height: (height, width), "scale_factor": lambda *_: (1, 1)}
"""Names of inputs of PaddleDetection, which take the image's size and its scale, height first."""
PLUGIN = "EfficientNMS_TRT"
"""TensorRT's suppression, which is cut off: the run time has its own."""
OF_OPEN_SIZE = {"NonMaxSuppression", "NonZero"}
"""Operators whose results have as many rows as there are objects."""
FORMATS = (
    "read are ONNX, OpenVINO's .xml with its .bin, TFLite, .pt of Ultralytics and .safetensors of "
    "transformers; python -m model_compression.ncnn makes ONNX of NanoDet-Plus for ncnn"
)

UNWANTED = ["SliceConcatToSpaceToDepthFusion"]
"""Simplifications of ONNX Runtime that other runtimes are slower with, or do not know."""


@dataclass(frozen=True)
class OnnxNetwork(exported.ExportedNetwork):
    """A detector that was exported as ONNX.

    Attributes:
        network: the graph, with fixed shapes.
    """

    network: onnx.ModelProto = field(default_factory=onnx.ModelProto)

    def run(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See `ExportedNetwork`."""
        names = list(self.outputs)
        answers = session_of(self.network).run(names, {self.image: image})
        return dict(zip(names, answers, strict=True))


def read_onnx(path: Path, size: tuple[int, int] | None) -> OnnxNetwork:
    """Read an ONNX file.

    Args:
        path: the file.
        size: width and height of the input, for a network that leaves them open.

    Raises:
        ModelError: it cannot be used; the text says why and what to do.
    """
    network = _parsed(path)
    _load_other_files(path, network)
    _widen(network)
    _cut_suppression(network.graph)
    _check(path, network)
    facts = {entry.key: entry.value for entry in network.metadata_props}
    names = frozenset(one.name for one in (*network.graph.node, *network.graph.initializer))
    image = _fix_inputs(path, network, facts, size)
    network = _folded(path, _with_newer_operators(path, network), size)
    shapes, axes = _outputs_of(path, network)
    height, width = _dims(network.graph.input[0])[2:]
    operators = frozenset(node.op_type for node in network.graph.node)
    readers = [node.op_type for node in network.graph.node if image in node.input]
    sliced = len(readers) > 1 and set(readers) == {"Slice"}
    dead = _dead(network.graph)
    return OnnxNetwork(
        path, image, width, height, shapes, operators, sliced, facts, dead, names, axes, network
    )


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
    named = (*graph.input, *graph.output, *graph.initializer)
    if any(isinstance(one.name, bytes) for one in named):
        # protobuf gives this for a text that is not UTF-8.
        raise ModelError(f"{path} is damaged: its names are no text; export or copy it again")
    if not network.graph.node or not network.graph.output:
        raise ModelError(f"{path} has no network in it; export it again")
    return network


def _load_other_files(path: Path, network: onnx.ModelProto) -> None:
    """Load weights from the files beside it, where PyTorch's newer exporter writes them."""
    other = named_outside(network)
    try:
        load_external_data_for_model(network, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        why = f"which cannot be read beside it ({_short(error)}); put both files into one folder"
        raise ModelError(f"{path} keeps its weights in {other}, {why}") from error


def _widen(network: onnx.ModelProto) -> None:
    """Turn half precision into float32, which is exact."""
    for tensor in messages(network, TensorProto):
        if tensor.data_type in HALF:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for kind in messages(network, onnx.TypeProto.Tensor):
        if kind.elem_type in HALF:
            kind.elem_type = TensorProto.FLOAT
    for attribute in messages(network, onnx.AttributeProto):
        if attribute.name in ("to", "dtype") and attribute.i in HALF:
            attribute.i = TensorProto.FLOAT


def _cut_suppression(graph: onnx.GraphProto) -> None:
    """End in front of TensorRT's plugin, whose inputs are boxes and class scores."""
    for plugin in [node for node in graph.node if node.op_type == PLUGIN]:
        graph.node.remove(plugin)
        kept = [output for output in graph.output if output.name not in plugin.output]
        del graph.output[:]
        graph.output.extend(kept)
        made = onnx.helper.make_tensor_value_info
        graph.output.extend(made(name, TensorProto.FLOAT, None) for name in plugin.input[:2])


def _check(path: Path, network: onnx.ModelProto) -> None:
    """Refuse a network that no option can make usable."""
    graph = network.graph
    opset = _opset(network)
    if opset not in OPSETS:
        known = f"{OPSETS[0]} to {OPSETS[-1]} are read: export it again with opset=17"
        raise ModelError(f"{path} has opset {opset}; {known}")
    foreign = sorted({(n.domain, n.op_type) for n in graph.node if n.domain not in ("", "ai.onnx")})
    if foreign:
        names = ", ".join(f"{domain}.{kind}" for domain, kind in foreign[:3])
        remedy = "export it again with standard ones, and NMS outside (nms=False)"
        which = f"custom operators ({names}), which only some runtimes know"
        raise ModelError(f"{path} has {which}; {remedy}")
    for one in graph.initializer:
        if one.data_type == TensorProto.FLOAT and not _is_sound(one):
            fault = f"weights {one.name!r} are not whole, or not finite"
            raise ModelError(f"{path}: {fault}; train, export or copy it again")


def _opset(network: onnx.ModelProto) -> int:
    return next((one.version for one in network.opset_import if one.domain in ("", "ai.onnx")), 0)


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
    images = [one for one in inputs if len(_dims(one)) >= 3]
    others = [one for one in inputs if one not in images]
    said = ", ".join(f"{' '.join(one.name.split())} {list(_dims(one))}" for one in inputs)
    if len(images) != 1 or any(one.name not in (*SIZES, *PADDLE) for one in others):
        wanted = f"a detector has one image, and at most {SIZES[0]}: export it for inference"
        raise ModelError(f"{path} has the inputs {said}; {wanted}")
    image = images[0]
    if len(_dims(image)) == 3:
        image = _batched(graph, image)
    batch, channels, height, width = _dims(image)
    if image.type.tensor_type.elem_type != TensorProto.FLOAT or channels not in (0, 3) or batch > 1:
        remedy = "export it as PyTorch does, for one image at a time"
        raise ModelError(f"{path}: input {said} is not float32 [1, 3, height, width]; {remedy}")
    chosen = exported.chosen_size(path, facts, (width, height) if width and height else None, size)
    for dim, value in zip(image.type.tensor_type.shape.dim, (1, 3, *chosen[::-1]), strict=True):
        dim.Clear()
        dim.dim_value = value
    for one in others:
        graph.input.remove(one)
        kind = onnx.helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)
        values = PADDLE[one.name](*chosen) if one.name in PADDLE else chosen
        graph.initializer.append(numpy_helper.from_array(np.array([values], kind), one.name))
    return str(image.name)


def _batched(graph: onnx.GraphProto, image: Any) -> Any:
    """Let a network that takes an image without a batch, as torchvision's, take a batch of one."""
    kind = image.type.tensor_type.elem_type
    one = onnx.helper.make_tensor_value_info(f"{image.name}/batch", kind, [1, *_dims(image)])
    first = numpy_helper.from_array(np.array(0, np.int64), f"{image.name}/first")
    graph.initializer.append(first)
    taken = onnx.helper.make_node("Gather", [one.name, first.name], [image.name], axis=0)
    graph.node.insert(0, taken)
    image.CopyFrom(one)
    return image


def _with_newer_operators(path: Path, network: onnx.ModelProto) -> onnx.ModelProto:
    opset = _opset(network)
    if opset >= PER_CHANNEL:
        return network
    network.ir_version = max(network.ir_version, 4)  # weights need not be inputs
    try:
        newer = onnx.version_converter.convert_version(network, exported.NEW_OPSET)
        for node in newer.graph.node:
            if node.op_type == "Resize" and len(node.input) > 3:
                node.input[2] = ""  # scales beside sizes, which had to be there and empty
        return newer
    except Exception as error:
        newest = exported.NEW_OPSET
        why = f"opset {opset} to {newest} ({_short(error)}); export it again with opset={newest}"
        raise ModelError(f"{path} cannot be brought from {why}") from error


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
            how = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": UNWANTED}
            ort.InferenceSession(network.SerializeToString(), options, **how)
        except Exception as error:
            remedy = "export it again" if size is None else exported.OTHER_SIZE
            why = f"ONNX Runtime refuses it ({_short(error)})"
            raise ModelError(f"{path}: {why}; {remedy}") from error
        folded = onnx.load(options.optimized_model_filepath)
    kept = [one for one in folded.opset_import if one.domain in ("", "ai.onnx")]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    folded.ir_version = min(folded.ir_version, 10)
    return onnx.shape_inference.infer_shapes(folded)


def _outputs_of(path: Path, network: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes of the outputs, as a run gives them, and axes of open size."""
    session = session_of(network)
    image = network.graph.input[0]
    pictures = (np.full(_dims(image), 0.4, np.float32), np.zeros(_dims(image), np.float32))
    try:
        found, others = (session.run(None, {image.name: picture}) for picture in pictures)
    except Exception as error:
        at = "x".join(map(str, _dims(image)[:1:-1]))
        why = f"does not run at {at} ({_short(error)}); {exported.OTHER_SIZE}"
        raise ModelError(f"{path} {why}") from error
    names = [output.name for output in session.get_outputs()]
    loose = any(node.op_type in OF_OPEN_SIZE for node in network.graph.node)
    shapes, open_axes = {}, {}
    for name, one, other, output in zip(names, found, others, network.graph.output, strict=True):
        shape, inferred = list(one.shape), _dims(output) or (0,) * one.ndim
        for axis, size in enumerate(other.shape):
            if size != shape[axis] or (loose and not inferred[axis] and name not in open_axes):
                open_axes[name], shape[axis] = axis, exported.MOST_OBJECTS
        shapes[name] = tuple(shape)
    answers = {name: one for name, one in shapes.items() if len(one) != exported.ANCHOR_MAP_DIMS}
    return answers or shapes, open_axes


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
