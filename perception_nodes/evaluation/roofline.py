"""The number of multiplications of a network, and how fast this machine can multiply at best."""

from dataclasses import dataclass
from math import prod

import numpy as np
import openvino as ov
from openvino import opset13 as op

from perception_nodes.backends.openvino import for_latency
from perception_nodes.networks.model import Model
from perception_nodes.networks.openvino_core import core

ACTIVATIONS = {"HSwish": "hardswish", "Swish": "silu", "Sigmoid": "silu", "Relu": "relu"}
"""Activation by the operation of OpenVINO, which reads SiLU as a sigmoid and a product."""
ROOF_CHANNELS, ROOF_SIZE_PX = 256, 64


@dataclass(frozen=True)
class NetworkFacts:
    """Properties of a network's graph.

    Attributes:
        gmac: 10^9 multiply-accumulates of its convolutions and products of matrices for one frame.
        activation: the most frequent activation; None if none is known.
    """

    gmac: float
    activation: str | None


def network_facts(model: Model) -> NetworkFacts:
    """Read a model's graph."""
    macs = 0
    counts: dict[str, int] = {}
    for node in core().read_model(str(model.path)).get_ops():
        kind = node.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            # Every weight is used once for every position of the output.
            macs += prod(node.input(1).get_shape()) * prod(node.output(0).get_shape()[2:])
        elif kind == "MatMul":
            inner = -2 if node.get_attributes()["transpose_a"] else -1
            macs += prod(node.output(0).get_shape()) * node.input(0).get_shape()[inner]
        elif kind in ACTIVATIONS:
            counts[ACTIVATIONS[kind]] = counts.get(ACTIVATIONS[kind], 0) + 1
    return NetworkFacts(macs / 1e9, max(counts, key=lambda name: counts[name], default=None))


class Roof:
    """A large 3x3 convolution, which keeps the arithmetic units fully busy: the roofline."""

    gmac = 9 * ROOF_CHANNELS**2 * ROOF_SIZE_PX**2 / 1e9

    def __init__(self, precision: str, threads: int) -> None:
        """Compile the convolution for `int8` or `fp32`."""
        shape = (1, ROOF_CHANNELS, ROOF_SIZE_PX, ROOF_SIZE_PX)
        self._image = np.zeros(shape, np.float32)
        network = _roof(list(shape), quantized=precision == "int8")
        compiled = core().compile_model(network, "CPU", for_latency(threads))
        self._request = compiled.create_infer_request()

    def run(self) -> None:
        """Run the convolution once."""
        self._request.set_input_tensor(ov.Tensor(self._image, shared_memory=True))
        self._request.start_async()
        self._request.wait()


def _roof(shape: list[int], quantized: bool) -> ov.Model:
    image = op.parameter(shape, np.float32)
    random = np.random.default_rng(0)
    size = (ROOF_CHANNELS, ROOF_CHANNELS, 3, 3)
    if quantized:
        codes = op.constant(random.integers(-63, 64, size, dtype=np.int8))
        weights = op.multiply(op.convert(codes, "f32"), _constant(0.01))
        features = _to_8_bits(image)
    else:
        weights = op.constant(random.normal(size=size).astype(np.float32))
        features = image
    convolved = op.relu(op.convolution(features, weights, [1, 1], [1, 1], [1, 1], [1, 1]))
    return ov.Model([_to_8_bits(convolved) if quantized else convolved], [image], "roof")


def _to_8_bits(node: ov.Output) -> ov.Node:
    low, high = _constant(0.0), _constant(2.55)
    return op.fake_quantize(node, low, high, low, high, 256)


def _constant(value: float) -> ov.Node:
    return op.constant(value, np.float32)
