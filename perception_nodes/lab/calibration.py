"""How fast the machine is at this minute, so that runs on a noisy host can be compared."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from perception_nodes.backends.pace import apart_ms
from perception_nodes.networks.model import load_model
from perception_nodes.report.account import Account

FRAMES = 30
SWEEP_BYTES = 64 << 20
"""Larger than a cache."""
SWEEPS = 5


@dataclass(frozen=True)
class Calibration:
    """What a run is framed by.

    Attributes:
        bare_ms: median of the model's bare inference, at a camera's pace.
        smaller_ms: the same of its smaller sibling; None if it has none.
        memory_gb_s: bytes copied a second, by one thread.
    """

    bare_ms: float
    smaller_ms: float | None
    memory_gb_s: float


def calibrate(model: str, backend: str, threads: int, fifo_priority: int) -> Calibration:
    """Measure it, in some seconds.

    Args:
        model: name or folder.
        backend: name of the runtime.
        threads: of inference.
        fifo_priority: of the graph.

    Raises:
        BackendError: the runtime refuses a model.
    """

    def bare_ms(name: str) -> float:
        return median(apart_ms(name, backend, threads, FRAMES, fifo_priority=fifo_priority))

    smaller = load_model(model).fallback
    from_memory, to_memory = np.ones(SWEEP_BYTES, np.uint8), np.empty(SWEEP_BYTES, np.uint8)
    took_ns = []
    for _ in range(SWEEPS):
        begin_ns = time.monotonic_ns()
        np.copyto(to_memory, from_memory)
        took_ns.append(time.monotonic_ns() - begin_ns)
    own_ms, smaller_ms = bare_ms(model), bare_ms(smaller) if smaller else None
    return Calibration(own_ms, smaller_ms, SWEEP_BYTES / median(took_ns))


def smaller_would_do(
    found: Account, model: str, around: Sequence[Calibration], deadline_ms: float
) -> int | None:
    """Number of missed frames that the smaller sibling would have made; None if there is none.

    It is taken to save the same share of a frame's inference as of the bare one, and to be as slow
    beside the model's usual time otherwise.

    Args:
        found: account of the run.
        model: name of the model.
        around: before and after the run.
        deadline_ms: from capture to publication.
    """
    smaller_ms = [one.smaller_ms for one in around if one.smaller_ms is not None]
    if not smaller_ms:
        return None
    saved = 1 - sum(smaller_ms) / sum(one.bare_ms for one in around)
    reports = [frame.report for frame in found.frames if frame.report is not None]
    ran = [one for one in reports if one.published_ns and one.model == model]

    def with_smaller_ns(begun_ns: int, inferred_ns: int, published_ns: int) -> float:
        return published_ns - begun_ns - saved * (inferred_ns - begun_ns)

    usual_ns = median(
        [with_smaller_ns(one.preprocessed_ns, one.inferred_ns, one.published_ns) for one in ran]
        or [float("inf")]
    )
    count = 0
    for frame in found.missed:
        one = frame.report
        if one is None or not one.preprocessed_ns or one.model not in ("", model):
            continue
        stamps = one.preprocessed_ns, one.inferred_ns, one.published_ns
        rest_ns = with_smaller_ns(*stamps) if one.published_ns else usual_ns
        count += one.preprocessed_ns + rest_ns <= one.capture_ns + deadline_ms * 1e6
    return count
