"""The signals that ask a process to end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all processes started in it: at Ctrl-C, and when it is
closed."""
STOPPING = (*FROM_TERMINAL, signal.SIGTERM)
ASKED_TO_END = Event()
"""Is set in a node that a signal has asked to end, for what else would wait long."""


def leave_to_parent() -> None:
    """Ignore the signals of the terminal, since the parent of this process ends it."""
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
