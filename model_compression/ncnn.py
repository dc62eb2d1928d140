"""A network of ncnn (`.param` and `.bin`) as ONNX, for `perception model import`.

Of ncnn's layers those of NanoDet-Plus are known; the format is described in ncnn's documentation
(param-and-model-file-structure, operators). Call:

    python -m model_compression.ncnn nanodet.param nanodet.bin nanodet.onnx --size 416x416
"""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_compression.errors import CompressionError
from perception_nodes.system.files import try_writing, write_whole

MAGIC = "7767517"
HALF, SINGLE = 0x01306B47, 0
"""How weights are stored: float16, padded to four bytes, or float32."""
ARRAY = 23300
EQUAL = -233
"""Instead of a size: an equal share of what is left."""
OPSET = 17
HINTS = {30, 31}
"""Parameters of any layer that change nothing: shapes of its outputs, and precisions to avoid."""
_CONVOLUTION = {*range(8), 9, 10, 11, 17}
READ = {
    "Split": set[int](),
    "Convolution": _CONVOLUTION,
    "ConvolutionDepthWise": _CONVOLUTION,
    "Pooling": {0, 1, 2, 3, 5},
    "Concat": {0},
    "Slice": {0},
    "ShuffleChannel": {0},
    "BinaryOp": {0},
    "Interp": {0, 1, 2, 6},
    "Reshape": {0, 1},
}
"""Parameters that are read here, by the kind of layer."""
_SQUARE = {12: (2, 1), 13: (3, 1), 14: (4, 0), 15: (4, 0), 16: (4, 0)}
USUAL = {
    "Convolution": _SQUARE,
    "ConvolutionDepthWise": _SQUARE,
    "Pooling": {11: (1, 0), 12: (2, 1), 13: (3, 0), 14: (3, 0), 15: (3, 0)},
    "Reshape": {2: (-1, EQUAL), 11: (-1, EQUAL)},
}
"""What another parameter has to be: as the one of that number, and where there is none, that value;
those that are not here have to be zero."""
Value = int | float | list[float]


@dataclass(frozen=True)
class Layer:
    """A line of the `.param` file.

    Attributes:
        kind: of the layer.
        inputs, outputs: names of tensors.
        values: parameters by number.
    """

    kind: str
    inputs: list[str]
    outputs: list[str]
    values: dict[int, Value]

    def whole(self, number: int, default: int = 0) -> int:
        """A parameter that is a whole number."""
        value = self.values.get(number, default)
        assert not isinstance(value, list)
        return int(value)

    def real(self, number: int, default: float) -> float:
        """A parameter that is a number."""
        value = self.values.get(number, default)
        assert not isinstance(value, list)
        return float(value)


def read_param(text: str) -> list[Layer]:
    """The layers of a `.param` file.

    Raises:
        CompressionError: it is not one.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or lines[0] != [MAGIC]:
        raise CompressionError(f"this is no text file of ncnn, which begins with {MAGIC}")
    said, there = lines[1][0], len(lines) - 2
    if not said.isdecimal() or there < int(said):
        raise CompressionError(
            f"the .param file has {there} layers, and says {said}; copy it again"
        )
    layers = []
    for words in lines[2:]:
        try:
            layers.append(_read_layer(words))
        except (IndexError, ValueError) as error:
            raise CompressionError(
                f"line {' '.join(words)!r} of the .param file is no whole layer; copy it again"
            ) from error
    if "Input" not in {layer.kind for layer in layers}:
        raise CompressionError("the .param file has no layer Input; take a whole network's")
    return layers


def _read_layer(words: list[str]) -> Layer:
    kind, ins, outs = words[0], int(words[2]), int(words[3])
    names, rest = words[4 : 4 + ins + outs], words[4 + ins + outs :]
    if len(names) != ins + outs:
        raise ValueError(f"{len(names)} names for {ins} inputs and {outs} outputs")
    values: dict[int, Value] = {}
    for word in rest:
        key, _, said = word.partition("=")
        if int(key) <= -ARRAY:
            values[-int(key) - ARRAY] = [float(part) for part in said.split(",")[1:]]
        else:
            values[int(key)] = float(said) if "." in said or "e" in said else int(said)
    return Layer(kind, names[:ins], names[ins:], values)


class Weights:
    """The `.bin` file, which is read from its beginning to its end."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def _take(self, nbytes: int) -> bytes:
        part = self._content[self._at : self._at + nbytes]
        if len(part) < nbytes:
            raise CompressionError("the .bin file is shorter than the .param file says; copy again")
        self._at += nbytes
        return part

    def tagged(self, count: int) -> np.ndarray:
        """Weights behind the number that says how they are stored, float32 [count]."""
        tag = int.from_bytes(self._take(4), "little")
        if tag == HALF:
            stored = self._take((2 * count + 3) // 4 * 4)
            return np.frombuffer(stored, np.float16, count).astype(np.float32)
        if tag != SINGLE:
            raise CompressionError(
                f"the .bin file stores weights in a way ({tag:#x}) that is not known here; take "
                "the file in float32 or float16"
            )
        return self.plain(count)

    def plain(self, count: int) -> np.ndarray:
        """Float32 [count]."""
        return np.frombuffer(self._take(4 * count), np.float32).copy()

    def finish(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._content):
            raise CompressionError(
                f"{len(self._content) - self._at} bytes of the .bin file are left; it is another "
                "network's"
            )


@dataclass
class Converter:
    """Writes the nodes of each layer.

    Attributes:
        weights: the `.bin` file.
        shapes: channels, height and width of each tensor.
        nodes, tensors: of the graph.
    """

    weights: Weights
    shapes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, values: object, dtype: type = np.int64) -> str:
        """Add a constant."""
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> None:
        """Add a node, named by its first output."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))

    def convert(self, layer: Layer) -> None:
        """Add a layer.

        Raises:
            CompressionError: its kind is unknown, or a parameter of it.
        """
        if layer.kind not in READ:
            raise CompressionError(
                f"ncnn's layer {layer.kind} is not known here; known are the layers of NanoDet-Plus"
            )
        for number in layer.values.keys() - READ[layer.kind] - HINTS:
            twin, default = USUAL.get(layer.kind, {}).get(number, (-1, 0))
            value, usual = layer.values[number], layer.values.get(twin, default)
            if value not in (usual, []):
                raise CompressionError(
                    f"parameter {number} of {layer.kind} {layer.outputs[0]!r} is {value}; only "
                    f"{usual} is known here, as in NanoDet-Plus"
                )
        getattr(self, f"_{layer.kind.lower()}")(layer)

    def _same(self, layer: Layer) -> None:
        self.shapes |= dict.fromkeys(layer.outputs, self.shapes[layer.inputs[0]])

    def _split(self, layer: Layer) -> None:
        self._same(layer)
        for name in layer.outputs:
            self.add("Identity", layer.inputs, [name])

    def _convolution(self, layer: Layer) -> None:
        (out,) = layer.outputs
        count, size = layer.whole(0), layer.whole(1)
        groups = layer.whole(7, 1)
        channels, *picture = self.shapes[layer.inputs[0]]
        inside = channels // groups
        shape = (count, inside, layer.whole(11, size), size)
        if layer.whole(6) != np.prod(shape):
            raise CompressionError(f"convolution {out!r} has {layer.whole(6)} weights, not {shape}")
        weight = self.weights.tagged(layer.whole(6)).reshape(shape)
        names = [self.constant(f"{out}_weight", weight, np.float32)]
        if layer.whole(5):
            names.append(self.constant(f"{out}_bias", self.weights.plain(count), np.float32))
        slope = layer.values.get(10)
        kind = layer.whole(9)
        made = f"{out}_raw" if kind else out
        pad, stride, dilation = layer.whole(4), layer.whole(3, 1), layer.whole(2, 1)
        self.add(
            "Conv",
            [*layer.inputs, *names],
            [made],
            kernel_shape=shape[2:],
            strides=[stride] * 2,
            dilations=[dilation] * 2,
            pads=[pad] * 4,
            group=groups,
        )
        if kind == 1:
            self.add("Relu", [made], [out])
        elif kind == 2:
            assert isinstance(slope, list)
            self.add("LeakyRelu", [made], [out], alpha=slope[0])
        elif kind:
            raise CompressionError(f"activation {kind} of {out!r} is not known here")
        reach = [dilation * (length - 1) + 1 for length in shape[2:]]
        height, width = (
            (length + 2 * pad - kernel) // stride + 1
            for length, kernel in zip(picture, reach, strict=True)
        )
        self.shapes[out] = count, height, width

    _convolutiondepthwise = _convolution

    def _pooling(self, layer: Layer) -> None:
        if layer.whole(0) or layer.whole(5) != 1:
            raise CompressionError(f"pooling {layer.outputs[0]!r} is not a plain maximum")
        size, stride, pad = layer.whole(1), layer.whole(2, 1), layer.whole(3)
        channels, *picture = self.shapes[layer.inputs[0]]
        height, width = ((length + 2 * pad - size) // stride + 1 for length in picture)
        self.shapes[layer.outputs[0]] = channels, height, width
        self.add(
            "MaxPool",
            layer.inputs,
            layer.outputs,
            kernel_shape=[size] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
        )

    def _concat(self, layer: Layer) -> None:
        # ncnn counts axes without that of the batch.
        axis = layer.whole(0) + 1
        channels, *picture = self.shapes[layer.inputs[0]]
        if axis == 1:
            channels = sum(self.shapes[name][0] for name in layer.inputs)
        self.shapes[layer.outputs[0]] = channels, picture[0], picture[1]
        self.add("Concat", layer.inputs, layer.outputs, axis=axis)

    def _slice(self, layer: Layer) -> None:
        parts = len(layer.outputs)
        channels, *picture = self.shapes[layer.inputs[0]]
        each = channels // parts
        if not {*layer.values.get(0, [EQUAL])} <= {EQUAL, each}:
            raise CompressionError(f"slice {layer.outputs[0]!r} has parts of different sizes")
        sizes = self.constant(f"{layer.outputs[0]}_sizes", [each] * parts)
        self.shapes |= dict.fromkeys(layer.outputs, (each, picture[0], picture[1]))
        self.add("Split", [*layer.inputs, sizes], layer.outputs, axis=1)

    def _shufflechannel(self, layer: Layer) -> None:
        (source,), (out,) = layer.inputs, layer.outputs
        groups = layer.whole(0, 1)
        channels, *picture = self.shapes[source]
        self._same(layer)
        # As PyTorch writes it: OpenVINO 2026.4 computes something else of a Gather in its place.
        apart = self.constant(f"{out}_apart", [1, groups, channels // groups, *picture])
        whole = self.constant(f"{out}_whole", [1, channels, *picture])
        self.add("Reshape", [source, apart], [f"{out}_groups"])
        self.add("Transpose", [f"{out}_groups"], [f"{out}_turned"], perm=[0, 2, 1, 3, 4])
        self.add("Reshape", [f"{out}_turned", whole], [out])

    def _binaryop(self, layer: Layer) -> None:
        if layer.whole(0):
            raise CompressionError(f"operation {layer.whole(0)} of {layer.outputs[0]!r} is no sum")
        self._same(layer)
        self.add("Add", layer.inputs, layer.outputs)

    def _interp(self, layer: Layer) -> None:
        (out,) = layer.outputs
        if layer.whole(0) not in (1, 2) or layer.whole(6):
            raise CompressionError(f"enlargement {out!r} is neither nearest nor bilinear")
        scales = [1, 1, layer.real(1, 1.0), layer.real(2, 1.0)]
        channels, height, width = self.shapes[layer.inputs[0]]
        self.shapes[out] = channels, int(height * scales[2]), int(width * scales[3])
        linear = layer.whole(0) == 2
        self.add(
            "Resize",
            [*layer.inputs, "", self.constant(f"{out}_scales", scales, np.float32)],
            [out],
            mode="linear" if linear else "nearest",
            coordinate_transformation_mode="half_pixel" if linear else "asymmetric",
            nearest_mode="floor",
        )

    def _reshape(self, layer: Layer) -> None:
        (out,) = layer.outputs
        self._same(layer)
        shape = self.constant(f"{out}_shape", [1, layer.whole(1), layer.whole(0)])
        self.add("Reshape", [*layer.inputs, shape], [out])


def convert(param: Path, weights: Path, size: tuple[int, int]) -> onnx.ModelProto:
    """Make ONNX of a network.

    Args:
        param: the `.param` file.
        weights: the `.bin` file.
        size: width and height of the input.

    Raises:
        CompressionError: a file cannot be read, is not whole, or has a layer that is not known
            here.
    """
    try:
        layers, content = read_param(param.read_text(encoding="utf-8")), weights.read_bytes()
    except (OSError, UnicodeError) as error:
        raise CompressionError(f"{param} or {weights} cannot be read: {error}") from error
    to = Converter(Weights(content))
    image = next(layer for layer in layers if layer.kind == "Input").outputs[0]
    to.shapes[image] = 3, size[1], size[0]
    for layer in layers:
        if layer.kind != "Input":
            try:
                to.convert(layer)
            except (AssertionError, ArithmeticError, LookupError, ValueError) as error:
                raise CompressionError(
                    f"layer {' '.join(layer.outputs)!r} of {param} does not fit those before it, "
                    f"or an input of {size[0]}x{size[1]}; copy the file again, or give its --size"
                ) from error
    to.weights.finish()
    read = {name for layer in layers for name in layer.inputs}
    last = [name for layer in layers for name in layer.outputs if name not in read]
    shape = [1, 3, *size[::-1]]
    graph = helper.make_graph(
        to.nodes,
        "ncnn",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in last],
        to.tensors,
    )
    opset = [helper.make_opsetid("", OPSET)]
    network = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="ncnn")
    try:
        network = onnx.shape_inference.infer_shapes(network, strict_mode=True)
        onnx.checker.check_model(network, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompressionError(
            f"{param} makes no network for an input of {size[0]}x{size[1]}: "
            f"{' '.join(str(error).split())}; copy the file again, or give its --size"
        ) from error
    return network


def _size(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 416x416")
    width, height = map(int, text.split("x"))
    return width, height


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("param", type=Path)
    parser.add_argument("weights", type=Path, metavar="bin")
    parser.add_argument("onnx", type=Path)
    parser.add_argument("--size", type=_size, default="416x416", metavar="WIDTHxHEIGHT")
    given = parser.parse_args()
    try:
        try_writing(given.onnx)
        network = convert(given.param, given.weights, given.size)
        write_whole(given.onnx, network.SerializeToString())
    except CompressionError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        parser.exit(2, f"error: {given.onnx} cannot be written: {error.strerror}\n")


if __name__ == "__main__":
    main()
