"""Weights in few bits: symmetric, one scale an output channel.

A scale has `SCALE_BITS` significant bits. A weight of up to 7 bits times such a scale is exact in
float32, so that rounding weights that are rounded already changes nothing: a quantized file holds
its float graph, and gives back itself.
"""

import hashlib

import numpy as np
import onnx

from model_compression.quantization.graph import Layout, weights_of

SCALE_BITS = 17
BIAS_STEPS = 2.0**20
"""A bias is at most so many times its channel's weight scale: else the 32-bit bias of the integer
network would overflow on channels whose weights are (nearly) zero."""
CHANNEL_SPREAD = 64
"""Scales of one convolution differ at most so much: its channels share one shift in hardware, and a
smaller scale would leave its multiplier too few bits."""


def weight_scale(weight: np.ndarray, bias: np.ndarray, bits: int) -> np.ndarray:
    """Return the scale of each output channel.

    Args:
        weight: float32 [out, in, height, width].
        bias: float32 [out].
        bits: of a weight, 2 to 8; the codes are symmetric, for 7 bits -63 to 63.

    Returns:
        float32 [out], of at most `SCALE_BITS` significant bits.
    """
    largest = 2 ** (bits - 1) - 1
    wanted = np.abs(weight).astype(np.float64).max(axis=(1, 2, 3)) / largest
    floor = np.exp2(np.ceil(np.log2(np.maximum(np.abs(bias), 1e-6) / BIAS_STEPS)))
    scale = np.maximum(wanted, floor)
    mantissa, exponent = np.frexp(np.maximum(scale, scale.max() / CHANNEL_SPREAD))
    return np.ldexp(np.rint(np.ldexp(mantissa, SCALE_BITS)), exponent - SCALE_BITS).astype(
        np.float32
    )


def round_weight(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the codes of weights, int8 of the same shape; ties go to even."""
    return np.rint(weight / scale.astype(np.float64)[:, None, None, None]).astype(np.int8)


def fingerprint(model: onnx.ModelProto, layout: Layout, bits: int) -> str:
    """Return the SHA-256 of a float graph's weights as they are once rounded, and its biases.

    Rounded, so that it is the same for a float graph and for the one got back from its quantized
    file.
    """
    digest = hashlib.sha256()
    weights = weights_of(model)
    for block in layout.blocks:
        weight, bias = weights[block.weight], weights[block.bias]
        scale = weight_scale(weight, bias, bits)
        for part in (round_weight(weight, scale), scale, bias):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
