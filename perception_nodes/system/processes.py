"""What the kernel knows of other processes and of the machine."""

import os
import platform
import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import Protocol

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


STARVED_PATIENCE = 10
"""A process that wants to run and gets no processor has so many times its patience."""


class ProcessHandle(Protocol):
    """What is asked of the kernel about a process."""

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        ...

    def wants_processor(self) -> bool:
        """Whether one of its threads could run now."""
        ...

    def spent_ns(self) -> int:
        """Processor time that its main thread has had."""
        ...

    def rss_bytes(self) -> int:
        """Its resident memory."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def close(self) -> None:
        """Watch it no longer."""
        ...


def is_hung(silent_ns: int, patience_ns: int, spent_ns: int, process: ProcessHandle) -> bool:
    """Whether a silent process hangs, and is not merely kept from running by others.

    Args:
        silent_ns: since its last sign of life.
        patience_ns: how long it may be silent.
        spent_ns: processor time of its main thread at that sign.
        process: it.
    """
    if silent_ns <= patience_ns:
        return False
    if not process.wants_processor() or process.spent_ns() - spent_ns > patience_ns:
        return True
    return silent_ns > STARVED_PATIENCE * patience_ns


class Process:
    """Another process by a descriptor of it: its number may be given to others, this not."""

    def __init__(self, pid: int) -> None:
        """Open it.

        Raises:
            ProcessLookupError: there is none of that number.
        """
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def is_alive(self) -> bool:
        """Whether it has not ended; known at once, also where nobody has waited for it."""
        return not self.wait(0.0)

    def wait(self, timeout_ms: float) -> bool:
        """Wait for its end; whether it has ended."""
        return bool(self._poll.poll(timeout_ms))

    def kill(self) -> None:
        """End it without asking, also where it is stopped."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wants_processor(self) -> bool:
        """Whether one of its threads is running, or waiting for a processor or for the kernel."""
        with suppress(OSError):
            for task in os.listdir(f"/proc/{self.pid}/task"):
                if _stat(f"/proc/{self.pid}/task/{task}/stat")[0] in "RD":
                    return True
        return False

    def spent_ns(self) -> int:
        """Processor time that its main thread has had, to a tick."""
        with suppress(OSError):
            fields = _stat(f"/proc/{self.pid}/task/{self.pid}/stat")
            return (int(fields[11]) + int(fields[12])) * TICK_NS
        return 0

    def rss_bytes(self) -> int:
        """Its resident memory, 0 where it has ended."""
        with suppress(OSError), open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
        return 0

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


def open_process(pid: int) -> Process | None:
    """A process, None where it has ended already."""
    try:
        return Process(pid)
    except ProcessLookupError:
        return None


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped it (SIGSTOP), and nobody has let it go on."""
    with suppress(OSError):
        return _stat(f"/proc/{pid}/stat")[0] == "T"
    return False


def available_memory_bytes() -> int:
    """Memory that can be had without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _stat(path: str) -> list[str]:
    """Fields of a stat file from the state on; the name before it may hold anything."""
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().rsplit(")", 1)[1].split()
