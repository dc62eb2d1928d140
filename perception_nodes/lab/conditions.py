"""What else runs on the machine while the deadline is measured."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import GraphFailure, last_error
from perception_nodes.system.children import end, start
from perception_nodes.system.load import busy, compilations, disk_writes, memory_streams, slowed
from perception_nodes.system.realtime import may_have

SECOND_CAMERA = "second"
ON_DISK = Path("/var/tmp")
"""Folder on a disk by convention; /tmp may be in memory."""
STOP_TIMEOUT_S = 15
START_TIMEOUT_S = 60
HIGHEST = 99
"""SCHED_FIFO priority of processes that slow the graph down."""
POLL_S = 0.1
STARTED = "-> NOMINAL"
"""Text that the watchdog logs when a graph works."""


@dataclass(frozen=True)
class Surroundings:
    """What a condition may need to know.

    Attributes:
        folder: for temporary files.
        values: parameters of the graph that is measured, for a second one.
        drive: what a second graph plays, longer than the measurement takes.
    """

    folder: Path
    values: Mapping[str, Any]
    drive: str


Load = Callable[[Surroundings], AbstractContextManager[None]]


def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        raise SettingsError("condition 'build' needs a C compiler; install one, or leave it out")
    return found


@contextmanager
def _second_graph(around: Surroundings) -> Iterator[None]:
    """A context in which another graph runs, with a camera of its own that plays the same."""
    own = {**around.values, "camera": SECOND_CAMERA, "bag": around.drive}
    arguments = [f"{name}:={value}" for name, value in own.items()]
    log = around.folder / "second.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "perception_nodes", "run", *arguments]
        process = start(command, stdout=file, stderr=file)
    try:
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while STARTED not in log.read_text(encoding="utf-8", errors="replace"):
            _check_alive(process, log)
            if time.monotonic() > give_up_s:
                why = f"does not work after {START_TIMEOUT_S} s"
                raise GraphFailure(f"the second graph {why}: {last_error(log)}")
            time.sleep(POLL_S)
        yield
        _check_alive(process, log)
    finally:
        end(process, STOP_TIMEOUT_S)


def _check_alive(process: "subprocess.Popen[bytes]", log: Path) -> None:
    if process.poll() is not None:
        raise GraphFailure(f"the second graph has ended by itself: {last_error(log)}")


def _slowed(factor: float) -> Load:
    return lambda around: slowed(_processors(), factor, HIGHEST)


CONDITIONS: dict[str, Load] = {
    "quiet": lambda around: nullcontext(),
    "one_core": lambda around: busy(_processors()[:1]),
    "all_cores": lambda around: busy(_processors()),
    "memory": lambda around: memory_streams(_processors()),
    "disk": lambda around: disk_writes(ON_DISK if os.access(ON_DISK, os.W_OK) else around.folder),
    "build": lambda around: compilations(len(_processors()), _compiler(), around.folder),
    "second_graph": _second_graph,
    **{f"slow_{factor:g}": _slowed(factor) for factor in (1.5, 2, 3)},
}
"""Conditions by name, each with a context manager that keeps the machine busy."""


def check_conditions(names: Iterable[str]) -> None:
    """Check the names of conditions, and that they can be created on this machine.

    Raises:
        SettingsError: one is unknown, or lacks something.
    """
    for name in names:
        if name not in CONDITIONS:
            raise SettingsError(f"condition {name!r} is unknown; known are {', '.join(CONDITIONS)}")
        if name == "build":
            _compiler()
        if name.startswith("slow_") and not may_have(HIGHEST):
            how = "allow it with LimitRTPRIO=, `ulimit -r` or CAP_SYS_NICE, or leave it out"
            raise SettingsError(f"condition {name!r} needs real-time priority {HIGHEST}; {how}")
