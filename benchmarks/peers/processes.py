"""The processes of a detector: all that descend from the one that was started."""

import ctypes
import os
import re
import signal
import subprocess
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, NamedTuple

from perception_nodes.system.children import start
from perception_nodes.system.processes import TICK_NS, Process, stat_of
from perception_nodes.system.signals import handled_stopping

Started = subprocess.Popen[bytes]
PR_SET_CHILD_SUBREAPER = 36
STOP_TIMEOUT_S = 15.0


class Seen(NamedTuple):
    """A process at one time; `began` tells it from a later one of its number."""

    pid: int
    parent: int
    began: int
    computed_s: float
    is_idle: bool


def all_processes() -> dict[int, Seen]:
    """The processes of this machine by number."""
    found = {}
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):  # it is no process, or has just ended
            pid = int(name)
            _, fields = stat_of(f"/proc/{pid}")
            took_s = (int(fields[11]) + int(fields[12])) * TICK_NS / 1e9
            is_idle = int(fields[38]) == os.SCHED_IDLE
            found[pid] = Seen(pid, int(fields[1]), int(fields[19]), took_s, is_idle)
    return found


def descendants(roots: set[int], seen: dict[int, Seen]) -> list[Seen]:
    """Processes and all that they have started, without those that have another parent by now."""
    children = defaultdict(list)
    for one in seen.values():
        children[one.parent].append(one.pid)
    found, waiting = [], [pid for pid in roots if pid in seen]
    while waiting:
        pid = waiting.pop()
        found.append(seen[pid])
        waiting += children[pid]
    return found


class Family:
    """Processes that we start, and their descendants; at the end nothing of them is left.

    A process whose parent has ended becomes our child, so that none gets away.
    """

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._own: set[int] = set()
        self._stack = ExitStack()

    def start(
        self, command: list[str], environment: dict[str, str], out: int | IO[bytes], log: IO[bytes]
    ) -> Started:
        """Start a process; its standard output goes to `out`, its errors to a file.

        It reacts to SIGINT even if we, in a script's background, do not.
        """
        process = start(command, environment, _heed_interrupt, stdout=out, stderr=log)
        self._own.add(process.pid)
        self._stack.callback(self._end, process)
        return process

    def of(self, process: Started) -> list[Seen]:
        """A process that we have started, and its descendants, those without a parent too."""
        seen = all_processes()
        orphans = {one.pid for one in seen.values() if one.parent == os.getpid()} - self._own
        return descendants({process.pid, *orphans}, seen)

    def __enter__(self) -> "Family":
        return self

    def __exit__(self, *_: object) -> None:
        """End all of them, the last one first; a second Ctrl-C does not keep us from it."""
        with handled_stopping(lambda *_: None):
            self._stack.close()
            while left := descendants({os.getpid()}, all_processes())[1:]:
                for one in left:
                    with suppress(ProcessLookupError):
                        os.kill(one.pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(-1, 0)

    def _end(self, process: Started) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Meter:
    """The processor time of a process and its descendants, from the first look on.

    What a process computes that begins and ends between two looks is not seen.

    Attributes:
        computed_s: seconds of processors, without `idle_s`.
        idle_s: of processes that run only where no other wants to (SCHED_IDLE).
    """

    def __init__(self, family: Family, process: Started) -> None:
        self._family, self._process = family, process
        self._before = {(one.pid, one.began): one.computed_s for one in family.of(process)}
        self._took_s: dict[int, float] = defaultdict(float)
        self.computed_s = self.idle_s = 0.0

    def look(self) -> None:
        """Add what was computed since the last look."""
        for one in self._family.of(self._process):
            key = (one.pid, one.began)
            took_s = one.computed_s - self._before.get(key, 0.0)
            self._before[key] = one.computed_s
            if one.is_idle:
                self.idle_s += took_s
            else:
                self.computed_s += took_s
                self._took_s[one.pid] += took_s

    def memory_mb(self) -> float:
        """Memory of all of them; pages that several share count once."""
        return sum(proportional_bytes(one.pid) for one in self._family.of(self._process)) / 1e6

    def victim(self, pattern: str) -> tuple[Process, str] | None:
        """The process that has computed most, of those whose command line has a pattern; and it."""
        found = []
        for one in self._family.of(self._process):
            line = command_line(one.pid)
            if not one.is_idle and re.search(pattern, line):
                found.append((self._took_s[one.pid], one.pid, line))
        for _, pid, line in sorted(found, reverse=True):
            with suppress(ProcessLookupError):
                return Process(pid), line
        return None


def proportional_bytes(pid: int) -> int:
    """Memory of a process, with its part of what it shares (PSS); 0 after its end."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def command_line(pid: int) -> str:
    """What a process was started with; empty after its end."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace").strip()
    return ""


def _heed_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
