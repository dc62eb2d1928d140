"""How fast the machine is at this minute, so that runs on a noisy host can be compared."""

from dataclasses import dataclass
from statistics import median
from timeit import repeat

import numpy as np

from perception_nodes.backends.pace import apart_ms

FRAMES = 30
SWEEP_BYTES = 64 << 20
"""Larger than a cache."""
SWEEPS = 5


@dataclass(frozen=True)
class Calibration:
    """What a run is framed by.

    Attributes:
        bare_ms: median of the model's bare inference, at a camera's pace.
        memory_gb_s: bytes copied a second, by one thread.
    """

    bare_ms: float
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
    from_memory, to_memory = np.ones(SWEEP_BYTES, np.uint8), np.empty(SWEEP_BYTES, np.uint8)
    took_s = repeat(lambda: np.copyto(to_memory, from_memory), number=1, repeat=SWEEPS)
    bare_ms = median(apart_ms(model, backend, threads, FRAMES, fifo_priority=fifo_priority))
    return Calibration(bare_ms, SWEEP_BYTES / 1e9 / median(took_s))
