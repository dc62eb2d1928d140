"""Reading an integer network from a u8 file: its Q/DQ nodes become multipliers and shifts."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from perception_nodes.core import integer
from perception_nodes.core.inference import BackendError

WIDE_BITS = 12
"""Bits of the weights of a convolution that the file keeps in float."""
OUTPUT_HEADROOM = 2.0
"""An output may become this many times as large as in calibration before it saturates."""
CODES = 128
ACTIVATIONS: dict[str, integer.Activation] = {"HardSwish": "hardswish", "Relu": "relu"}


@dataclass(frozen=True)
class Stored:
    """A tensor of codes: its name in the integer network, its step, and the code of real 0."""

    name: str
    step: float
    zero: int = 0


@dataclass(frozen=True)
class Pending:
    """A convolution whose result has not been rounded to codes yet."""

    node: Any
    activation: integer.Activation = "none"
    residual: Stored | None = None


def read_network(path: Path) -> integer.Network:
    """Read a u8 file.

    Raises:
        BackendError: the file cannot be read, or the integer network cannot express it.
    """
    try:
        return _NetworkReader(onnx.load(path), str(path)).network()
    except BackendError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BackendError(f"{path} cannot be read as an integer network: {reason}") from error


class _NetworkReader:
    """Reads a file's nodes, once and in their order; one method for each operator."""

    def __init__(self, model: Any, path: str) -> None:
        self._graph, self._path = model.graph, path
        self._facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        self._values: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self._weights: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = {}
        self._stored: dict[str, Stored] = {}
        self._pending: dict[str, Pending] = {}
        self._layers: list[integer.Layer] = []

    def network(self) -> integer.Network:
        """Read all nodes."""
        amax = self._facts.get("output_amax")
        if self._facts.get("dialect") != "u8" or not isinstance(amax, dict):
            raise BackendError(
                f"{self._path} is not a u8 file of the symmetric scheme, the only kind that is an "
                "integer network: open-n is one; a model that NNCF has quantized never is"
            )
        for node in self._graph.node:
            if (read := getattr(self, f"_{node.op_type.lower()}", None)) is None:
                raise self._refusal(node, "is not an operator of the integer network")
            read(node)
        fractions = {}
        for output in self._graph.output:
            pending = self._pending[output.name]
            layer = self._convolution(pending, output.name, OUTPUT_HEADROOM * amax[output.name])
            fractions[output.name] = layer.fraction
            self._layers.append(layer)
        image = self._graph.input[0]
        _, height, width, _ = (dim.dim_value for dim in image.type.tensor_type.shape.dim)
        steps = {name: value / (CODES - 1) for name, value in amax.items()}
        return integer.Network(image.name, width, height, tuple(self._layers), fractions, steps)

    def _refusal(self, node: Any, why: str) -> BackendError:
        name = node.name or (node.output[0] if node.output else "?")
        return BackendError(f"{self._path}: {node.op_type} {name!r} {why}")

    def _constant(self, node: Any) -> None:
        self._values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def _dequantizelinear(self, node: Any) -> None:
        source, target = node.input[0], node.output[0]
        if source in self._values:
            scale = self._values[node.input[1]].astype(np.float64)
            self._weights[target] = (self._values[source], scale)
        elif source == self._graph.input[0].name:
            step = float(self._values[node.input[1]])
            self._stored[target] = Stored(source, step, -integer.IMAGE_MIDDLE)
        else:
            self._stored[target] = self._stored[source]

    def _transpose(self, node: Any) -> None:
        self._stored[node.output[0]] = self._stored[node.input[0]]

    def _quantizelinear(self, node: Any) -> None:
        step, zero = float(self._values[node.input[1]]), self._values[node.input[2]]
        if zero.dtype != np.uint8 or int(zero) != CODES or node.input[0] not in self._pending:
            raise self._refusal(node, f"does not round a layer to uint8 with zero point {CODES}")
        name = node.input[0]
        pending = self._pending.pop(name)
        extra = CODES * pending.residual.step if pending.residual else 0.0
        # Take a little more than the range of the codes, so that both of its limits can be reached.
        layer = self._convolution(pending, name, 1.02 * (CODES * step + extra))
        gain = integer.GAIN[pending.activation] * 2.0**layer.fraction
        multiplier, shift = integer.multipliers(np.array([1 / (gain * step)]))
        store = integer.Store(int(multiplier[0]), shift)
        if pending.residual:
            residual = round(gain * pending.residual.step)
            store = replace(store, residual=pending.residual.name, residual_multiplier=residual)
        self._layers.append(replace(layer, store=store))
        self._stored[node.output[0]] = Stored(name, step)

    def _conv(self, node: Any) -> None:
        self._pending[node.output[0]] = Pending(node)

    def _hardswish(self, node: Any) -> None:
        pending = self._pending.pop(node.input[0], None)
        if pending is None or pending.activation != "none" or pending.residual:
            raise self._refusal(node, "does not follow a convolution that only it reads")
        self._pending[node.output[0]] = replace(pending, activation=ACTIVATIONS[node.op_type])

    _relu = _hardswish

    def _add(self, node: Any) -> None:
        pending = [name for name in node.input if name in self._pending]
        stored = [name for name in node.input if name in self._stored]
        if len(pending) != 1 or len(stored) != 1 or self._pending[pending[0]].residual:
            raise self._refusal(node, "is not the sum of a convolution and a stored tensor")
        convolved = self._pending.pop(pending[0])
        self._pending[node.output[0]] = replace(convolved, residual=self._stored[stored[0]])

    def _concat(self, node: Any) -> None:
        sources = [self._codes(node, name) for name in node.input]
        if len({source.step for source in sources}) > 1:
            raise self._refusal(node, "joins tensors of different scales")
        if _attributes(node).get("axis") != 1:
            raise self._refusal(node, "does not join channels")
        target = node.output[0]
        self._layers.append(integer.Concat(tuple(source.name for source in sources), target))
        self._stored[target] = replace(sources[0], name=target)

    def _split(self, node: Any) -> None:
        source = self._codes(node, node.input[0])
        if len(node.input) < 2 or _attributes(node).get("axis") != 1:
            raise self._refusal(node, "does not divide channels into given parts")
        ends = np.cumsum(self._values[node.input[1]]).tolist()
        for target, begin, end in zip(node.output, [0, *ends], ends, strict=False):
            self._layers.append(integer.Slice(source.name, target, begin, end))
            self._stored[target] = replace(source, name=target)

    def _resize(self, node: Any) -> None:
        source, facts = self._codes(node, node.input[0]), _attributes(node)
        scales = self._values[node.input[2]].tolist() if len(node.input) > 2 else []
        how = [facts.get(k) for k in ("mode", "coordinate_transformation_mode", "nearest_mode")]
        if scales != [1, 1, 2, 2] or how != [b"nearest", b"asymmetric", b"floor"]:
            raise self._refusal(node, f"does not repeat every value twice (scales {scales})")
        self._layers.append(integer.Upsample(source.name, node.output[0]))
        self._stored[node.output[0]] = replace(source, name=node.output[0])

    def _maxpool(self, node: Any) -> None:
        source, facts = self._codes(node, node.input[0]), _attributes(node)
        size = facts["kernel_shape"][0]
        same = [size // 2] * 4
        if (
            facts["kernel_shape"] != [size, size]
            or size % 2 == 0
            or facts.get("pads") != same
            or facts.get("strides", [1, 1]) != [1, 1]
            or facts.get("dilations", [1, 1]) != [1, 1]
        ):
            raise self._refusal(node, "does not keep the picture's size")
        self._layers.append(integer.MaxPool(source.name, node.output[0], size))
        self._stored[node.output[0]] = replace(source, name=node.output[0])

    def _codes(self, node: Any, name: str) -> Stored:
        if name not in self._stored:
            raise self._refusal(node, f"reads {name!r}, which is not stored in 8 bits")
        return self._stored[name]

    def _convolution(self, pending: Pending, target: str, reach: float) -> integer.Convolution:
        """A layer without `store`, whose pre-activations reach up to `reach`."""
        node = pending.node
        source, facts = self._codes(node, node.input[0]), _attributes(node)
        stride = facts.get("strides", [1, 1])
        weight, scale = self._weight(node.input[1])
        groups = facts.get("group", 1)
        alone = groups == len(weight) and weight.shape[1] == 1
        if not (groups == 1 or alone) or set(facts.get("dilations", [1])) != {1}:
            raise self._refusal(node, "has dilation or groups of several channels")
        if stride[0] != stride[1]:
            raise self._refusal(node, f"has strides {stride}, which differ")
        bias = np.rint(self._values[node.input[2]].astype(np.float64) / (source.step * scale))
        # The code of a byte b of the image is b - 128, and b w = (b - 128) w + 128 w.
        bias -= source.zero * weight.sum(axis=(1, 2, 3), dtype=np.int64)
        reach_acc = np.abs(weight).sum(axis=(1, 2, 3), dtype=np.int64) * CODES + np.abs(bias)
        if reach_acc.max() >= 2**31:
            raise self._refusal(node, "has a bias so large that its sums could exceed 32 bits")
        fraction = integer.fraction_bits(reach)
        multiplier, shift = integer.multipliers(source.step * scale * 2.0**fraction)
        return integer.Convolution(
            name=node.name,
            source=source.name,
            target=target,
            weight=weight,
            bias=bias.astype(np.int32),
            stride=stride[0],
            pads=tuple(facts.get("pads", [0, 0, 0, 0])),
            outside=source.zero,
            multiplier=multiplier,
            shift=shift,
            fraction=fraction,
            activation=pending.activation,
            store=None,
            depthwise=groups > 1,
        )

    def _weight(self, name: str) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
        if name in self._weights:
            codes, scale = self._weights[name]
            return codes.astype(np.int16), scale
        weight = self._values[name].astype(np.float64)
        scale = np.abs(weight).max(axis=(1, 2, 3)) / (2 ** (WIDE_BITS - 1) - 1)
        scale = np.maximum(scale, scale.max() / 64)
        return np.rint(weight / scale[:, None, None, None]).astype(np.int16), scale


def _attributes(node: Any) -> dict[str, Any]:
    """Attributes of a node by name, arrays as lists."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
