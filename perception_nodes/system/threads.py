"""The threads of a process as the kernel schedules them."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_nodes.system.processes import stat_of

POLICIES = {
    os.SCHED_OTHER: "other",
    os.SCHED_FIFO: "fifo",
    os.SCHED_RR: "rr",
    os.SCHED_BATCH: "batch",
    os.SCHED_IDLE: "idle",
    6: "deadline",
}
_MODULE = re.compile(r"perception_nodes(?:\.\w+)*\.(\w+_node)|(?:.*/)?(\w+_node)")
_FIELDS_FROM = 3
"""Number of the first field behind the name in `stat`, as proc(5) counts them."""


@dataclass(frozen=True)
class Thread:
    """A thread.

    Attributes:
        node: name of the node whose process it is of.
        process, thread: numbers of the process and the thread.
        name: name of the thread.
        policy: policy of the scheduler, such as other, fifo or idle.
        priority: real-time priority, 0 where there is none.
        processor: where it ran last.
        minor_faults, major_faults: pages that it waited for, in memory and from a disk.
        voluntary, involuntary: how often it waited for something, and how often it was preempted.
        computed_ms, waited_ms: time on a processor, and time in which it was ready but had none.
    """

    node: str
    process: int
    thread: int
    name: str
    policy: str
    priority: int
    processor: int
    minor_faults: int
    major_faults: int
    voluntary: int
    involuntary: int
    computed_ms: float
    waited_ms: float


def nodes() -> dict[int, str]:
    """The processes of our nodes on this machine, each with the name of its node."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if name := _node_name(arguments):
                found[int(folder.name)] = name
    return dict(sorted(found.items()))


def threads(process: int, node: str = "") -> Iterator[Thread]:
    """The threads of a process; those that end meanwhile are left out."""
    for task in sorted(map(int, os.listdir(f"/proc/{process}/task"))):
        with suppress(OSError):
            yield _thread(Path(f"/proc/{process}/task/{task}"), process, task, node)


def _thread(folder: Path, process: int, task: int, node: str) -> Thread:
    name, rest = stat_of(str(folder))
    fields = [""] * _FIELDS_FROM + rest
    computed_ns = waited_ns = "0"
    with suppress(FileNotFoundError):  # the kernel is built without it
        computed_ns, waited_ns, _ = (folder / "schedstat").read_text(encoding="ascii").split()
    lines = (folder / "status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    facts: list[Any] = [int(fields[number]) for number in (40, 39, 10, 12)]
    facts += [int(status[f"{kind}voluntary_ctxt_switches"]) for kind in ("", "non")]
    facts += [int(computed_ns) / 1e6, int(waited_ns) / 1e6]
    return Thread(node, process, task, name, POLICIES.get(int(fields[41]), fields[41]), *facts)


def _node_name(arguments: list[str]) -> str:
    """The name of the node that a command line starts; empty if it is not our node."""
    if not any("perception_nodes" in text for text in arguments[:4]):
        return ""
    executables = [match for text in arguments[1:4] if (match := _MODULE.fullmatch(text))]
    if not executables:
        return ""
    renamed = [text.partition(":=")[2] for text in arguments if text.startswith("__node:=")]
    return (renamed or [executables[0][1] or executables[0][2]])[0]
