"""The signals that ask a process to end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handled_stopping(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have the signals call a handler in this context; one that is ignored stays ignored."""
    # A process that a script has put in the background ignores Ctrl-C, and shall go on to.
    numbers = [n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, handler_before in before:
            signal.signal(number, handler_before)
