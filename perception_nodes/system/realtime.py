"""The kernel's real-time settings of a process, for each of its threads."""

import ctypes
import gc
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MCL_CURRENT, MCL_FUTURE = 1, 2
MAX_PROCESSOR = 8191
"""Largest number of a processor in any configuration of the kernel."""
PR_SET_TIMERSLACK = 29
RLIMIT_RTTIME = 15
"""Number of this limit, which is in microseconds; the module `resource` has no name for it."""
AUTO_PRIORITY = 40
"""Priority of the detector, below the 50 of interrupts on kernels with PREEMPT_RT."""
RANKS = {"tracker": -1, "detector": 0, "watchdog": 1, "preprocess": 2, "camera": 3}
"""How much higher a role's priority is than the detector's. Short work comes before long work:
taking in a frame takes 1 ms, so the inference of another frame waits for it. The watchdog judges in
0.2 ms, and comes before the detector to notice one that spins."""
MAX_PRIORITY = 99 - max(RANKS.values())
"""Highest priority of the detector."""
DDS_PORTS_FROM = 7400
WEIGHT_TRIES = 20
_BACKGROUND: set[int] = set()
_LIBC = ctypes.CDLL(None, use_errno=True)

REMEDIES = {
    "SCHED_FIFO": "allow it with LimitRTPRIO=, `ulimit -r`, or CAP_SYS_NICE",
    "mlockall": "allow it with LimitMEMLOCK=infinity, `ulimit -l unlimited`, or CAP_IPC_LOCK",
    "affinity": "name processors that this process may use (see its cpuset)",
}


class RealTime:
    """Gives real-time priority to the threads that frames wait for, from the time of `begin` on.

    Threads that they create inherit the priority, and so do those of inference pools. Of the
    middleware's threads, only those that receive messages get it: discovery must not delay a frame.
    """

    def __init__(self) -> None:
        """Create it before the middleware is loaded."""
        self._before = _own_threads()
        self._left_out: set[int] = set()
        self._known: set[int] = set()
        self._priority = 0

    def leave_out_middleware(self) -> None:
        """Count all threads that were born since the creation as the middleware's."""
        self._left_out = {task for task in _own_threads() - self._before if not _receives(task)}

    def begin(
        self, cpus: str, fifo_priority: int, rank: int | None, lock_memory: bool, longest_s: float
    ) -> list[str]:
        """Make the settings; to be called when everything is loaded.

        Args:
            cpus: processors to run on, such as `2,3` or `2-5`; empty for all.
            fifo_priority: the detector's priority of SCHED_FIFO, 1 to 96; 0 for no real time; -1
                for as much as the system allows, up to `AUTO_PRIORITY`.
            rank: what this process adds to that priority, see `RANKS`; None for no real time.
            lock_memory: whether to keep all memory resident, now and later.
            longest_s: the kernel ends this process (SIGXCPU) if a thread computes for longer
                without waiting for anything, since such a runaway may starve all others.

        Returns:
            A line for each setting: its value, or why it was refused and what allows it.
        """
        lines = []
        # Objects made at start stay for ever, so the garbage collector need not run.
        gc.collect()
        gc.freeze()
        gc.disable()
        _LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
        if cpus:
            lines.append(_attempt("affinity", cpus, lambda: _set_affinity(cpus)))
        if lock_memory:
            lines.append(_attempt("mlockall", "all memory", _lock_memory))
        if fifo_priority and rank is not None:
            lines.append(self._begin_fifo(fifo_priority, rank, longest_s))
        return lines

    def _begin_fifo(self, fifo_priority: int, rank: int, longest_s: float) -> str:
        base = allowed_priority() if fifo_priority < 0 else fifo_priority
        try:
            if base < 1:
                raise PermissionError(f"the limit of priorities is {_limit()}")
            _, hard = resource.getrlimit(RLIMIT_RTTIME)
            limit_us = round(longest_s * 1e6)
            limit_us = limit_us if hard < 0 else min(limit_us, hard)
            resource.setrlimit(RLIMIT_RTTIME, (limit_us, hard))
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(base + rank))
        except OSError as error:
            return f"SCHED_FIFO: refused ({error}); {REMEDIES['SCHED_FIFO']}"
        self._priority = base + rank
        self._schedule_new()
        ours = len(self._known - self._left_out)
        return (
            f"SCHED_FIFO: priority {self._priority} for {ours} threads, none for "
            f"{len(self._known) - ours} of the middleware"
        )

    def keep(self) -> None:
        """Schedule threads that were born meanwhile; cheap where there are none.

        What the system refuses for now, such as a descriptor, is tried again the next time.
        """
        if self._priority:
            with suppress(OSError):
                self._schedule_new()

    def _schedule_new(self) -> None:
        tasks = _own_threads()
        if tasks == self._known:
            return
        for task in tasks - self._known:
            if task in _BACKGROUND or (_thread_name(task)[:4] == "dds." and not _receives(task)):
                self._left_out.add(task)
            policy, priority = os.SCHED_FIFO, self._priority
            if task in self._left_out:
                policy, priority = os.SCHED_OTHER, 0
            with suppress(ProcessLookupError):
                os.sched_setscheduler(task, policy, os.sched_param(priority))
        self._known = tasks

    @contextmanager
    def leisurely(self) -> Iterator[None]:
        """In this context the calling thread has no priority: it loads, reads or compiles."""
        if not self._priority:
            yield
            return
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        try:
            yield
        finally:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))


def work_in_background() -> None:
    """Give the calling thread no priority for as long as it lives: it loads or compiles."""
    _BACKGROUND.add(threading.get_native_id())
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def allowed_priority() -> int:
    """The priority that the system allows the detector, at most `AUTO_PRIORITY`; 0 for none."""
    highest = max(RANKS.values())
    for base in (AUTO_PRIORITY, min(AUTO_PRIORITY, _limit() - highest)):
        if base > 0 and may_have(base + highest):
            return base
    return 0


def give_way(process: int) -> None:
    """Run all threads of a process, later ones too, only on processors that are idle.

    Where the kernel shares processors by sessions (`kernel.sched_autogroup_enabled`), the policy
    counts only within one: a session that only spins would get as much as one that works. So the
    session that the process leads gets the lowest weight.
    """
    for task in os.listdir(f"/proc/{process}/task"):
        os.sched_setscheduler(int(task), os.SCHED_IDLE, os.sched_param(0))
    if os.getsid(process) != process:
        return
    for _ in range(WEIGHT_TRIES):
        try:
            Path(f"/proc/{process}/autogroup").write_text("19", encoding="ascii")
        except BlockingIOError:  # without privileges one change in 0.1 s is allowed
            time.sleep(0.1)
        except OSError:  # this kernel has no such groups
            return
        else:
            return


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


def _limit() -> int:
    return int(resource.getrlimit(resource.RLIMIT_RTPRIO)[0])


def may_have(priority: int) -> bool:
    """Whether the calling thread may have a priority: what allows it is only known by trying."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        return False
    os.sched_setscheduler(0, *before)
    return True


def _own_threads() -> set[int]:
    return set(map(int, os.listdir("/proc/self/task")))


def _thread_name(task: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/self/task/{task}/comm").read_text(encoding="utf-8").strip()
    return ""


def _receives(task: int) -> bool:
    """Whether a thread of Fast DDS receives messages of users, which come on odd ports."""
    protocol, _, port = _thread_name(task).removeprefix("dds.").partition(".")
    has_port = protocol in ("shm", "udp") and port.isdigit()
    return has_port and int(port) >= DDS_PORTS_FROM and int(port) % 2 == 1


def _attempt(name: str, value: str, set_it: Callable[[], object]) -> str:
    try:
        set_it()
    except (OSError, ValueError) as error:
        return f"{name} {value}: refused ({error}); {REMEDIES[name]}"
    return f"{name}: {value}"


def _set_affinity(cpus: str) -> None:
    for task in _own_threads():
        os.sched_setaffinity(task, parse_cpus(cpus))


def _lock_memory() -> None:
    if _LIBC.mlockall(MCL_CURRENT | MCL_FUTURE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
