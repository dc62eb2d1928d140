"""Whoever is starved, or stopped together with the whole machine, is not killed as hung.

    PYTHONPATH=.:test/system .venv/bin/python test/ros/test_false_kills.py --seconds 1200

runs a graph for so long beside each load in turn.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from observe import children
from started_graph import RUN, StartedGraph

from perception_nodes.system.load import busy, compilations

pytestmark = [pytest.mark.ros, pytest.mark.slow]
DRIVE = "synthetic:640x360@30*1000000"
LONGEST_STOP_S, GOES_ON_S = 3.0, 1.5
JOBS = 8
RESTART = "is started again"
"""What the supervisor says of each process that has died."""
LOADS = ("busy", "compilers", "stops")


def deaths(load: str, fifo_priority: int, seconds: float, folder: Path) -> list[str]:
    """What is said of processes that died though nobody has killed them."""
    values = {"bag": DRIVE, "source": "shm", "backend": "null", "standby": "always"}
    values["fifo_priority"] = str(fifo_priority)
    command = [sys.executable, "-c", RUN, "run", *(f"{k}:={v}" for k, v in values.items())]
    graph = StartedGraph(command, folder / f"{load}.log", {})
    try:
        graph.until(lambda: "-> NOMINAL" in graph.output())
        beside: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "busy": lambda: busy(sorted(os.sched_getaffinity(0))),
            "compilers": lambda: compilations(JOBS, shutil.which("cc") or "cc", folder),
            "stops": nullcontext,
        }
        with beside[load]():
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s and graph.command.poll() is None:
                if load == "stops":
                    stop(graph)
                time.sleep(GOES_ON_S)
        assert graph.command.poll() is None, graph.output()
    finally:
        graph.signal(signal.SIGINT)
        graph.end()
    return [line for line in graph.output().splitlines() if RESTART in line]


def stop(graph: StartedGraph) -> None:
    """Stop all of its processes and let them go on, as a host does with a virtual machine."""
    everything = [graph.command.pid, *children(graph.command.pid)]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in everything:
            os.kill(process, number)
        if number == signal.SIGSTOP:
            time.sleep(random.uniform(0.05, LONGEST_STOP_S))


@pytest.mark.parametrize("fifo_priority", [0, -1], ids=["fair", "real_time"])
@pytest.mark.parametrize("load", LOADS)
def test_nobody_is_killed(load: str, fifo_priority: int, tmp_path: Path) -> None:
    assert deaths(load, fifo_priority, 12.0, tmp_path) == []


def main() -> int:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS)
    parser.add_argument("--fifo", type=int, default=0)
    arguments = parser.parse_args()
    folder, found = Path(tempfile.mkdtemp(prefix="perception_kills_")), []
    for load in arguments.loads:
        died = deaths(load, arguments.fifo, arguments.seconds, folder)
        print(f"{load}: {len(died)} deaths in {arguments.seconds:g} s", *died, sep="\n  ")
        found += died
    print(f"what the nodes said is in {folder}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
