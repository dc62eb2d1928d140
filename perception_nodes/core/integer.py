"""The integer network: what a quantized detector computes, bit for bit, on every device.

Float runtimes come within rounding of it; hardware implements it exactly. This page is its
specification.

Numbers. A *code* is int8 and stands for code x step, a step for each stored tensor. Real 0 is code
0, but for the image, whose code is its byte less 128: there real 0 (black) is code -128. RHE(x, n)
is x / 2^n rounded to the nearest integer, ties to even; RHE(x, 0) is x. SAT(x, b) limits x to what
b bits hold in two's complement.

A convolution layer, for every output channel c and position:

    acc   = sum of code x weight + bias[c]           int32; weights of 8 bits (12: see below)
    fixed = SAT(RHE(acc x multiplier[c], shift), 18) multiplier below 2^17; product 50 bits
    value = HardSwish: RHE(fixed x min(max(fixed + 3 x 2^F, 0), 6 x 2^F), F)        21 bits
            ReLU:      8 x max(fixed, 0)
            none:      8 x fixed
    total = value + residual code x residual_multiplier                             22 bits
    code  = SAT(RHE(total x store_multiplier, store_shift), 8)       product 40 bits

`fixed` has F fraction bits (`fraction`, 0 to 15): the pre-activation in units of 2^-F. `value` is
the activation times a gain, 6 for HardSwish, whose division by 6 is thereby left to
`store_multiplier`, and 8 otherwise: guard bits for the residual sum. One shift serves all channels
of a layer. Outside of the picture the code is `outside`: 0, or -128 in front of the first layer.
Multipliers are not negative and fit the 18-bit port of a DSP block; each is scaled up, by powers of
two that its shift takes back, to 17 significant bits, for the channels of a layer together.

The last convolution of a branch of the head stores no codes: its output is `fixed`, which
stands for fixed x 2^-F.

A convolution that the file keeps in float has weights of 12 bits here; acc still fits 32.

A depthwise convolution sums over the one channel that its output channel belongs to.

Concat, Slice, Upsample and MaxPool move codes.

In NumPy the sums are computed in float64, which is exact: |acc| < 2^31 < 2^53.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int8]
Integers = NDArray[np.int64]
Activation = Literal["none", "relu", "hardswish"]

FIXED_BITS = 18
MULTIPLIER_BITS = 17
GAIN: dict[Activation, int] = {"none": 8, "relu": 8, "hardswish": 6}
IMAGE_MIDDLE = 128


@dataclass(frozen=True)
class Store:
    """How a layer's total becomes a code.

    Attributes:
        multiplier, shift: `store_multiplier` and `store_shift` of the specification.
        residual: name of the tensor that is added, empty for none.
        residual_multiplier: multiplier of that tensor's codes.
    """

    multiplier: int
    shift: int
    residual: str = ""
    residual_multiplier: int = 0


@dataclass(frozen=True)
class Convolution:
    """A convolution with all that happens before its result is stored.

    Attributes:
        name: name of the convolution.
        source, target: names of the tensors read and written.
        weight: int16 [out, in, height, width], of 8 or 12 bits; in is 1 where it is depthwise.
        bias: int32 [out].
        stride: stride in both directions.
        pads: rows above, columns left, rows below, columns right.
        outside: code that stands outside of the picture.
        multiplier: int32 [out].
        shift: shift of the products with `multiplier`.
        fraction: F, the fraction bits of the pre-activation.
        activation: the activation that follows.
        store: how codes are made; None for an output of the network.
        depthwise: whether each channel is convolved alone.
    """

    name: str
    source: str
    target: str
    weight: NDArray[np.int16]
    bias: NDArray[np.int32]
    stride: int
    pads: tuple[int, int, int, int]
    outside: int
    multiplier: NDArray[np.int32]
    shift: int
    fraction: int
    activation: Activation
    store: Store | None
    depthwise: bool = False

    @property
    def has_8_bits(self) -> bool:
        """Whether its weights fit 8 bits; those of a layer that the file keeps in float do not."""
        return bool(np.abs(self.weight).max() <= 127)

    def accumulate(self, codes: Codes) -> Integers:
        """The sums of products and the bias, int64 [out, height, width] within 32 bits."""
        channels, kernel = len(self.weight), self.weight.shape[2:]
        top, left, bottom, right = self.pads
        padded = np.pad(codes, ((0, 0), (top, bottom), (left, right)), constant_values=self.outside)
        patches = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
        patches = patches[:, :: self.stride, :: self.stride]
        height, width = patches.shape[1:3]
        groups = channels if self.depthwise else 1
        columns = patches.transpose(0, 3, 4, 1, 2).reshape(groups, -1, height * width)
        rows = self.weight.reshape(groups, channels // groups, -1)
        sums = (rows.astype(np.float64) @ columns.astype(np.float64)).reshape(channels, -1)
        return (sums + self.bias[:, None]).reshape(channels, height, width).astype(np.int64)

    def dense(self) -> "Convolution":
        """The same without `depthwise`, with weights of 0 for all other channels."""
        if not self.depthwise:
            return self
        channels = np.arange(len(self.weight))
        weight = np.zeros((len(channels), len(channels), *self.weight.shape[2:]), np.int16)
        weight[channels, channels] = self.weight[:, 0]
        return replace(self, weight=weight, depthwise=False)

    def preactivate(self, codes: Codes) -> Integers:
        """`fixed` of the specification, int64 [out, height, width] within 18 bits."""
        product = self.accumulate(codes) * self.multiplier[:, None, None]
        return saturate(round_shift(product, self.shift), FIXED_BITS)

    def run(self, tensors: Mapping[str, NDArray[np.signedinteger]]) -> NDArray[np.signedinteger]:
        """The layer's result: codes, or `fixed` as int32 where it is an output."""
        fixed = self.preactivate(tensors[self.source])
        if self.store is None:
            return fixed.astype(np.int32)
        total = activate(fixed, self.activation, self.fraction)
        if self.store.residual:
            total += tensors[self.store.residual] * np.int64(self.store.residual_multiplier)
        product = total * self.store.multiplier
        return saturate(round_shift(product, self.store.shift), 8).astype(np.int8)


@dataclass(frozen=True)
class Concat:
    """Channels of several tensors, one behind the other."""

    sources: tuple[str, ...]
    target: str

    def run(self, tensors: Mapping[str, NDArray[np.signedinteger]]) -> Codes:
        """The joined codes."""
        return np.concatenate([tensors[name] for name in self.sources])


@dataclass(frozen=True)
class Slice:
    """Channels `begin` to `end` of a tensor."""

    source: str
    target: str
    begin: int
    end: int

    def run(self, tensors: Mapping[str, NDArray[np.signedinteger]]) -> Codes:
        """A view of the codes."""
        return tensors[self.source][self.begin : self.end]


@dataclass(frozen=True)
class Upsample:
    """Every code twice in both directions."""

    source: str
    target: str

    def run(self, tensors: Mapping[str, NDArray[np.signedinteger]]) -> Codes:
        """The larger tensor."""
        return tensors[self.source].repeat(2, axis=1).repeat(2, axis=2)


@dataclass(frozen=True)
class MaxPool:
    """The greatest code within `size` x `size`, stride 1, the size of the picture kept."""

    source: str
    target: str
    size: int

    def run(self, tensors: Mapping[str, NDArray[np.signedinteger]]) -> Codes:
        """The pooled codes."""
        around = (self.size // 2,) * 2
        padded = np.pad(tensors[self.source], ((0, 0), around, around), constant_values=-128)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.size,) * 2, axis=(1, 2))
        greatest: Codes = windows.max(axis=(3, 4))
        return greatest


Layer = Convolution | Concat | Slice | Upsample | MaxPool


@dataclass(frozen=True)
class Network:
    """A detector as integers.

    Attributes:
        image: name of the input.
        width, height: of the input, in pixels.
        layers: in the order of execution.
        fractions: fraction bits of every output.
        output_steps: the step (LSB) in which differences at an output are given, in its own units.
    """

    image: str
    width: int
    height: int
    layers: Sequence[Layer]
    fractions: Mapping[str, int]
    output_steps: Mapping[str, float]

    def trace(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.signedinteger]]:
        """Every tensor, by name: what hardware is compared with, layer by layer.

        Args:
            image: uint8 [height, width, 3] BGR.

        Returns:
            The image and stored tensors, int8 [channels, height, width], and the outputs, int32.
        """
        codes = (image.astype(np.int16) - IMAGE_MIDDLE).astype(np.int8)
        tensors: dict[str, NDArray[np.signedinteger]] = {self.image: codes.transpose(2, 0, 1)}
        for layer in self.layers:
            tensors[layer.target] = layer.run(tensors)
        return tensors

    def run(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The outputs in real units, float32 [1, channels, height, width]; see `trace`."""
        tensors = self.trace(image)
        return {
            name: np.ldexp(tensors[name].astype(np.float32), -fraction)[None]
            for name, fraction in self.fractions.items()
        }


def round_shift(x: Integers, bits: int) -> Integers:
    """RHE(x, bits) of the specification."""
    if bits == 0:
        return x
    # Half less one, and one more where the result would be odd: a tie goes to the even one.
    return (x + ((1 << (bits - 1)) - 1) + ((x >> bits) & 1)) >> bits


def saturate(x: Integers, bits: int) -> Integers:
    """SAT(x, bits) of the specification."""
    return np.clip(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def activate(fixed: Integers, activation: Activation, fraction: int) -> Integers:
    """`value` of the specification: the activation times its gain."""
    if activation == "hardswish":
        one = 1 << fraction
        return round_shift(fixed * np.clip(fixed + 3 * one, 0, 6 * one), fraction)
    return GAIN["relu"] * np.maximum(fixed, 0) if activation == "relu" else GAIN["none"] * fixed


def fraction_bits(largest: float) -> int:
    """The fraction bits with which a signed number of `FIXED_BITS` reaches `largest`.

    At least -4 to 4 is covered: HardSwish bends within it.
    """
    reach = (1 << (FIXED_BITS - 1)) - 1
    return int(np.floor(np.log2(reach / max(largest, 4.0))))


def multipliers(factors: NDArray[np.float64]) -> tuple[NDArray[np.int32], int]:
    """Positive real factors as integers below 2^17 and one shift.

    Raises:
        ValueError: a factor is too large for a shift to the right.
    """
    largest = (1 << MULTIPLIER_BITS) - 1
    shift = int(np.floor(np.log2(largest / factors.max())))
    if shift < 0:
        raise ValueError(f"factor {factors.max():.3g} is above {largest}")
    # Beyond 47 bits the sum of a 50-bit product would leave int64's comfort, and be 0 anyway.
    shift = min(shift, 47)
    return np.rint(np.ldexp(factors, shift)).astype(np.int32), shift
