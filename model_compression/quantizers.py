"""What makes 8 bits of a float network: our own table of ranges, or NNCF.

Where a network has only operators that `model_compression.quantization` knows, that is taken: one
table of ranges, two files of the same integers, also for TensorRT. Any other network is left to
NNCF, whose file OpenVINO and ONNX Runtime read.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import numpy_helper

from model_compression.errors import CompressionError
from model_compression.frames import Frames
from model_compression.quantization import RangeTable, emit, measure
from model_compression.quantization.divergence import divergence
from model_compression.quantization.graph import is_known
from model_compression.quantization.ranges import open_float
from model_compression.quantization.sensitivity import sensitivity
from model_compression.quantization.table import WEIGHT_BITS
from perception_nodes.core.inference import Progress

FRAMES_FOR_COSTS = 4
LEFT_FLOAT = ["MatMul", "Gemm"]
"""Attention stays float: it is a small part of a detector, suffers most, and not every runtime
takes it by channel."""
ROUNDING = ("QuantizeLinear", "DequantizeLinear")
HEAD, IMAGE = "head/", "image/"
"""Prefixes of the nodes that the import has added."""


@dataclass(frozen=True)
class Eight:
    """An 8-bit network.

    Attributes:
        files: its graphs by dialect; `u8` is the one for OpenVINO and ONNX Runtime.
        facts: the `quantization` of model.yaml.
        table: of ranges, if it was made from one.
    """

    files: dict[str, onnx.ModelProto]
    facts: dict[str, Any]
    table: RangeTable | None = None


class Quantizer(Protocol):
    """One way to quantize a network.

    Attributes:
        name: what people call it.
    """

    name: str

    def quantize(self, kept: Sequence[str]) -> Eight:
        """The 8-bit network, with some layers kept float."""
        ...

    def costs(self, progress: Progress) -> dict[str, float]:
        """What 8 bits cost in each layer, by the layer's name, the costliest first."""
        ...


class TableQuantizer:
    """Our own: a table of ranges, and two dialects of the same integers."""

    name = "the table of ranges"

    def __init__(self, network: onnx.ModelProto, frames: Frames, name: str) -> None:
        self._network, self._frames = network, frames
        self._table = measure(network, frames, name)

    def quantize(self, kept: Sequence[str]) -> Eight:
        """See `Quantizer`."""
        table = self._table.model_copy(update={"float_convolutions": tuple(kept)})
        files = {dialect: emit(self._network, table, dialect) for dialect in ("u8", "s8")}
        return Eight(files, table.facts(), table)

    def costs(self, progress: Progress) -> dict[str, float]:
        """See `Quantizer`."""
        frames = self._frames[:FRAMES_FOR_COSTS]
        found = sensitivity(self._network, self._table, frames, progress=progress)
        return {layer.name: layer.weights for layer in found}


class NncfQuantizer:
    """NNCF: any network; scales by itself, one an output channel of weights."""

    name = "NNCF"

    def __init__(self, network: onnx.ModelProto, frames: Frames) -> None:
        self._network, self._frames = network, frames
        self._nncf = _nncf()

    def quantize(self, kept: Sequence[str]) -> Eight:
        """See `Quantizer`."""
        nncf = self._nncf
        image = self._network.graph.input[0].name
        frames = [frame for _, frame in self._frames]
        own = [n.name for n in self._network.graph.node if n.name.startswith(HEAD)]
        try:
            with redirect_stdout(sys.stderr):  # its progress; stdout is for results
                quantized = nncf.quantize(
                    self._network,
                    nncf.Dataset(frames, lambda frame: {image: frame[None]}),
                    subset_size=len(frames),
                    preset=nncf.QuantizationPreset.MIXED,
                    ignored_scope=nncf.IgnoredScope(
                        [*own, *kept], types=LEFT_FLOAT, validate=False
                    ),
                    advanced_parameters=nncf.AdvancedQuantizationParameters(
                        overflow_fix=nncf.OverflowFix.ENABLE
                    ),
                )
        except Exception as error:  # of many kinds, from the runtimes below it
            reason = " ".join(str(error).split())[:200]
            raise CompressionError(
                f"NNCF cannot quantize this network ({reason}); use it in float"
            ) from error
        _drop_rounding_of_bytes(quantized)
        _store_unsigned(quantized)
        facts = {
            "scheme": f"NNCF {nncf.__version__}, mixed preset: convolutions, weights by channel",
            "weight_bits": WEIGHT_BITS,
            "calibration_frames": len(frames),
            "float_layers": list(kept),
        }
        return Eight({"u8": onnx.shape_inference.infer_shapes(quantized)}, facts)

    def costs(self, progress: Progress) -> dict[str, float]:
        """See `Quantizer`: each layer alone is rounded as in the file, and the others are float."""
        quantized = self.quantize(()).files["u8"]
        outputs = [output.name for output in self._network.graph.output]
        frames = [frame for _, frame in self._frames[:FRAMES_FOR_COSTS]]
        run = open_float(self._network, outputs)
        reference = [run(frame) for frame in frames]
        layers = [node.name for node in quantized.graph.node if node.op_type == "Conv"]
        costs = {}
        for done, layer in enumerate(layers, start=1):
            alone = _only_rounded(quantized, self._network, layer)
            if alone is not None:
                run = open_float(alone, outputs)
                pairs = zip(reference, map(run, frames), strict=True)
                costs[layer] = float(np.mean([_distance(one, two) for one, two in pairs]))
            progress(done, len(layers))
        return dict(sorted(costs.items(), key=lambda item: item[1], reverse=True))


def _nncf() -> Any:
    try:
        import nncf
    except ImportError as error:
        raise CompressionError(
            "this network has operators that the table of ranges does not know, and NNCF, which "
            f"quantizes any, is not installed ({error}); install it with: make compression (or pip "
            "install nncf)"
        ) from error
    nncf.set_log_level(40)
    return nncf


def _distance(reference: list[np.ndarray], other: list[np.ndarray]) -> float:
    """How far two answers are from each other, per object that the reference sees."""
    if len(reference) > 2:
        return divergence(reference, other)
    (boxes, scores), (other_boxes, other_scores) = reference, other
    surest = scores.max(axis=1, keepdims=True)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    moved = np.abs(boxes - other_boxes) / np.concatenate([size, size], axis=1)
    lost = np.abs(scores - other_scores).sum() + (surest * np.minimum(moved, 1)).mean(axis=1).sum()
    return float(lost / max(surest.sum(), 1.0))


def _drop_rounding_of_bytes(network: onnx.ModelProto) -> None:
    """The image is 8 bits already, at a step of its own: a second rounding only costs."""
    graph = network.graph
    first = graph.node[0]
    assert first.op_type == "DequantizeLinear"
    same = {first.output[0]}
    for node in graph.node:
        if node.op_type in ("Transpose", "Slice", "Concat") and same >= {
            name for name in node.input if not _is_constant(graph, name)
        }:
            same |= {*node.output}
    pairs = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    back = {
        node.output[0]: pairs[node.input[0]].input[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in pairs
        and pairs[node.input[0]].input[0] in same
    }
    _reconnect(network, back)


def _store_unsigned(network: onnx.ModelProto) -> None:
    """Store signed activations as unsigned ones, the same integers plus 128.

    OpenVINO 2026.4 computes something else of signed codes in places.
    """
    graph = network.graph
    del graph.value_info[:]
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            tensor = tensors[node.input[2]]
            zero = numpy_helper.to_array(tensor)
            if zero.dtype == np.int8:
                moved = (zero.astype(np.int16) + 128).astype(np.uint8)
                tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))


def _is_constant(graph: onnx.GraphProto, name: str) -> bool:
    return any(tensor.name == name for tensor in graph.initializer)


def _reconnect(network: onnx.ModelProto, instead: dict[str, str]) -> None:
    """Let readers of some tensors read others, and drop what nobody reads any more."""
    graph = network.graph
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    outputs = {output.name for output in graph.output}
    while True:
        read = {name for node in graph.node for name in node.input} | outputs
        kept = [node for node in graph.node if read & {*node.output}]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _only_rounded(
    quantized: onnx.ModelProto, original: onnx.ModelProto, layer: str
) -> onnx.ModelProto | None:
    """The float network with the roundings that one layer reads; None if it reads none."""
    makers = {name: node for node in quantized.graph.node for name in node.output}
    rounded = next(node for node in quantized.graph.node if node.name == layer)
    alone = onnx.ModelProto()
    alone.CopyFrom(original)
    graph = alone.graph
    index, node = next((n, node) for n, node in enumerate(graph.node) if node.name == layer)
    added: list[onnx.NodeProto] = []
    for place, name in enumerate(rounded.input):
        chain: list[onnx.NodeProto] = []
        maker = makers.get(name)
        while maker is not None and maker.op_type in ROUNDING and not _is_ours(maker):
            chain.insert(0, maker)
            maker = makers.get(maker.input[0])
        if chain:
            node.input[place] = chain[-1].output[0]
            added += chain
    if not added:
        return None
    present = {tensor.name for tensor in graph.initializer}
    read = {name for one in added for name in one.input} - present
    graph.initializer.extend(t for t in quantized.graph.initializer if t.name in read)
    for one in reversed(added):
        graph.node.insert(index, one)
    return alone


def _is_ours(node: onnx.NodeProto) -> bool:
    return bool(node.name.startswith((HEAD, IMAGE)))


def quantizer_for(network: onnx.ModelProto, frames: Frames, name: str) -> Quantizer:
    """The quantizer for a network: our own where it knows all operators, else NNCF."""
    if is_known(network):
        return TableQuantizer(network, frames, name)
    return NncfQuantizer(network, frames)
