"""Which instructions OpenVINO uses for a network, where a processor has matrix tiles (AMX).

A tile takes 64 input channels. A pruned network with layers of 16 is slower with tiles, one of few
wide layers is twice as fast: so both are timed, once for each network on a machine.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from perception_nodes.backends.model import Model
from perception_nodes.backends.pace import apart_ms
from perception_nodes.system.files import write_whole
from perception_nodes.system.processes import cpu_name

VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Read by OpenVINO when the process compiles its first network."""
WITH_TILES, WITHOUT_TILES = "ALL", "AVX512_CORE_FP16"
FRAMES = 40
CPU_INFO = Path("/proc/cpuinfo")


def choose_instructions(
    model: Model,
    threads: int,
    version: str,
    cache_dir: str,
    timed: Callable[..., list[float]] = apart_ms,
) -> None:
    """Set the instructions of this process to those that its first network is faster with.

    Nothing happens where the environment names them already, or the processor has no tiles. The
    choice is kept in `cache_dir`; without such a folder tiles are not used.

    Args:
        model: the first network that the process loads.
        threads: of inference.
        version: of OpenVINO.
        cache_dir: folder for what is measured; empty for none.
        timed: for tests.

    Raises:
        BackendError: the runtime refuses the model.
    """
    if VARIABLE in os.environ:
        return
    if not cache_dir or not has_tiles():
        os.environ[VARIABLE] = WITHOUT_TILES
        return
    kept, known = Path(cache_dir) / "instructions.json", {}
    key = f"{model.digest} {version} {threads} {cpu_name()}"
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(kept.read_text(encoding="utf-8")))
    if known.get(key) not in (WITH_TILES, WITHOUT_TILES):
        median_ms = {}
        for instructions in (WITHOUT_TILES, WITH_TILES):
            environment = {VARIABLE: instructions}
            times_ms = timed(
                str(model.folder), "openvino", threads, FRAMES, environment=environment
            )
            median_ms[instructions] = float(np.median(times_ms))
        known[key] = min(median_ms, key=median_ms.__getitem__)
        with suppress(OSError):  # then it is measured again next time
            write_whole(kept, json.dumps(known, indent=1))
    os.environ[VARIABLE] = known[key]


def has_tiles() -> bool:
    """Whether the processor has matrix tiles."""
    try:
        return " amx_int8" in CPU_INFO.read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False
