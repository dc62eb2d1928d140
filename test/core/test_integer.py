"""The integer network against a plain oracle: loops and Python's integers."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.core import integer


def rhe(x, bits):
    return round(Fraction(int(x), 2**bits))  # Python rounds a tie to even


def sat(x, bits):
    return min(max(x, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def oracle(layer, codes, residual):
    """Compute a convolution as the specification says it, one number at a time."""
    out, channels, height, width = layer.weight.shape
    top, left, bottom, right = layer.pads
    rows = (codes.shape[1] + top + bottom - height) // layer.stride + 1
    columns = (codes.shape[2] + left + right - width) // layer.stride + 1

    def code(channel, row, column):
        inside = 0 <= row < codes.shape[1] and 0 <= column < codes.shape[2]
        return int(codes[channel, row, column]) if inside else layer.outside

    result = np.zeros((out, rows, columns), np.int64)
    for c, y, x in np.ndindex(result.shape):
        acc = int(layer.bias[c])
        for k, i, j in product(range(channels), range(height), range(width)):
            row, column = y * layer.stride - top + i, x * layer.stride - left + j
            at = (c if layer.depthwise else k, row, column)
            acc += code(*at) * int(layer.weight[c, k, i, j])
        assert -(2**31) <= acc < 2**31
        fixed = sat(rhe(acc * int(layer.multiplier[c]), layer.shift), 18)
        if layer.store is None:
            result[c, y, x] = fixed
            continue
        one = 2**layer.fraction
        if layer.activation == "hardswish":
            value = rhe(fixed * min(max(fixed + 3 * one, 0), 6 * one), layer.fraction)
        else:
            value = 8 * (max(fixed, 0) if layer.activation == "relu" else fixed)
        assert sat(value, 21) == value
        if layer.store.residual:
            value += int(residual[c, y, x]) * layer.store.residual_multiplier
        assert sat(value, 22) == value
        result[c, y, x] = sat(rhe(value * layer.store.multiplier, layer.store.shift), 8)
    return result


@st.composite
def layers(draw):
    """A layer, its input and its residual, within the specification's ranges."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    out, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
    depthwise = draw(st.booleans())
    out = channels if depthwise else out
    largest = draw(st.sampled_from([1, 63, 127, 2047]))
    fraction = draw(st.integers(0, 15))
    stored, summed = draw(st.booleans()), draw(st.booleans())
    store = integer.Store(
        draw(st.integers(2**16, 2**17 - 1)),
        draw(st.integers(14, 30)),
        "residual" if summed else "",
        draw(st.integers(0, 2**13)) if summed else 0,
    )
    shape = (out, 1 if depthwise else channels, size, size)
    layer = integer.Convolution(
        name="layer",
        source="source",
        target="target",
        weight=rng.integers(-largest, largest + 1, shape).astype(np.int16),
        bias=rng.integers(-(2**16), 2**16, out).astype(np.int32),
        stride=stride,
        pads=(size // 2,) * 4,
        outside=draw(st.sampled_from([0, -128])),
        multiplier=rng.integers(0, 2**17, out).astype(np.int32),
        shift=draw(st.integers(0, 24)),
        fraction=fraction,
        activation=draw(st.sampled_from(["none", "relu", "hardswish"])),
        store=store if stored else None,
        depthwise=depthwise,
    )
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    codes = rng.integers(-128, 128, (channels, height, width)).astype(np.int8)
    result = (out, -(-height // stride), -(-width // stride))
    return layer, codes, rng.integers(-128, 128, result).astype(np.int8)


@given(layers())
@settings(max_examples=200)
def test_a_convolution_is_what_the_specification_says(case):
    layer, codes, residual = case
    found = layer.run({"source": codes, "residual": residual})
    assert found.dtype == (np.int32 if layer.store is None else np.int8)
    np.testing.assert_array_equal(found, oracle(layer, codes, residual))
    np.testing.assert_array_equal(layer.dense().accumulate(codes), layer.accumulate(codes))


@given(st.integers(-(2**50), 2**50), st.integers(0, 47))
def test_rounding_takes_ties_to_even(x, bits):
    assert integer.round_shift(np.array([x]), bits)[0] == rhe(x, bits)


@given(st.lists(st.floats(1e-9, 1000), min_size=1, max_size=5))
def test_multipliers_keep_17_bits_of_the_greatest_factor(factors):
    found, shift = integer.multipliers(np.array(factors))
    assert 0 <= found.min() and found.max() < 2**integer.MULTIPLIER_BITS
    assert abs(found.max() - max(factors) * 2.0**shift) <= 0.5
    assert found.max() >= 2 ** (integer.MULTIPLIER_BITS - 1) or shift == 47


@given(st.floats(0.01, 100_000))
def test_fractions_leave_room_for_the_largest_value(largest):
    bits = integer.fraction_bits(largest)
    assert 0 <= bits <= 15
    assert round(max(largest, 4) * 2.0**bits) < 2**17


def test_a_factor_beyond_all_multipliers_is_refused():
    with pytest.raises(ValueError, match="is above 131071"):
        integer.multipliers(np.array([200_000.0]))


def test_codes_are_moved():
    a = np.arange(-6, 6, dtype=np.int8).reshape(1, 3, 4)
    tensors = {"a": a, "b": a - 50}
    np.testing.assert_array_equal(integer.Concat(("a", "b"), "").run(tensors)[1], a[0] - 50)
    both = {"both": np.stack([a[0]] * 2)}
    np.testing.assert_array_equal(integer.Slice("both", "", 1, 2).run(both), a)
    larger = integer.Upsample("a", "").run(tensors)
    assert larger.shape == (1, 6, 8)
    assert all(larger[0, y, x] == a[0, y // 2, x // 2] for y, x in np.ndindex(6, 8))
    pooled = integer.MaxPool("a", "", 3).run(tensors)
    for y, x in np.ndindex(3, 4):
        around = a[0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert pooled[0, y, x] == around.max()


def test_a_trace_has_every_tensor_and_the_image_as_signed_bytes():
    head = integer.Convolution(
        "head", "up", "out", np.ones((1, 3, 1, 1), np.int16), np.zeros(1, np.int32), 1,
        (0, 0, 0, 0), 0, np.array([2**16], np.int32), 16, 3, "none", None,
    )  # fmt: skip
    layers = (integer.Upsample("image", "up"), head)
    network = integer.Network("image", 2, 1, layers, {"out": 3}, {"out": 0.1})
    image = np.array([[[0, 128, 255], [1, 2, 3]]], np.uint8)
    trace = network.trace(image)
    assert list(trace) == ["image", "up", "out"]
    assert trace["image"][:, 0, 0].tolist() == [-128, 0, 127]
    np.testing.assert_array_equal(trace["out"][0, 0], [-1, -1, -378, -378])
    np.testing.assert_array_equal(network.run(image)["out"][0, 0, 0], trace["out"][0, 0] / 8)
