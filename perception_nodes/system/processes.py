"""What the kernel knows about other processes and about the machine."""

import os
import platform
import select
import signal
from contextlib import suppress
from pathlib import Path

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

STARVED_PATIENCE = 10
"""A silent process that wants to run and gets no processor is given this many times longer."""


class Process:
    """Another process, by a descriptor: unlike its number, that never refers to a later process."""

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

    def kill(self) -> None:
        """Kill it with SIGKILL, which also ends a stopped process."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wants_processor(self) -> bool:
        """Whether one of its threads is running, or waits for a processor or for the kernel."""
        with suppress(OSError):
            for task in os.listdir(f"/proc/{self.pid}/task"):
                if _stat(f"/proc/{self.pid}/task/{task}/stat")[0] in "RD":
                    return True
        return False

    def spent_ns(self) -> int:
        """Processor time that its main thread has used, to a tick."""
        with suppress(OSError):
            fields = _stat(f"/proc/{self.pid}/task/{self.pid}/stat")
            return (int(fields[11]) + int(fields[12])) * TICK_NS
        return 0

    def rss_bytes(self) -> int:
        """Resident memory of the process, 0 after its end."""
        with suppress(OSError), open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
        return 0

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def is_hung(silent_ns: int, patience_ns: int, spent_ns: int, process: Process) -> bool:
    """Whether a silent process hangs, rather than being kept from running by other processes.

    Args:
        silent_ns: time since its last sign of life.
        patience_ns: how long it may be silent.
        spent_ns: processor time that its main thread had used at its last sign of life.
        process: the process.
    """
    if silent_ns <= patience_ns:
        return False
    if not process.wants_processor() or process.spent_ns() - spent_ns > patience_ns:
        return True
    return silent_ns > STARVED_PATIENCE * patience_ns


def open_process(pid: int) -> Process | None:
    """Open a process; None if it has already ended."""
    try:
        return Process(pid)
    except ProcessLookupError:
        return None


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by SIGSTOP, and has not been continued."""
    with suppress(OSError):
        return _stat(f"/proc/{pid}/stat")[0] == "T"
    return False


def available_memory_bytes() -> int:
    """Memory that can be allocated without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def machine() -> str:
    """Processor, number of cores and kernel."""
    return f"{cpu_name()}, {os.cpu_count()} cores, {platform.release()}"


def cpu_name() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _stat(path: str) -> list[str]:
    """Fields of a stat file from the state on; the name before it may contain any characters."""
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().rsplit(")", 1)[1].split()
