"""Output that never blocks and never fails.

A write to a terminal under Ctrl-S, or to a pipe that nobody reads, stops a process for as long as
that lasts. So a process writes into a pipe of its own that is never waited for. Threads empty it
and pass its lines on; what they cannot pass on they drop and count. Processes that are started
later inherit this pipe as their standard error.
"""

import fcntl
import io
import os
import select
import signal
import sys
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from typing import Any

from perception_nodes.system.realtime import work_in_background

STDERR = 2
PIPE_BYTES = 1 << 20
"""Size of the pipe, the most that the kernel allows without privileges."""
WAITING = 2048
"""Lines that wait for a slow reader, or blocks of them if they come faster; further ones are
dropped."""
BLOCK_BYTES = 4096
"""A longer line is passed on in parts."""
LAST_WORDS_S = 1.0
"""A reader gets this long at the end of the process to take what waits."""

_relays: list["Relay"] = []


class _Unfailing(io.RawIOBase):
    """A descriptor whose writes never raise: what cannot be written is lost."""

    def __init__(self, descriptor: int, is_terminal: bool) -> None:
        super().__init__()
        self._descriptor, self._is_terminal = descriptor, is_terminal

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with suppress(OSError):
            os.write(self._descriptor, data)
        return len(data)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self._is_terminal


def open_missing() -> None:
    """Open standard streams that are closed, or the next file that is opened gets our messages."""
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def make_unfailing() -> None:
    """Have messages that cannot be written (`2> /dev/full`) raise no error in this process."""
    raw: Any = _Unfailing(STDERR, os.isatty(STDERR))
    sys.stderr = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


def lines_dropped() -> int:
    """Lines of this process, and of those that write through it, that nobody could get."""
    return sum(relay.dropped for relay in _relays)


class Relay:
    """Passes standard error on while the context lasts, without ever making a writer wait.

    Attributes:
        dropped: number of lines that were dropped.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: Queue[bytes] = Queue(WAITING)

    def __enter__(self) -> "Relay":
        """Put the pipe in the place of standard error."""
        open_missing()
        make_unfailing()  # notes whether people read it at a terminal
        self._sink = os.dup(STDERR)
        self._source, entry = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # the kernel's limit for users may be lower
            fcntl.fcntl(entry, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(entry, False)
        os.dup2(entry, STDERR)
        os.close(entry)
        _relays.append(self)
        self._threads = [Thread(target=one, daemon=True) for one in (self._take, self._pass_on)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Put standard error back, when its reader has taken the rest or got the time for it."""
        os.dup2(self._sink, STDERR)  # closes our end of the pipe
        for thread in self._threads:
            thread.join(LAST_WORDS_S)

    def _take(self) -> None:
        """Empty the pipe; its writers would lose lines if this waited for anything else."""
        _stand_back()
        data = b""
        while more := os.read(self._source, BLOCK_BYTES):
            data += more
            end = data.rfind(b"\n") + 1 or len(data) // BLOCK_BYTES * BLOCK_BYTES
            lines, data = data[:end], data[end:]
            try:
                if lines:
                    self._waiting.put_nowait(lines)
            except Full:
                self.dropped += lines.count(b"\n")
        self._waiting.put(data)
        self._waiting.put(b"")

    def _pass_on(self) -> None:
        """Write what waits, for as long as it takes."""
        _stand_back()
        told = 0
        while lines := self._waiting.get():
            missed, told = self.dropped - told, self.dropped
            note = b"%d lines were dropped, since nobody read them\n" % missed if missed else b""
            try:
                _write_all(self._sink, note + lines)
            except OSError:  # nobody will ever read them, or the disk is full
                self.dropped += lines.count(b"\n")


def _stand_back() -> None:
    """Leave signals and priorities to the threads that work."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    work_in_background()


def _write_all(descriptor: int, data: bytes) -> None:
    view, ready = memoryview(data), select.poll()
    ready.register(descriptor, select.POLLOUT)
    while view:
        ready.poll()  # whoever gave us the descriptor may have set it not to wait
        view = view[os.write(descriptor, view) :]
