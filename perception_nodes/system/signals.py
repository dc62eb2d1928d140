"""The signals that ask a process to end."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event
from types import FrameType

FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all processes started in it: at Ctrl-C, and when it is
closed."""
STOPPING = (*FROM_TERMINAL, signal.SIGTERM)
ASKED_TO_END = Event()
"""Is set in a node that a signal has asked to end, for what else would wait long."""
_ASKED: list[Callable[[], object]] = [ASKED_TO_END.is_set]


def check_end() -> None:
    """Raise KeyboardInterrupt, in any thread, if this process is asked to end."""
    if any(asked() for asked in _ASKED):
        raise KeyboardInterrupt


def leave_to_parent(asked: Callable[[], object] = bool) -> None:
    """Ignore the signals of the terminal, since the parent of this process ends it.

    Args:
        asked: says whether the parent asks this process to end.
    """
    _ASKED.append(asked)
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def handled_stopping(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have the signals call a handler in this context; ignored signals stay ignored."""
    # A process that a script put in the background ignores Ctrl-C, and one that nohup started
    # ignores the end of its terminal. Both must go on to do so.
    numbers = [n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, handler_before in before:
            signal.signal(number, handler_before)


@contextmanager
def noted_signals() -> Iterator[Callable[[], int]]:
    """Give a function that returns the first signal to end the command, 0 for none.

    While a graph runs, its supervisor handles the signals, and the command returns as if the graph
    had ended on its own. So each signal is noted as it arrives, for `check_end` too.
    """
    received, noted = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
    arrived = b""

    def first() -> int:
        nonlocal arrived
        with suppress(BlockingIOError):
            arrived += os.read(received, 4096)
        return next((number for number in arrived if number in STOPPING), 0)

    _ASKED.append(first)
    try:
        yield first
    finally:
        _ASKED.remove(first)
        signal.set_wakeup_fd(-1)
        os.close(received)
        os.close(noted)
