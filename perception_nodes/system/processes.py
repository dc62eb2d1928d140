"""What the kernel knows about other processes and about the machine."""

import os
import platform
import re
import resource
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROCESSORS = Path("/sys/devices/system/cpu")
CPU_INFO = Path("/proc/cpuinfo")

AT_ONCE_NS = 20_000_000
MIDDLEWARE = "dds."
"""Beginnings of the names of the middleware's threads, which have no priority. No frame waits for
them, but a sleeping main thread may wait for a lock that one of them has."""


class Seen(NamedTuple):
    """What the kernel says of a process at one time.

    Attributes:
        is_ready: one of its threads runs, or waits for a processor or for the kernel.
        main_ns: processor time of its main thread, without what the kernel computed for it.
        computed_ns: the same of all threads; the middleware's count only while the main thread
            sleeps.
        in_kernel_ns: how much of that the kernel computed for them, in steps of 10 ms.
        waited_ns: how long these threads were ready without a processor, in waits that are over.
        stolen_ns: how long the host of a virtual machine has kept each processor away from it.
        processor: where its main thread ran last.
        is_asleep: whether its main thread sleeps.
    """

    is_ready: bool
    main_ns: int
    computed_ns: int
    in_kernel_ns: int
    waited_ns: int
    stolen_ns: tuple[int, ...]
    processor: int = -1
    is_asleep: bool = False


class Process:
    """Another process, known by a descriptor, which unlike a number never means a later process."""

    def __init__(self, pid: int) -> None:
        """Open a process.

        Raises:
            ProcessLookupError: there is no process with this number.
        """
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def is_alive(self) -> bool:
        """Whether it has not ended; a process that nobody has waited for yet has ended."""
        return not self.wait(0.0)

    def wait(self, timeout_ms: float) -> bool:
        """Wait until it ends, but no longer than the timeout; returns whether it has ended."""
        return bool(self._poll.poll(timeout_ms))

    def kill(self) -> bool:
        """Kill it with SIGKILL, which also ends a stopped process; returns whether we may."""
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            return True
        return False

    def look(self) -> Seen:
        """What the kernel says of it now. An ended process does nothing."""
        ready, asleep, main_ns, processor = False, False, 0, -1
        computed_ns, in_kernel_ns, waited_ns = 0, 0, 0
        with suppress(OSError):
            for task in map(int, os.listdir(f"/proc/{self.pid}/task")):
                folder = f"/proc/{self.pid}/task/{task}"
                with suppress(OSError):  # the thread has just ended
                    name, fields = stat_of(folder)
                    if task == self.pid:
                        asleep = fields[0] == "S"
                    if name.startswith(MIDDLEWARE) and not asleep:
                        continue
                    ready = ready or fields[0] in "RD"
                    kernel_ns, delay_ns = int(fields[12]) * TICK_NS, 0
                    both_ns = int(fields[11]) * TICK_NS + kernel_ns
                    # This file is more exact, but not every kernel is built with it.
                    with suppress(FileNotFoundError), open(f"{folder}/schedstat") as file:
                        both_ns, delay_ns = map(int, file.read().split()[:2])
                    computed_ns, waited_ns = computed_ns + both_ns, waited_ns + delay_ns
                    in_kernel_ns += kernel_ns
                    if task == self.pid:
                        main_ns, processor = both_ns - kernel_ns, int(fields[36])
        times_ns = main_ns, computed_ns, in_kernel_ns, waited_ns, stolen_ns()
        return Seen(ready, *times_ns, processor, asleep)

    def rss_bytes(self) -> int:
        """Resident memory of the process, 0 after its end."""
        with suppress(OSError), open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
        return 0

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def open_process(pid: int, user_of: str = "") -> Process | None:
    """Open a process; None if it has already ended, or cannot be watched now.

    A damaged number is no process's, and we may have no descriptor left; neither must end us.

    Args:
        pid: its number.
        user_of: beginning of paths. Also None if the process can be seen to have none of these
            files open: a damaged number may be a stranger's, whom nobody must kill.
    """
    try:
        process = Process(pid)
    except (OSError, OverflowError):
        return None
    files = _open_files(pid)
    if files and not any(path.startswith(user_of) for path in files):
        process.close()
        return None
    return process


def _open_files(pid: int) -> list[str]:
    """Paths of the files that a process has open; none if it has ended or is another user's."""
    folder, paths = f"/proc/{pid}/fd", []
    with suppress(OSError):
        for number in os.listdir(folder):
            with suppress(FileNotFoundError):  # just closed
                paths.append(os.readlink(f"{folder}/{number}"))
    return paths


def was_alive(pid: int, at_ns: int) -> bool:
    """Whether the process of this number already had it at `at_ns` (CLOCK_MONOTONIC).

    After the machine was suspended, the result may wrongly be False: the start of a process is
    known by CLOCK_BOOTTIME, which counts that time too.
    """
    try:
        # Its latest possible start.
        started_ns = (int(stat_of(f"/proc/{pid}")[1][19]) + 1) * TICK_NS
    except (OSError, ValueError):
        return False
    return started_ns <= at_ns


def own_time_ns() -> int:
    """Processor time of the calling thread, without what the kernel computed for it."""
    return int(resource.getrusage(resource.RUSAGE_THREAD).ru_utime * 1e9)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal or a debugger, and has not been continued."""
    with suppress(OSError):
        return stat_of(f"/proc/{pid}")[1][0] in "Tt"
    return False


def runs_at_once(processor: int) -> bool:
    """Whether a processor runs the calling thread at once; if not, return when it has run there.

    While the host of a virtual machine has taken the processor away, threads that sleep there are
    not woken. The kernel shows that only when the processor is back.
    """
    before, began_ns = os.sched_getaffinity(0), time.monotonic_ns()
    try:
        os.sched_setaffinity(0, {processor})
    except (OSError, ValueError):  # there is no such processor, or it may not be used
        return True
    at_once = time.monotonic_ns() - began_ns < AT_ONCE_NS
    os.sched_setaffinity(0, before)
    return at_once


def stolen_ns() -> tuple[int, ...]:
    """How long the host of this virtual machine has kept each processor away."""
    with open("/proc/stat", encoding="ascii") as file:
        rows = [line.split() for line in file if re.match(r"cpu\d", line)]
    return tuple(int(row[8]) * TICK_NS for row in rows)


def available_memory_bytes() -> int:
    """Memory that can be allocated without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def machine() -> str:
    """Processor, number of cores and kernel."""
    return f"{cpu_name()}, {os.cpu_count()} cores, {platform.release()}"


def cpu_name() -> str:
    """Name of the processor; if the kernel knows none, as on Arm, the part numbers of its cores."""
    facts = [line.partition(":")[::2] for line in _cpu_info().splitlines()]
    named = [value.strip() for name, value in facts if name.strip() == "model name"]
    cores = {v.strip() for name, v in facts if name.strip() in ("CPU implementer", "CPU part")}
    return named[0] if named else " ".join([platform.machine(), *sorted(cores)])


def cpu_flags() -> set[str]:
    """The processor's features in the kernel's words, among other words of its description."""
    return set(_cpu_info().split())


def speed_facts() -> str:
    """What the speed of this process depends on: the processor, and which of its cores are ours."""
    return f"{cpu_name()} {sorted(os.sched_getaffinity(0))}"


def physical_cores() -> int:
    """Number of cores that this process may use; threads of one core count once."""
    cores = set()
    for processor in os.sched_getaffinity(0):
        try:
            cores.add((PROCESSORS / f"cpu{processor}/topology/thread_siblings_list").read_text())
        except OSError:  # some virtual machines do not have this file
            cores.add(str(processor))
    return len(cores)


def _cpu_info() -> str:
    return CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.is_file() else ""


def stat_of(folder: str) -> tuple[str, list[str]]:
    """Name of a process or thread, which may contain any characters; fields from the state on."""
    with open(f"{folder}/stat", encoding="utf-8", errors="replace") as file:
        name, _, rest = file.read().rpartition(")")
    return name.partition("(")[2], rest.split()
