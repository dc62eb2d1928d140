"""Random convolutions for the engine, and what the integer network makes of them."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from perception_nodes.core.integer import Convolution, Store

LARGEST_MULTIPLIER = (1 << 17) - 1
CODES = (-128, 127)


@dataclass(frozen=True, repr=False)
class Case:
    """A layer with what it reads, as codes [channels, height, width], and how it is to be run."""

    layer: Convolution
    segments: tuple[np.ndarray, ...]
    upsample: tuple[bool, bool]
    residual: np.ndarray | None
    narrow: bool
    tile: int

    def __repr__(self):
        layer = self.layer
        shapes = [codes.shape for codes in self.segments]
        return (
            f"Case({shapes} up {self.upsample} weight {layer.weight.shape} stride {layer.stride} "
            f"pads {layer.pads} outside {layer.outside} shift {layer.shift} F {layer.fraction} "
            f"{layer.activation} {layer.store} narrow {self.narrow} tile {self.tile})"
        )

    def wanted(self):
        """What the integer network computes."""
        pictures = [
            codes.repeat(2, axis=1).repeat(2, axis=2) if up else codes
            for codes, up in zip(self.segments, self.upsample, strict=False)
        ]
        tensors = {"source": np.concatenate(pictures)}
        if self.residual is not None:
            tensors["residual"] = self.residual
        return self.layer.run(tensors)


def codes(rng, shape, kind):
    """Codes of a kind: any, or those at the limits alone."""
    if kind == "any":
        return rng.integers(-128, 128, shape, dtype=np.int8)
    if kind == "limits":
        return rng.choice(np.array(CODES, np.int8), shape)
    return np.full(shape, {"lowest": -128, "highest": 127}[kind], np.int8)


KINDS = st.sampled_from(["any", "any", "limits", "lowest", "highest"])
MULTIPLIERS = st.sampled_from([0, 1, 1 << 16, LARGEST_MULTIPLIER])


@st.composite
def cases(draw, most_groups=16, most_pixels=700):
    """Any layer that the engine takes, numbers at their limits included."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    upsample = draw(st.tuples(st.booleans(), st.booleans()))
    two = draw(st.booleans())
    doubled = upsample[0] or (two and upsample[1])
    height, width = draw(st.integers(1, 18)), draw(st.integers(1, 35))
    if doubled:
        height, width = 2 * (height // 2 + 1), 2 * (width // 2 + 1)
    height = max(min(height, most_pixels // width) // 2 * 2, 2 if doubled else 1)
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.integers(1, 2))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    # Where the picture is smaller than the kernel, more is outside.
    pads = tuple(
        max(p, kernel[i % 2]) if (height, width)[i % 2] < 3 else p for i, p in enumerate(pads)
    )
    groups = draw(st.integers(1, most_groups))
    first = draw(st.integers(1, groups - 1)) if two and groups > 1 else groups
    sizes = [first, groups - first] if first < groups else [groups]
    segments = tuple(
        codes(rng, (16 * n, height >> up, width >> up), draw(KINDS))
        for n, up in zip(sizes, upsample, strict=False)
    )
    out_groups = draw(st.integers(1, most_groups))
    narrow = draw(st.booleans()) if out_groups % 2 == 0 else True
    out = 16 * out_groups
    shape = (out, 16 * groups, *kernel)
    weight = {
        "any": lambda: rng.integers(-128, 128, shape),
        "shipped": lambda: rng.integers(-63, 64, shape),
        "limits": lambda: rng.choice([-128, 127], shape),
        "lowest": lambda: np.full(shape, -128),
        "highest": lambda: np.full(shape, 127),
    }[draw(st.sampled_from(["any", "shipped", "limits", "lowest", "highest"]))]()
    reach = 2**31 - 1 - 128 * np.abs(weight).sum(axis=(1, 2, 3))
    bias = rng.integers(-reach, reach + 1)
    if draw(st.booleans()):
        bias = rng.choice([-1, 0, 1], out) * reach
    elif draw(st.booleans()):
        bias = rng.integers(-1000, 1000, out)
    multiplier = rng.integers(0, LARGEST_MULTIPLIER + 1, out)
    if draw(st.booleans()):
        multiplier[:] = draw(MULTIPLIERS)
    rows = (height + pads[0] + pads[2] - kernel[0]) // stride + 1
    columns = (width + pads[1] + pads[3] - kernel[1]) // stride + 1
    residual = codes(rng, (out, rows, columns), draw(KINDS)) if draw(st.booleans()) else None
    fraction = draw(st.integers(0, 15))
    # So that codes are within their limits more often than not.
    likely = 17 + fraction + 3 if draw(st.booleans()) else draw(st.integers(0, 47))
    store = Store(
        draw(st.one_of(MULTIPLIERS, st.integers(0, LARGEST_MULTIPLIER))),
        min(likely, 47),
        "residual" if residual is not None else "",
        draw(st.one_of(MULTIPLIERS, st.integers(0, 1 << 13))) if residual is not None else 0,
    )
    layer = Convolution(
        name="layer",
        source="source",
        target="target",
        weight=weight.astype(np.int16),
        bias=bias.astype(np.int32),
        stride=stride,
        pads=pads,
        outside=draw(st.sampled_from([0, 0, -128, 127, 5])),
        multiplier=multiplier.astype(np.int32),
        shift=draw(st.one_of(st.integers(8, 30), st.integers(0, 47))),
        fraction=fraction,
        activation=draw(st.sampled_from(["none", "relu", "hardswish"])),
        store=store,
    )
    if draw(st.integers(0, 3)) == 0:
        layer, residual = replace(layer, store=None), None
    return Case(layer, segments, upsample, residual, narrow, draw(st.integers(8, 256)))
