"""8 bits for a detector that was trained elsewhere, and the check that it still detects.

Two quantizers. Where a network has only operators that `model_compression.quantization` knows, that
is taken: one table of ranges, two files of the same integers, also for TensorRT. Any other network
is left to NNCF, whose file OpenVINO and ONNX Runtime read. Which one it is, is said and written
down.

The 8-bit network is compared with the float one on the user's frames, and on labelled sets where
there are any. If it lost too much, the layers that cost most are kept float, as few as will do.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import yaml
from onnx import numpy_helper

from model_compression.errors import CompressionError, GateRefused
from model_compression.quantization import RangeTable, emit, measure, write_table
from model_compression.quantization.divergence import divergence
from model_compression.quantization.emit import write_files
from model_compression.quantization.graph import is_known
from model_compression.quantization.ranges import open_float
from model_compression.quantization.sensitivity import sensitivity
from model_compression.quantization.sources import calibrated_on
from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.model import Model, load_model
from perception_nodes.core.inference import Progress
from perception_nodes.evaluation import Evaluation, LabelledSet, evaluate
from perception_nodes.evaluation.agreement import agreement, detect, in_classes_of
from perception_nodes.evaluation.classes import class_losses, evidence_note, without_evidence
from perception_nodes.evaluation.gate import (
    Check,
    Margins,
    check_agreement,
    check_classes,
    check_loss,
)
from perception_nodes.importing.importer import check_runs
from perception_nodes.system.files import write_whole

FRAMES_FOR_COSTS = 4
KEPT_FLOAT = (0, 2, 4, 8, 16)
"""How many of the costliest layers are kept float, one try after the other."""
WEIGHT_BITS = 7
"""With 8, x86 without VNNI saturates silently."""
LEFT_FLOAT = ["MatMul", "Gemm"]
"""Attention stays float: it is a small part of a detector, suffers most, and not every runtime
takes it by channel."""
ROUNDING = ("QuantizeLinear", "DequantizeLinear")
HEAD, IMAGE = "head/", "image/"
"""Prefixes of the nodes that the import has added."""

Frames = Sequence[tuple[str, np.ndarray]]
Bar = Callable[[str], AbstractContextManager[Progress]]


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
        self._table = measure(network, frames, name, weight_bits=WEIGHT_BITS)

    def quantize(self, kept: Sequence[str]) -> Eight:
        """See `Quantizer`."""
        table = self._table.model_copy(update={"float_convolutions": tuple(kept)})
        files = {dialect: emit(self._network, table, dialect) for dialect in ("u8", "s8")}
        return Eight(files, table.facts(), table)

    def costs(self, progress: Progress) -> dict[str, float]:
        """See `Quantizer`."""
        found = sensitivity(self._network, self._table, self._frames[:FRAMES_FOR_COSTS])
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


@dataclass
class Trial:
    """Compares 8-bit networks with the float one.

    Attributes:
        parent: the float model.
        frames: to compare on.
        sets: labelled ones to compare on.
        margins: how far the 8-bit network may be from the float one.
        bar: shows the progress.
    """

    parent: Model
    frames: Frames
    sets: Sequence[LabelledSet]
    margins: Margins
    bar: Bar
    _evaluations: list[Evaluation] = field(default_factory=list)
    _found: list[Any] = field(default_factory=list)

    def checks(self, model: Model) -> tuple[list[Check], list[Evaluation]]:
        """What was compared, and the evaluations of the 8-bit model on the sets."""
        if not self._found:
            self._found = self._objects(self.parent)
            self._evaluations = [self._evaluated(self.parent, data) for data in self.sets]
        seen = agreement(in_classes_of(model, self.parent, self._found), self._objects(model))
        least = self.margins.agreement
        name, count = self.parent.name, len(self.frames)
        checks = [check_agreement("model", name, model.name, count, seen, least)]
        now = [self._evaluated(model, data) for data in self.sets]
        if self.sets:
            old, new = ([one.map50_95 for one in each] for each in (self._evaluations, now))
            data = ", ".join(one.name for one in self.sets)
            checks.append(check_loss(name, model.name, data, old, new, self.margins.loss))
            losses = class_losses(model.classes, self._evaluations, now)
            checks += check_classes(name, model.name, losses, self.margins.class_loss)
        return checks, now

    @property
    def before(self) -> list[Evaluation]:
        """The evaluations of the float model."""
        return self._evaluations

    def _objects(self, model: Model) -> list[Any]:
        backend = open_backend("openvino", BackendSettings())
        backend.load(model)
        try:
            with self.bar(f"{model.name} on {len(self.frames)} frames") as progress:
                return detect(model, backend, [frame for _, frame in self.frames], progress)
        finally:
            backend.close()

    def _evaluated(self, model: Model, data: LabelledSet) -> Evaluation:
        with self.bar(f"{model.name} on {data.name}") as progress:
            return evaluate(model, data, progress=progress)


def quantize_imported(
    parent: Model, made: Path, trial: Trial, say: Callable[[str], None], frames_license: str = ""
) -> list[Check]:
    """Make the 8-bit form of an imported model.

    Args:
        parent: the float model.
        made: folder to write it into, of the model's name; the caller moves it to its place.
        trial: what it is compared on.
        say: tells people what happens.
        frames_license: of the frames, which the ranges are taken from.

    Returns:
        The checks that it passed.

    Raises:
        GateRefused: it costs too much, even with the costliest layers kept float.
        CompressionError: it cannot be quantized.
    """
    network = onnx.load(parent.path)
    quantizer = quantizer_for(network, trial.frames, made.name)
    say(f"quantized by {quantizer.name} on {len(trial.frames)} frames")
    costs: dict[str, float] = {}
    refusals: list[Check] = []
    for count in KEPT_FLOAT:
        if count and not costs:
            with trial.bar("cost of 8 bits, layer by layer") as progress:
                costs = quantizer.costs(progress)
            say(_table(costs))
        eight = quantizer.quantize(list(costs)[:count])
        model = _written(parent, eight, made, trial.frames, frames_license)
        checks, evaluations = trial.checks(model)
        refusals = [check for check in checks if check.refusal]
        if not refusals:
            check_runs(model, [frame for _, frame in trial.frames[:FRAMES_FOR_COSTS]])
            add_accuracy(made, evaluations, say)
            add_accuracy(parent.folder, trial.before)
            return checks
        say(f"with {count} layers float: {refusals[0].refusal}")
        if refusals[0].at_fault == "frames":
            break
    raise GateRefused(refusals[0].refusal)


def _table(costs: dict[str, float], most: int = 8) -> str:
    shown = [f"{1e3 * cost:10.3f}  {name}" for name, cost in list(costs.items())[:most]]
    rest = sum(list(costs.values())[most:])
    if len(costs) > most:
        shown.append(f"{1e3 * rest:10.3f}  {len(costs) - most} others together")
    return "\n".join(["cost of 8 bits by layer, thousandths an object:", *shown])


def _written(
    parent: Model,
    eight: Eight,
    folder: Path,
    frames: Frames,
    frames_license: str,
) -> Model:
    """Write the files of an 8-bit model, and its description."""
    description = yaml.safe_load((parent.folder / "model.yaml").read_text(encoding="utf-8"))
    files = write_files(eight.files, folder)
    if eight.table is not None:
        write_table(eight.table, folder / "ranges.yaml")
    description.pop("accuracy", None)
    calibration, data = calibrated_on(frames, frames_license, description.get("data"))
    description |= {
        "name": folder.name,
        **files.pop("u8"),
        **files,
        "precision": "int8",
        "parent": parent.name,
        "quantization": eight.facts | calibration,
        "data": data,
    }
    text = yaml.safe_dump(description, sort_keys=False, width=100, allow_unicode=True)
    write_whole(folder / "model.yaml", text)
    return load_model(str(folder))


def add_accuracy(
    folder: Path, evaluations: Sequence[Evaluation], say: Callable[[str], None] = lambda _: None
) -> None:
    """Write what was measured into a model's description.

    Args:
        folder: of the model.
        evaluations: of the model, set by set.
        say: tells people which classes were not measured.
    """
    if evaluations:
        description = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
        description["accuracy"] = {found.data: found.facts() for found in evaluations}
        objects = class_losses(description["classes"], evaluations, evaluations)
        unproven = without_evidence(description["classes"], objects)
        if unproven:
            say(evidence_note(unproven, ", ".join(found.data for found in evaluations)))
        description["without_evidence"] = unproven
        text = yaml.safe_dump(description, sort_keys=False, width=100, allow_unicode=True)
        write_whole(folder / "model.yaml", text)
