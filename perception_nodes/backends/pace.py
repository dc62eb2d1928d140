"""How long a network takes at a camera's pace, alone or in a process of its own.

Between two frames caches go cold and processors fall asleep, so a tight loop tells too little.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from timeit import timeit

import numpy as np

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.inference import BackendError
from perception_nodes.networks.model import load_model
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.realtime import RealTime

RATE_HZ = 30.0
CAMERA_FRAME_BYTES = 1920 * 1080 * 3
"""Copied before each call, as a camera driver does, so that the caches are cold."""
WARM_UP_FRAMES = 10
LONGEST_S = 1.0
"""Of a single inference; what takes longer is ended, see `RealTime.begin`."""
LOAD_S = 60.0


def paced_ms(calls: Iterable[Callable[[], object]], rate_hz: float = RATE_HZ) -> Iterator[float]:
    """Make one call in each camera period, and yield how long it took in milliseconds."""
    camera = np.ones(CAMERA_FRAME_BYTES, np.uint8)
    slot = np.empty_like(camera)
    due_ns = time.monotonic_ns()
    for call in calls:
        due_ns += round(1e9 / rate_hz)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        np.copyto(slot, camera)
        yield 1e3 * timeit(call, number=1)


def apart_ms(
    model: str,
    backend: str,
    threads: int,
    frames: int,
    fifo_priority: int = -1,
    environment: Mapping[str, str] | None = None,
    rate_hz: float = RATE_HZ,
    cache_dir: str = "",
) -> list[float]:
    """Time a model in a process of its own, with the real-time settings of a detector.

    Args:
        model: name or folder.
        backend: name of the backend.
        threads: of inference; 0 for one per physical core.
        frames: number of timed frames.
        fifo_priority: as for `RealTime.begin`.
        environment: variables that it has besides ours.
        rate_hz: the camera's pace.
        cache_dir: folder of what was compiled; empty: what is compiled is not kept, since whoever
            asks for the time may yet refuse the model.

    Raises:
        BackendError: the runtime refuses the model.
    """
    given = model, backend, threads, frames, fifo_priority, rate_hz, cache_dir
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(given)],
            capture_output=True,
            text=True,
            timeout=LOAD_S + LONGEST_S * frames,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{backend} with {model} did not end in {error.timeout:.0f} s") from None
    if child.returncode:
        problem = child.stderr.strip().splitlines()
        died = f"{backend} with {model} ended with status {child.returncode}"
        raise BackendError(problem[-1] if problem else died)
    # A runtime's library may have written lines of its own before.
    return [float(time_ms) for time_ms in json.loads(child.stdout.splitlines()[-1])]


def _main(given: str) -> None:
    model, backend, threads, frames, fifo_priority, rate_hz, cache_dir = json.loads(given)
    try:
        loaded = load_model(model)
        settings = BackendSettings(threads, cache_dir, timing_dir=str(cache_folder()))
        opened = open_backend(backend, settings)
        opened.load(loaded)
    except PerceptionError as error:
        sys.exit(str(error))
    RealTime().begin("", fifo_priority, 0, lock_memory=False, longest_s=LONGEST_S)
    image = np.full((loaded.input.height, loaded.input.width, 3), 127, np.uint8)
    calls = [lambda: opened.infer(image)] * (WARM_UP_FRAMES + frames)
    print(json.dumps(list(paced_ms(calls, rate_hz))[WARM_UP_FRAMES:]))


if __name__ == "__main__":
    _main(sys.argv[1])
