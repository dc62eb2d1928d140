"""What the processes of a graph take and hold while it runs: processor time, memory, files."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.system.processes import PAGE_BYTES, TICK_NS
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER

SAMPLE_S = 1.0
"""Time between two samples."""
SETTLED_SHARE = 0.25
"""Share of a long run's samples, at its start, that are not the steady state yet."""
LEAST_SETTLED = 4
"""With fewer samples of the steady state nothing can be said: growth compares its quarters."""
GROWTH_LIMIT_MB = 8.0
"""Growth of a process's memory that is normal in any long run."""


@dataclass(frozen=True)
class ResourcesHeld:
    """What the processes of the graph hold at one time.

    Attributes:
        at_s: the time, from the start of the graph.
        memory_mb, descriptors: memory and file descriptors, by process.
        processor_s: processor time used so far, by process.
        shared_mb: shared memory of all processes.
        pids: numbers of the processes.
    """

    at_s: float
    memory_mb: dict[str, float]
    descriptors: dict[str, int]
    processor_s: dict[str, float]
    shared_mb: float
    pids: dict[str, int] = field(default_factory=dict)


def held(processes: Iterable[tuple[str, int]], at_s: float) -> ResourcesHeld:
    """What processes hold now; one that has just ended is left out.

    Args:
        processes: name and number of each.
        at_s: the time, for the result.
    """
    memory, descriptors, processor, pids = {}, {}, {}, {}
    for name, pid in processes:
        folder = Path(f"/proc/{pid}")
        try:
            pages = int((folder / "statm").read_text().split()[1])
            descriptors[name] = len(os.listdir(folder / "fd"))
            ticks = (folder / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
        except OSError:  # the process has just ended
            continue
        pids[name] = pid
        memory[name] = pages * PAGE_BYTES / 1e6
        processor[name] = sum(map(int, ticks)) * TICK_NS / 1e9
    shared = 0
    for path in SHM_FOLDER.glob(f"{own_prefix()}*"):
        try:
            shared += path.stat().st_blocks * 512
        except OSError:  # the file has just been removed
            continue
    return ResourcesHeld(at_s, memory, descriptors, processor, shared / 1e6, pids)


def _settled(samples: Sequence[ResourcesHeld]) -> Sequence[ResourcesHeld]:
    return samples[round(SETTLED_SHARE * len(samples)) :]


def processor_shares(samples: Sequence[ResourcesHeld]) -> dict[str, float]:
    """The share of one processor of each process in the steady state; 0.03 is 3 %.

    A process that was started again has counted from 0 again: only what one and the same process
    took from a sample to the next counts, over that time.
    """
    settled = _settled(samples)
    took_s: dict[str, float] = defaultdict(float)
    over_s: dict[str, float] = defaultdict(float)
    for before, after in pairwise(settled):
        for name in before.processor_s.keys() & after.processor_s.keys():
            if before.pids.get(name) == after.pids.get(name):
                took_s[name] += after.processor_s[name] - before.processor_s[name]
                over_s[name] += after.at_s - before.at_s
    last = settled[-1].processor_s if settled else {}
    return {name: round(took_s[name] / over_s[name], 4) for name in last if name in over_s}


def constancy(samples: Sequence[ResourcesHeld]) -> dict[str, Any]:
    """Whether memory and descriptors of the graph stay constant in the steady state.

    Args:
        samples: taken at even intervals.

    Returns:
        The growth of memory and of descriptors by process, the growth of shared memory, the time
        in which that was, whether all of it is constant, and its `state` in words: `constant`,
        `growing`, or why nothing can be said. Growth is the median of the last quarter of the
        settled samples minus that of the first quarter.
    """
    settled = _settled(samples)
    quarter = max(1, len(settled) // 4)
    first, last = settled[:quarter], settled[-quarter:]

    def growth(read: Callable[[ResourcesHeld], float]) -> float:
        if not settled:
            return 0.0
        return float(np.median([read(s) for s in last]) - np.median([read(s) for s in first]))

    def grown(kind: str, name: str) -> float:
        return growth(lambda sample: getattr(sample, kind).get(name, 0))

    names = settled[0].memory_mb if settled else {}
    memory = {name: grown("memory_mb", name) for name in names}
    descriptors = {name: grown("descriptors", name) for name in names}
    shared_mb = growth(lambda s: s.shared_mb)
    grows = (
        max(memory.values(), default=0.0) >= GROWTH_LIMIT_MB
        or max(descriptors.values(), default=0.0) > 0
        or shared_mb > 0
    )
    state = "growing" if grows else "constant"
    if len(settled) < LEAST_SETTLED:
        state = f"not known, {len(settled)} samples are too few"
    # What a process that died had taken is not in the memory of the one that came after it.
    elif died := _not_the_same(settled):
        state = f"{', '.join(died)} died"
    return {
        "memory_growth_mb": memory,
        "descriptor_growth": descriptors,
        "shared_memory_growth_mb": shared_mb,
        "over_s": growth(lambda s: s.at_s),
        "state": state,
        "constant": state == "constant",
    }


def _not_the_same(samples: Sequence[ResourcesHeld]) -> list[str]:
    """Names that have not stood for one and the same process in all samples."""
    names = sorted({name for sample in samples for name in sample.pids})
    return [name for name in names if len({sample.pids.get(name) for sample in samples}) > 1]
