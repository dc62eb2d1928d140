"""The integer network as a full-integer LiteRT (TFLite) file.

Every tensor is int8 and every operator one of LiteRT's 8-bit specification
(https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec) that the
compiler of the Edge TPU takes, too. Weights, biases and the steps of all stored tensors are those
of the integer network. Three things cannot be said in this format:

- HardSwish is no operator of an Edge TPU: x (x + 3), the sum between 0 and 6, takes two that are.
  The division by 6 is left out, and every stored tensor of such a network is 6 times as large.
- HardSwish reads 8 bits, where the integer network has 18. Below -3 it is 0, and above the largest
  stored value its result saturates: the 256 codes cover just what is between.
- A residual is added to 8 bits, too; these cover what can be told apart after the sum.

An output has a step of 1/127 of what it reached in calibration, or of a limit beyond which it does
not matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tflite
from numpy.typing import NDArray

from perception_nodes.core import integer
from perception_nodes.core.inference import BackendError

VERSION = 3
"""Of what this page writes; files of another one in a cache are not read."""
IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
IMAGE_STEP = 1 / 255
ROUNDING = 2e-5
"""How far a step's rounded forms are apart at most, as a share."""
LOWEST: dict[integer.Activation, float] = {"hardswish": -6 * 0.375, "relu": 0.0}
"""The least stored value of an activation."""
FUSED: dict[integer.Activation, int] = {"relu": tflite.ActivationFunctionType.RELU}
INT8_VERSION, CONVOLUTION_VERSION = 2, 3
"""The version of an operator that has int8, and of convolutions."""


@dataclass(frozen=True)
class Codes:
    """A stored tensor: its number in the file, its size, and what its codes mean.

    Attributes:
        number: of the tensor.
        shape: height, width, channels.
        step: what a code stands for, in the network's units.
        zero: the code of real 0.
    """

    number: int
    shape: tuple[int, int, int]
    step: float
    zero: int = 0


def write(network: integer.Network, limits: Mapping[str, float]) -> bytes:
    """A network as a file: int8 [1, height, width, 3] in, outputs int8 [1, height, width, c].

    Input codes are a BGR byte less 128. Outputs have the integer network's names.

    Args:
        network: the network.
        limits: what the values of an output may be limited to.

    Raises:
        BackendError: LiteRT's 8 bits cannot express a layer.
    """
    return _Writer(network, limits).file()


@dataclass
class _Writer:
    network: integer.Network
    limits: Mapping[str, float]
    buffers: list[Any] = field(default_factory=lambda: [tflite.BufferT()])
    tensors: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    kinds: dict[int, int] = field(default_factory=dict)
    stored: dict[str, Codes] = field(default_factory=dict)

    @property
    def unit(self) -> int:
        """Factor by which stored tensors are multiplied; see the module."""
        swishes = (getattr(layer, "activation", "") == "hardswish" for layer in self.network.layers)
        return integer.GAIN["hardswish"] if any(swishes) else 1

    def file(self) -> bytes:
        shape = self.network.height, self.network.width, 3
        image = self._codes(self.network.image, shape, IMAGE_STEP, -128)
        for layer in self.network.layers:
            self._layer(layer)
        graph = tflite.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs = [image.number]
        graph.outputs = [self.stored[name].number for name in self.network.fractions]
        model = tflite.ModelT()
        model.version, model.description = SCHEMA_VERSION, "perception_nodes"
        model.subgraphs, model.buffers = [graph], self.buffers
        model.operatorCodes = [_operator_code(kind) for kind in self.kinds]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _layer(self, layer: integer.Layer) -> None:
        if isinstance(layer, integer.Convolution):
            self._convolution(layer)
            return
        names = layer.sources if isinstance(layer, integer.Concat) else (layer.source,)
        sources = [self.stored[name] for name in names]
        height, width, channels = sources[0].shape
        inputs = [source.number for source in sources]
        options: Any
        if isinstance(layer, integer.Concat):
            kind, options = "CONCATENATION", tflite.ConcatenationOptionsT()
            options.axis = 3
            channels = sum(source.shape[2] for source in sources)
        elif isinstance(layer, integer.Slice):
            kind, options = "SLICE", tflite.SliceOptionsT()
            channels = layer.end - layer.begin
            inputs.append(self._constant("begin", [0, 0, 0, layer.begin]))
            inputs.append(self._constant("size", [1, height, width, channels]))
        elif isinstance(layer, integer.Upsample):
            kind, options = "RESIZE_NEAREST_NEIGHBOR", tflite.ResizeNearestNeighborOptionsT()
            height, width = 2 * height, 2 * width
            inputs.append(self._constant("size", [height, width]))
        else:
            kind, options = "MAX_POOL_2D", tflite.Pool2DOptionsT()
            options.padding = tflite.Padding.SAME
            options.strideH = options.strideW = 1
            options.filterHeight = options.filterWidth = layer.size
        shape = (height, width, channels)
        target = self._codes(layer.target, shape, sources[0].step, sources[0].zero)
        self._operator(kind, inputs, target, options)

    def _convolution(self, layer: integer.Convolution) -> None:
        if not layer.has_8_bits:
            raise BackendError(
                f"convolution {layer.name!r} is kept in float, which LiteRT's full-integer files "
                "cannot express; quantize the model without exceptions"
            )
        source = self.stored[layer.source]
        # The product of both steps is what the integer network's multipliers hold.
        products = np.ldexp(layer.multiplier.astype(np.float64), -layer.shift - layer.fraction)
        if layer.store is not None and layer.activation != "hardswish":
            products *= self.unit
        # The integer network's bias contains what the image's zero point adds.
        bias = layer.bias + source.zero * layer.weight.sum(axis=(1, 2, 3), dtype=np.int64)
        height, width = _size(layer, source.shape)
        shape = (height, width, len(layer.weight))
        kind, options = "CONV_2D", tflite.Conv2DOptionsT()
        if layer.depthwise:
            kind, options = "DEPTHWISE_CONV_2D", tflite.DepthwiseConv2DOptionsT()
            options.depthMultiplier = 1
        options.padding = tflite.Padding.SAME
        options.strideH = options.strideW = layer.stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = FUSED.get(layer.activation, 0)
        if not _is_same(layer, source.shape):
            options.padding = tflite.Padding.VALID
            source = self._padded(layer, source)
        axes = (1, 2, 3, 0) if layer.depthwise else (0, 2, 3, 1)
        weight = layer.weight.transpose(axes).astype(np.int8)
        inputs = [
            source.number,
            self._constant(f"{layer.name}/weight", weight, products / source.step, axes.index(0)),
            self._constant(f"{layer.name}/bias", bias, products),
        ]
        name = layer.target
        if layer.store is None:
            step = self.network.output_steps[name]
            step = min(step, self.limits.get(name, np.inf) / 127)
            self._operator(kind, inputs, self._codes(name, shape, step), options)
            return
        gain = integer.GAIN[layer.activation] * 2.0**layer.fraction
        step = self.unit * 2.0**layer.store.shift / (layer.store.multiplier * gain)
        # What is joined has one step, which is rounded for each kind of activation.
        near = [one.step for one in self.stored.values() if np.isclose(one.step, step, ROUNDING, 0)]
        step = near[0] if near else step
        residual = self.stored[layer.store.residual] if layer.store.residual else None
        largest = 128 * (step + (residual.step if residual else 0.0))
        lowest = LOWEST.get(layer.activation, -largest)
        if layer.activation == "hardswish":
            before = self._between(f"{name}/convolved", shape, -3.0, max(largest / self.unit, 3.0))
            self._operator(kind, inputs, before, options)
            inputs, kind = [before.number, self._raised(before, name).number], "MUL"
            options = tflite.MulOptionsT()
        if residual:
            activated = self._between(f"{name}/activated", shape, lowest, largest)
            self._operator(kind, inputs, activated, options)
            inputs, kind = [activated.number, residual.number], "ADD"
            options = tflite.AddOptionsT()
        self._operator(kind, inputs, self._codes(name, shape, step), options)

    def _raised(self, x: Codes, name: str) -> Codes:
        """X + 3 between 0 and 6."""
        three = self._constant("three", np.full((1, 1, 1, 1), 127, np.int8), np.array([3 / 127]))
        raised = self._codes(f"{name}/raised", x.shape, 6 / 255, -128)
        options = tflite.AddOptionsT()
        options.fusedActivationFunction = tflite.ActivationFunctionType.RELU6
        return self._operator("ADD", [x.number, three], raised, options)

    def _padded(self, layer: integer.Convolution, source: Codes) -> Codes:
        """The source with a border of `outside`, which stands for real 0."""
        top, left, bottom, right = layer.pads
        height, width, channels = source.shape
        pads = self._constant("pads", [[0, 0], [top, bottom], [left, right], [0, 0]])
        shape = (height + top + bottom, width + left + right, channels)
        padded = self._codes(f"{layer.target}/padded", shape, source.step, source.zero)
        return self._operator("PAD", [source.number, pads], padded, tflite.PadOptionsT())

    def _between(
        self, name: str, shape: tuple[int, int, int], lowest: float, largest: float
    ) -> Codes:
        """A tensor whose codes cover a range, in which 0 has one."""
        step = (largest - lowest) / 255
        return self._codes(name, shape, step, round(-128 - lowest / step))

    def _codes(self, name: str, shape: tuple[int, int, int], step: float, zero: int = 0) -> Codes:
        self.tensors.append(_tensor(name, (1, *shape), tflite.TensorType.INT8, [step], [zero]))
        self.stored[name] = Codes(len(self.tensors) - 1, shape, step, zero)
        return self.stored[name]

    def _constant(
        self, name: str, values: Any, steps: NDArray[np.float64] | None = None, axis: int = 0
    ) -> int:
        """A constant: int8 as given, anything else int32; with a step for each index of an axis."""
        array = np.asarray(values)
        kind = tflite.TensorType.INT8
        if array.dtype != np.int8:
            array, kind = array.astype(np.int32), tflite.TensorType.INT32
        scales = [] if steps is None else steps.tolist()
        tensor = _tensor(name, array.shape, kind, scales, [0] * len(scales), axis)
        tensor.buffer = len(self.buffers)
        self.buffers.append(tflite.BufferT())
        self.buffers[-1].data = np.frombuffer(array.tobytes(), np.uint8)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _operator(self, name: str, inputs: list[int], target: Codes, options: Any) -> Codes:
        kind = getattr(tflite.BuiltinOperator, name)
        operator = tflite.OperatorT()
        operator.opcodeIndex = self.kinds.setdefault(kind, len(self.kinds))
        operator.inputs, operator.outputs = inputs, [target.number]
        operator.builtinOptions = options
        kind_of_options = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(tflite.BuiltinOptions, kind_of_options)
        self.operators.append(operator)
        return target


def _size(layer: integer.Convolution, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of a convolution's result."""
    top, left, bottom, right = layer.pads
    kernel_height, kernel_width = layer.weight.shape[2:]
    height = (shape[0] + top + bottom - kernel_height) // layer.stride + 1
    return height, (shape[1] + left + right - kernel_width) // layer.stride + 1


def _is_same(layer: integer.Convolution, shape: tuple[int, int, int]) -> bool:
    """Whether a convolution's border is the one that LiteRT calls SAME."""
    top, left, bottom, right = layer.pads
    kernel = layer.weight.shape[2:]
    for size, width, first, last in zip(shape, kernel, (top, left), (bottom, right), strict=False):
        border = max((-(-size // layer.stride) - 1) * layer.stride + width - size, 0)
        if (first, last) != (border // 2, border - border // 2):
            return False
    return True


def _tensor(
    name: str,
    shape: tuple[int, ...],
    kind: int,
    steps: list[float],
    zeros: list[int],
    axis: int = 0,
) -> Any:
    tensor = tflite.TensorT()
    tensor.name, tensor.shape, tensor.type = name, list(shape), kind
    if steps:
        tensor.quantization = tflite.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = steps, zeros
        tensor.quantization.quantizedDimension = axis
    return tensor


def _operator_code(kind: int) -> Any:
    code = tflite.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    convolves = (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D)
    code.version = CONVOLUTION_VERSION if kind in convolves else INT8_VERSION
    return code
