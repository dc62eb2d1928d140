"""The kernel's real-time settings of a process; each is made only on request."""

import ctypes
import gc
import os
from collections.abc import Callable

MCL_CURRENT, MCL_FUTURE = 1, 2
MAX_PROCESSOR = 8191
"""Largest number of a processor in any configuration of the kernel."""
PR_SET_TIMERSLACK = 29
_LIBC = ctypes.CDLL(None, use_errno=True)

REMEDIES = {
    "SCHED_FIFO": "allow it with LimitRTPRIO=, `ulimit -r`, or CAP_SYS_NICE",
    "mlockall": "allow it with LimitMEMLOCK=infinity, `ulimit -l unlimited`, or CAP_IPC_LOCK",
    "affinity": "name processors that this process may use (see its cpuset)",
}


def set_up(cpus: str, fifo_priority: int, lock_memory: bool) -> list[str]:
    """Make the real-time settings of this process; call it after everything is loaded.

    The processors and locked memory apply to all threads, the priority to the calling one alone.

    Args:
        cpus: processors to run on, such as `2,3` or `2-5`; empty for all.
        fifo_priority: priority of SCHED_FIFO, 1 to 99; 0 leaves the scheduler as it is. While a
            process with a priority is busy, nothing else runs on its processor.
        lock_memory: whether to keep all memory resident, now and later.

    Returns:
        A line for each setting: its value, or why it was refused and what allows it.
    """
    lines = []
    # Objects made at start stay for ever, so the collector need not look at them, nor run at all.
    gc.collect()
    gc.freeze()
    gc.disable()
    _LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    if cpus:
        lines.append(_attempt("affinity", cpus, lambda: _set_affinity(cpus)))
    if lock_memory:
        lines.append(_attempt("mlockall", "all memory", _lock_memory))
    if fifo_priority:
        parameter = os.sched_param(fifo_priority)
        flags = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        lines.append(
            _attempt(
                "SCHED_FIFO",
                f"priority {fifo_priority}",
                lambda: os.sched_setscheduler(0, flags, parameter),
            )
        )
    return lines


def give_way() -> None:
    """Run all threads of this process, later ones too, only on processors that are idle."""
    for task in os.listdir("/proc/self/task"):
        os.sched_setscheduler(int(task), os.SCHED_IDLE, os.sched_param(0))


def parse_cpus(text: str) -> set[int]:
    """Read a list of processors such as `0,2-3`.

    Raises:
        ValueError: it is not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) > MAX_PROCESSOR:
            raise ValueError(f"{part!r}: the largest number of a processor is {MAX_PROCESSOR}")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _attempt(name: str, value: str, set_it: Callable[[], object]) -> str:
    try:
        set_it()
    except (OSError, ValueError) as error:
        return f"{name} {value}: refused ({error}); {REMEDIES[name]}"
    return f"{name}: {value}"


def _set_affinity(cpus: str) -> None:
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), parse_cpus(cpus))


def _lock_memory() -> None:
    if _LIBC.mlockall(MCL_CURRENT | MCL_FUTURE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
