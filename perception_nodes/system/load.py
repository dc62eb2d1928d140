"""Load on purpose: processes that keep processors, memory or a disk busy.

Each of its contexts raises `LoadEnded` at its end if a process has ended before.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from perception_nodes.core.errors import PerceptionError
from perception_nodes.system.children import start

STREAM_BYTES = 256 << 20
"""Larger than any cache of a processor."""
BUSY = "while True: pass"
STREAM = f"""
one, other = bytearray(b"x") * {STREAM_BYTES}, bytearray({STREAM_BYTES})
while True: other[:] = one
"""
WRITE = """
import os, sys
part, parts = os.urandom(1 << 20), 64
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.seek(0)
        for _ in range(parts): file.write(part)
        os.fsync(file.fileno())
"""
COMPILE = 'while :; do TMPDIR="$2" "$0" -O2 -c -o /dev/null "$1" || exit; done'
SLOW = """
import os, sys, time
share, priority, period_s = 1 - 1 / float(sys.argv[1]), int(sys.argv[2]), 5e-4
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
while True:
    # All processors stop at the same times: a thread waits for no other one that is stopped.
    time.sleep(period_s - time.monotonic() % period_s)
    until_s = time.monotonic() + share * period_s
    while time.monotonic() < until_s: pass
"""
NICEST = 19
FUNCTIONS = 400


class LoadEnded(PerceptionError):
    """A process that should keep the machine busy ended too early."""


def busy(cores: Sequence[int]) -> AbstractContextManager[None]:
    """A context in which processors are busy: a process that never sleeps is pinned to each."""
    return _running("a busy loop", [_python(BUSY)] * len(cores), cores)


def slowed(cores: Sequence[int], factor: float, priority: int) -> AbstractContextManager[None]:
    """A context in which processors are slower by a factor, in slices of less than a millisecond.

    A process on each takes its share of the time before all others, as another machine on the
    same host does.

    Args:
        cores: the processors.
        factor: how many times as long everything takes, more than 1.
        priority: SCHED_FIFO, above that of all that is slowed.
    """
    command = [*_python(SLOW), f"{factor:g}", str(priority)]
    return _running("what slows a processor", [command] * len(cores), cores)


def memory_streams(cores: Sequence[int]) -> AbstractContextManager[None]:
    """A context in which a process on each processor copies more than fits any cache."""
    return _running("a copy in memory", [_python(STREAM)] * len(cores), cores)


@contextmanager
def disk_writes(folder: Path) -> Iterator[None]:
    """A context in which 64 MB are written to a file and brought to the disk, again and again."""
    file = folder / f"perception_bench_{os.getpid()}.part"
    try:
        with _running(f"what writes {file}", [[*_python(WRITE), str(file)]]):
            yield
    finally:
        file.unlink(missing_ok=True)


def compilations(jobs: int, compiler: str, folder: Path) -> AbstractContextManager[None]:
    """A context in which compilers run again and again, with the lowest priority.

    Args:
        jobs: number of compilers at a time.
        compiler: path of the C compiler.
        folder: folder for the source and what killed compilers leave; the caller removes it.
    """
    source = folder / "perception_bench.c"
    one = "double f{0}(double x) {{ for (int i = 0; i < 9; i++) x = x * x - {0}; return x; }}\n"
    source.write_text("".join(one.format(number) for number in range(FUNCTIONS)))
    command = ["/bin/sh", "-c", COMPILE, compiler, str(source), str(folder)]
    return _running(f"what runs {compiler}", [command] * jobs, nice=NICEST)


def _python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


@contextmanager
def _running(
    what: str, commands: Sequence[Sequence[str]], cores: Sequence[int] = (), nice: int = 0
) -> Iterator[None]:
    """A context in which commands run, the nth pinned to the nth of `cores` if these are given."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            # Start a session, so that a shell's children can be ended with it.
            processes.append(start(command, begin=lambda: os.nice(nice)))
            if cores:
                os.sched_setaffinity(processes[-1].pid, {cores[number]})
        yield
        for process in processes:
            _check_alive(what, process)
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _check_alive(what: str, process: subprocess.Popen[bytes]) -> None:
    # Do not wait for the process here: until then its number stays its own, by which its group is
    # killed.
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is not None:
        how = "status" if ended.si_code == os.CLD_EXITED else "signal"
        raise LoadEnded(
            f"the load is gone: {what} ended by itself, {how} {ended.si_status}; mend what it "
            "says, or do without this load"
        )
