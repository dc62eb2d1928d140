"""Random convolutions for the engine, and their results in the integer network."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from perception_nodes.core.integer import Convolution, Store, activate

LARGEST_MULTIPLIER = (1 << 17) - 1
CODES = (-128, 127)


@dataclass(frozen=True, repr=False)
class Case:
    """A layer, the codes that it reads [channels, height, width], and how the engine runs it."""

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

    def tensors(self):
        """What the integer network reads."""
        pictures = [
            codes.repeat(2, axis=1).repeat(2, axis=2) if up else codes
            for codes, up in zip(self.segments, self.upsample, strict=False)
        ]
        tensors = {"source": np.concatenate(pictures)}
        if self.residual is not None:
            tensors["residual"] = self.residual
        return tensors

    def wanted(self):
        """What the integer network computes."""
        return self.layer.run(self.tensors())


def codes(rng, shape, kind):
    """Codes: any, or only those at the limits."""
    if kind == "any":
        return rng.integers(-128, 128, shape, dtype=np.int8)
    if kind == "limits":
        return rng.choice(np.array(CODES, np.int8), shape)
    return np.full(shape, {"lowest": -128, "highest": 127}[kind], np.int8)


KINDS = st.sampled_from(["any", "any", "any", "limits", "lowest", "highest"])
MULTIPLIERS = st.sampled_from([LARGEST_MULTIPLIER, 1 << 16, 1, 0])
RARELY = st.sampled_from([False, False, False, True])
KERNELS = st.sampled_from([1, 2, 3, 1, 2, 3, 5, 15])
MOST_STEPS = 144
"""Of the array, for an output: a kernel of 3 x 3 on 16 groups of input channels."""


@st.composite
def cases(draw, most_groups=16, most_pixels=700):
    """Any layer that the engine supports, including numbers at their limits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    upsample = draw(st.tuples(st.booleans(), st.booleans()))
    two = draw(st.booleans())
    doubled = upsample[0] or (two and upsample[1])
    height, width = draw(st.integers(1, 18)), draw(st.integers(1, 35))
    if doubled:
        height, width = 2 * (height // 2 + 1), 2 * (width // 2 + 1)
    height = max(min(height, most_pixels // width) // 2 * 2, 2 if doubled else 1)
    kernel = draw(st.tuples(KERNELS, KERNELS))
    stride = draw(st.integers(1, 2))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    # If the picture is smaller than the kernel, it needs more padding.
    pads = tuple(
        max(p, kernel[i % 2]) if (height, width)[i % 2] < kernel[i % 2] else p
        for i, p in enumerate(pads)
    )
    most_groups = min(most_groups, max(MOST_STEPS // (kernel[0] * kernel[1]), 1))
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
    }[draw(st.sampled_from(["any", "shipped", "any", "shipped", "limits", "lowest", "highest"]))]()
    reach = 2**31 - 1 - 128 * np.abs(weight).sum(axis=(1, 2, 3))
    bias = {
        "small": lambda: rng.integers(-1000, 1001, out),
        "any": lambda: rng.integers(-reach, reach + 1),
        "limits": lambda: rng.choice([-1, 0, 1], out) * reach,
    }[draw(st.sampled_from(["small", "small", "small", "any", "limits"]))]()
    multiplier = rng.integers(1 << 14, LARGEST_MULTIPLIER + 1, out)
    if draw(RARELY):
        multiplier[:] = draw(MULTIPLIERS)
    rows = (height + pads[0] + pads[2] - kernel[0]) // stride + 1
    columns = (width + pads[1] + pads[3] - kernel[1]) // stride + 1
    residual = codes(rng, (out, rows, columns), draw(KINDS)) if draw(st.booleans()) else None
    residual_multiplier = 0
    if residual is not None:
        residual_multiplier = draw(MULTIPLIERS if draw(RARELY) else st.integers(0, 1 << 13))
    store = Store(
        draw(MULTIPLIERS if draw(RARELY) else st.integers(1 << 16, LARGEST_MULTIPLIER)),
        draw(st.integers(0, 47)),
        "residual" if residual is not None else "",
        residual_multiplier,
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
        shift=draw(st.integers(0, 47)),
        fraction=draw(st.integers(0, 15)),
        activation=draw(st.sampled_from(["none", "relu", "hardswish"])),
        store=store,
    )
    if draw(RARELY):
        layer, residual = replace(layer, store=None), None
    case = Case(layer, segments, upsample, residual, narrow, draw(st.integers(8, 256)))
    if not draw(RARELY):
        case = scaled(case, draw(st.integers(8, 18)), draw(st.sampled_from([7, 7, 8, 10, 4])))
    return case


def scaled(case, fixed_bits, code_bits):
    """The layer with shifts that give `fixed` and codes this many bits; the limits are 18 and 8."""
    layer, tensors = case.layer, case.tensors()
    product = layer.accumulate(tensors["source"]) * layer.multiplier[:, None, None]
    layer = replace(layer, shift=shift_to(product, fixed_bits))
    if layer.store is not None:
        total = activate(layer.preactivate(tensors["source"]), layer.activation, layer.fraction)
        if case.residual is not None:
            total += case.residual * np.int64(layer.store.residual_multiplier)
        shift = shift_to(total * layer.store.multiplier, code_bits)
        layer = replace(layer, store=replace(layer.store, shift=shift))
    return replace(case, layer=layer)


def shift_to(values, bits):
    """The shift after which the largest value has this many bits, including its sign."""
    return int(np.clip(int(np.abs(values).max()).bit_length() + 1 - bits, 0, 47))
