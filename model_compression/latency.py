"""A model of how long a plain network takes: a sum over its layers, fitted to measured networks.

A layer costs a share of each feature: itself, its multiply-accumulates, by the channels that it
reads (matrix units fill with many), the bytes that it reads and writes, and those of its weights.
Whole networks are measured, not layers alone: it is in a network that layers find their inputs in
the cache. Coefficients are not negative (Lawson and Hanson, Solving Least Squares Problems, 1974),
so more work never takes less time. Relative errors are minimised, so small networks count alike.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from model_compression.shapes import Layer

FEATURES = (
    "network",
    "layers",
    "GMAC of the image",
    "GMAC from 32 channels",
    "GMAC from 64 channels",
    "GMAC from more channels",
    "MB of maps",
    "MB of weights",
)
GMAC = slice(2, 6)
"""The features whose sum is a network's multiply-accumulates."""
LEAST_NETWORKS = 2 * len(FEATURES)
"""Networks that a fit needs at least."""


@cache
def _features(layer: Layer) -> NDArray[np.float64]:
    reads_channels = 2 + np.searchsorted((3, 32, 64), layer.into)
    found = np.zeros(len(FEATURES))
    found[1] = 1
    found[reads_channels] = layer.macs / 1e9
    found[6] = (layer.into * layer.read + layer.out * layer.written) / 1e6
    found[7] = layer.weights / 1e6
    return found


def features(layers: Iterable[Layer]) -> NDArray[np.float64]:
    """The features of a network, float64 [FEATURES]."""
    found = np.zeros(len(FEATURES))
    found[0] = 1
    for layer in layers:
        found += _features(layer)
    return found


def fit(rows: NDArray[np.float64], times_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the coefficients: milliseconds for one of each feature.

    Args:
        rows: features of networks, [networks, FEATURES].
        times_ms: what they were measured to take, [networks].
    """
    return nnls(rows / times_ms[:, None], np.ones(len(rows)))[0]


def left_out_errors(
    rows: NDArray[np.float64], times_ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The relative error of each network's prediction by a fit to all others, [networks]."""
    kept = ~np.eye(len(rows), dtype=bool)
    predicted = [row @ fit(rows[k], times_ms[k]) for row, k in zip(rows, kept, strict=True)]
    return np.array(predicted) / times_ms - 1
