"""What the processes of a graph take and hold while it runs: processor time, memory, files."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.system.processes import PAGE_BYTES, TICK_NS
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER

SAMPLE_S = 1.0
"""Time between two samples."""
STANDBY = " standby"
"""Suffix of the role of a process that stands by."""
SETTLED_SHARE = 0.25
"""Share of a long run's samples, at its start, that are not the steady state yet."""
LEAST_SETTLED = 4
"""Number of samples of the steady state that are needed, since growth compares its quarters."""
GROWTH_LIMIT_MB = 8.0
"""Growth of a process's memory that is normal in any long run."""


@dataclass(frozen=True)
class Sample:
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


def role_of(spec: NodeSpec) -> str:
    """The name of a process in samples, such as `detector_node standby`."""
    return spec.executable + (STANDBY if spec.stands_by else "")


class Sampler:
    """Samples the processes under test while a graph runs; stands beside a run.

    Those that only play, record or receive are left out: some of them keep all that they get.
    """

    def __init__(
        self,
        samples: list[Sample],
        progress: Callable[[float], None] = lambda elapsed_s: None,
        until_s: float = inf,
    ) -> None:
        """Nothing is sampled yet.

        Args:
            samples: receives the samples.
            progress: called with the seconds since the start.
            until_s: when to end the run.
        """
        self._samples, self._progress, self._until_s = samples, progress, until_s

    def __call__(self, graph: Supervisor, over: threading.Event) -> bool:
        """Sample until the run is over; return whether the run is to end."""
        begin_s = time.monotonic()
        while not over.wait(SAMPLE_S):
            elapsed_s = time.monotonic() - begin_s
            running = [(role_of(s), p.pid) for s, p in list(graph.processes) if s.kind.restarted]
            self._samples.append(held(running, elapsed_s))
            self._progress(elapsed_s)
            if elapsed_s > self._until_s:
                return True
        return False


def held(processes: Iterable[tuple[str, int]], at_s: float) -> Sample:
    """What processes hold now, without those that have just ended.

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
        with suppress(OSError):  # the file has just been removed
            shared += path.stat().st_blocks * 512
    return Sample(at_s, memory, descriptors, processor, shared / 1e6, pids)


def processor_shares(samples: Sequence[Sample]) -> dict[str, float]:
    """The share of one processor of each process in the steady state; 0.03 is 3 %.

    A restarted process counts from 0 again, so only the time between two samples of the same
    process counts.
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


def constancy(samples: Sequence[Sample]) -> dict[str, Any]:
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
    names = settled[0].memory_mb if settled else {}
    memory = {name: _growth([s.memory_mb.get(name, 0) for s in settled]) for name in names}
    descriptors = {name: _growth([s.descriptors.get(name, 0) for s in settled]) for name in names}
    shared_mb = _growth([sample.shared_mb for sample in settled])
    grows = max(memory.values(), default=0.0) >= GROWTH_LIMIT_MB
    grows |= max([shared_mb, *descriptors.values()]) >= 1e-9
    state = "growing" if grows else "constant"
    # The memory of a restarted process does not include what its predecessor held.
    died = sorted(replaced(settled) | missing(settled))
    if len(settled) < LEAST_SETTLED:
        state = f"not known, {len(settled)} samples are too few"
    elif died:
        state = f"{', '.join(died)} died"
    return {
        "memory_growth_mb": memory,
        "descriptor_growth": descriptors,
        "shared_memory_growth_mb": shared_mb,
        "over_s": _growth([sample.at_s for sample in settled]),
        "state": state,
        "constant": state == "constant",
    }


def replaced(samples: Sequence[Sample]) -> set[str]:
    """Names that have stood for more than one process."""
    numbers = {(name, pid) for sample in samples for name, pid in sample.pids.items()}
    names = [name for name, _ in numbers]
    return {name for name in names if names.count(name) > 1}


def missing(samples: Sequence[Sample], wanted: Iterable[str] = ()) -> set[str]:
    """Names, of those wanted and those seen, that are not in all samples."""
    names = {*wanted, *(name for sample in samples for name in sample.pids)}
    return {name for name in names if any(name not in sample.pids for sample in samples)}


def _growth(values: Sequence[float]) -> float:
    """The median of the last quarter minus that of the first."""
    quarter = max(1, len(values) // 4)
    return float(np.median(values[-quarter:]) - np.median(values[:quarter])) if values else 0.0


def _settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[round(SETTLED_SHARE * len(samples)) :]
