"""The space of plain networks that a search looks at, and their layers, without making any."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

from model_compression.config import Shape
from model_compression.contract import REG_MAX, STRIDES

WIDTHS = ((32, 64), (32, 64, 128), (64, 128, 192, 256), (128, 192, 256, 384))
"""Channels at strides 4, 8, 16 and 32; none has fewer than the one before."""
DEPTHS = (1, 2, 4, 6)
STEM_KERNEL = 6
CLASSES = 8
"""Of the road models; another number hardly changes the time."""


class Layer(NamedTuple):
    """A convolution.

    Attributes:
        into, out: channels.
        kernel: side of the kernel.
        read, written: places of a channel in what it reads and in what it writes.
    """

    into: int
    out: int
    kernel: int
    read: int
    written: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.into * self.out * self.kernel**2

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates."""
        return self.weights * self.written


@dataclass(frozen=True)
class Candidate:
    """A plain network and its input in pixels; ``PlainNetwork`` is what it describes."""

    shape: Shape
    width: int
    height: int

    @property
    def gmac(self) -> float:
        """10^9 multiply-accumulates of a frame."""
        return sum(layer.macs for layer in self.layers()) / 1e9

    def layers(self) -> Iterator[Layer]:
        """Its convolutions."""
        shape = self.shape
        places = {side: (self.width // side) * (self.height // side) for side in (1, 4, *STRIDES)}

        def same(into: int, out: int, kernel: int, stride: int) -> Layer:
            return Layer(into, out, kernel, places[stride], places[stride])

        yield Layer(3, shape.widths[0], shape.stem_kernel, places[1], places[4])
        for _ in range(shape.depths[0]):
            yield same(shape.widths[0], shape.widths[0], 3, 4)
        stages = zip(pairwise((4, *STRIDES)), pairwise(shape.widths), shape.depths[1:], strict=True)
        for (fine, coarse), (into, out), depth in stages:
            yield Layer(into, out, 3, places[fine], places[coarse])
            for _ in range(depth):
                yield same(out, out, 3, coarse)
        for stride, own in zip(STRIDES, shape.widths[1:], strict=True):
            beside = shape.neck if stride < max(STRIDES) else 0
            yield same(own + beside, shape.neck, 1, stride)
            yield same(shape.neck, shape.neck, 3, stride)
            for outputs in (4 * REG_MAX, CLASSES):
                yield same(shape.neck, shape.head, 3, stride)
                yield same(shape.head, outputs, 1, stride)


def space(width: int, height: int) -> list[Candidate]:
    """Every network of the space, for one size of the input."""
    return [
        Candidate(Shape(widths=widths, depths=depths, stem_kernel=STEM_KERNEL), width, height)
        for widths in product(*WIDTHS)
        if list(widths) == sorted(widths)
        for depths in product(DEPTHS, repeat=len(WIDTHS))
    ]
