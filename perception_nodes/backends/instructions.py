"""Which instructions OpenVINO uses for a network, where a processor has matrix tiles (AMX).

A tile takes 64 input channels. A pruned network with layers of 16 is slower with tiles, one of few
wide layers is twice as fast: so both are timed, once for each network on a machine.
"""

import json
import logging
from contextlib import suppress
from pathlib import Path

import numpy as np

from perception_nodes.backends.pace import apart_ms
from perception_nodes.core.inference import BackendError
from perception_nodes.networks.model import Model
from perception_nodes.networks.openvino_core import VARIABLE, WITH_TILES, WITHOUT_TILES
from perception_nodes.system.files import write_whole
from perception_nodes.system.processes import cpu_flags, speed_facts

FRAMES = 40


def faster_instructions(model: Model, threads: int, version: str, cache_dir: str) -> str:
    """The instructions that a network is faster with, as measured now or before.

    Without tiles where the processor has none, where there is no folder to keep the choice in, or
    where timing failed.

    Args:
        model: the network.
        threads: of inference.
        version: of OpenVINO.
        cache_dir: folder for what is measured; empty for none.
    """
    if not cache_dir or not has_tiles():
        return WITHOUT_TILES
    kept, known = Path(cache_dir) / "instructions.json", {}
    key = f"{model.digest} {version} {threads} {speed_facts()}"
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(kept.read_text(encoding="utf-8")))
    if known.get(key) not in (WITH_TILES, WITHOUT_TILES):

        def median_ms(instructions: str) -> float:
            own = {VARIABLE: instructions}
            times_ms = apart_ms(str(model.folder), "openvino", threads, FRAMES, environment=own)
            return float(np.median(times_ms))

        try:
            known[key] = min((WITHOUT_TILES, WITH_TILES), key=median_ms)
        except BackendError as error:  # the network may run all the same
            # Kept too: another attempt at each start would cost as much as a hang may take.
            known[key] = WITHOUT_TILES
            logging.getLogger(__name__).warning(
                "%s runs without matrix tiles (AMX), which could not be timed: %s; they are tried "
                "again where %s is removed",
                model.name,
                error,
                kept,
            )
        with suppress(OSError):  # then it is measured again next time
            write_whole(kept, json.dumps(known, indent=1))
    return str(known[key])


def has_tiles() -> bool:
    """Whether the processor has matrix tiles."""
    return "amx_int8" in cpu_flags()
