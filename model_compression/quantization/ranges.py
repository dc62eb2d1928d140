"""Measure the table of ranges: run the float network on frames and choose each tensor's amax."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from model_compression.errors import CompressionError
from model_compression.quantization.graph import Layout, read_layout
from model_compression.quantization.table import WEIGHT_BITS, CalibrationFrame, Range, RangeTable
from model_compression.quantization.weights import fingerprint

Frames = Iterable[tuple[str, NDArray[np.uint8]]]
"""Where a frame comes from, and its letterboxed pixels, uint8 [height, width, 3] BGR."""

LEAST_FRAMES = 8
METHODS = ("mse", "max", "percentile 99.99", "percentile 99.9")
BINS = 4096
LARGEST_CODE = 127


@dataclass(frozen=True)
class Observation:
    """What a float network stores, over all frames.

    Attributes:
        layout: of the network.
        frames: what it ran on.
        largest: greatest magnitude of every group of tensors and of every output, by the name of
            its first tensor.
        counts: by group, int64 [BINS], how many magnitudes fall in each part of [0, largest].
    """

    layout: Layout
    frames: tuple[CalibrationFrame, ...]
    largest: dict[str, float]
    counts: dict[str, NDArray[np.int64]]


def open_float(model: onnx.ModelProto, outputs: Iterable[str], threads: int = 2):
    """Open a network in ONNX Runtime, with the given tensors as outputs.

    Returns:
        A function from a frame, uint8 [height, width, 3], to the tensors, in the order given.
    """
    names = list(outputs)
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    present = {output.name for output in model.graph.output}
    probed.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in names if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = model.graph.input[0].name
    return lambda frame: session.run(names, {image: frame[None]})


def check_frames(layout: Layout, frames: Frames) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the frames, each distinct one once.

    Raises:
        CompressionError: a frame does not fit the network, or they would not show it enough.
    """
    distinct = {}
    for source, frame in frames:
        if frame.dtype != np.uint8 or frame.shape != (layout.height, layout.width, 3):
            raise CompressionError(
                f"calibration frame {source!r} is {frame.dtype} {list(frame.shape)}, the network "
                f"takes uint8 [{layout.height}, {layout.width}, 3]; letterbox it to that size"
            )
        if frame.min() == frame.max():
            raise CompressionError(
                f"calibration frame {source!r} shows nothing, every byte is {frame.flat[0]}; "
                "leave it out, and see whether its camera works"
            )
        distinct.setdefault(hashlib.sha256(frame.tobytes()).hexdigest(), (source, frame))
    if len(distinct) < LEAST_FRAMES:
        raise CompressionError(
            f"{len(distinct)} distinct calibration frames, {LEAST_FRAMES} are needed at least and "
            "100 of different scenes are better; give more frames"
        )
    return list(distinct.values())


def observe(model: onnx.ModelProto, frames: Frames, threads: int = 2) -> Observation:
    """Run the float network on the frames, twice: for the magnitudes' bounds, and their counts.

    Raises:
        CompressionError: the frames cannot be used, or a tensor is not finite or always zero.
    """
    layout = read_layout(model)
    chosen = check_frames(layout, frames)
    run = open_float(model, [*layout.stored, *layout.outputs], threads)
    first = {name: group[0] for group in layout.groups for name in group}
    names = [*layout.stored, *layout.outputs]
    largest: dict[str, float] = {}
    for source, frame in chosen:
        for name, values in zip(names, run(frame), strict=True):
            bound = float(np.abs(values).max())
            if not np.isfinite(bound):
                raise CompressionError(
                    f"tensor {name!r} is not finite on frame {source!r}; the weights are broken, "
                    "train or export the model again"
                )
            key = first.get(name, name)
            largest[key] = max(largest.get(key, 0.0), bound)
    for name, bound in largest.items():
        if bound == 0:
            raise CompressionError(
                f"tensor {name!r} is zero on every calibration frame; the weights are broken, or "
                "the frames show nothing"
            )
    counts = {group[0]: np.zeros(BINS, np.int64) for group in layout.groups}
    for _, frame in chosen:
        for name, values in zip(layout.stored, run(frame), strict=False):
            key = first[name]
            index = (np.abs(values.ravel()) * (BINS / largest[key])).astype(np.int32)
            counts[key] += np.bincount(np.minimum(index, BINS - 1), minlength=BINS)
    facts = tuple(
        CalibrationFrame(source=source, sha256=hashlib.sha256(frame.tobytes()).hexdigest())
        for source, frame in chosen
    )
    return Observation(layout, facts, largest, counts)


def choose_amax(counts: NDArray[np.int64], largest: float, method: str) -> float:
    """Choose the largest magnitude to be stored.

    Args:
        counts: int64 [BINS], magnitudes in equal parts of [0, largest].
        largest: greatest magnitude seen.
        method: one of `METHODS`: the least mean squared error of rounding and clipping together,
            the greatest magnitude, or one that so many percent of the values do not exceed.
    """
    if method == "max":
        return largest
    if method.startswith("percentile "):
        share = float(method.removeprefix("percentile ")) / 100
        index = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
        return largest * (index + 1) / BINS
    if method != "mse":
        raise CompressionError(f"method {method!r} is unknown; known are {', '.join(METHODS)}")
    magnitude = (np.arange(BINS) + 0.5) * (largest / BINS)
    candidates = largest * np.linspace(0.1, 1, 181)
    errors = []
    for amax in candidates:
        step = amax / LARGEST_CODE
        stored = step * np.minimum(np.rint(magnitude / step), LARGEST_CODE)
        errors.append(np.dot(counts, (magnitude - stored) ** 2))
    return float(candidates[int(np.argmin(errors))])


def table_of(
    model: onnx.ModelProto,
    seen: Observation,
    name: str,
    method: str = "mse",
    weight_bits: int = WEIGHT_BITS,
    float_convolutions: tuple[str, ...] = (),
) -> RangeTable:
    """Make the table from what was seen; see ``measure``."""
    ranges = tuple(
        Range(
            # Six digits are more than enough, and can be read.
            amax=float(f"{choose_amax(seen.counts[group[0]], seen.largest[group[0]], method):.6g}"),
            tensors=group,
        )
        for group in seen.layout.groups
    )
    return RangeTable(
        model=name,
        weights_sha256=fingerprint(model, seen.layout, weight_bits),
        weight_bits=weight_bits,
        float_convolutions=float_convolutions,
        method=method,
        ranges=ranges,
        outputs={output: float(f"{seen.largest[output]:.6g}") for output in seen.layout.outputs},
        frames=seen.frames,
    )


def measure(
    model: onnx.ModelProto,
    frames: Frames,
    name: str,
    method: str = "mse",
    weight_bits: int = WEIGHT_BITS,
    float_convolutions: tuple[str, ...] = (),
    threads: int = 2,
) -> RangeTable:
    """Measure a float network's table of ranges.

    Args:
        model: the float graph.
        frames: at least `LEAST_FRAMES` distinct ones, like those the network is to work on.
        name: the model's.
        method: how amax is chosen, one of `METHODS`.
        weight_bits: of a weight.
        float_convolutions: names of convolutions whose weights stay float.
        threads: for the float network.

    Raises:
        CompressionError: the frames or the model cannot be used.
    """
    seen = observe(model, frames, threads)
    return table_of(model, seen, name, method, weight_bits, float_convolutions)
