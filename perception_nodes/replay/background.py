"""Work beside the calling thread: items made in advance, calls made later, or again and again."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with the name of the work, the frames done and their total."""
Work = Callable[[Progress], T]
Submit = Callable[[str, Work[Any]], "Future[Any]"]
"""Starts work in a worker, under the name of its drive; the future may raise `WorkerDied`."""
SWITCH_INTERVAL_S = 0.0002


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let threads take turns often.

    A thread that returns from inference waits until another one releases the interpreter. By
    default that takes up to 5 ms, longer than a frame.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield items that a thread takes from an iterable, `depth` items in advance."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        taken: deque[Future[Any]] = deque(thread.submit(next, iterator, end) for _ in range(depth))
        try:
            while (item := taken.popleft().result()) is not end:
                taken.append(thread.submit(next, iterator, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


@contextmanager
def repeated(act: Callable[[], object], each_s: float) -> Iterator[None]:
    """A context in which a thread calls a function again and again, after so many seconds each."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(each_s):
            act()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Behind(AbstractContextManager["Behind"]):
    """Makes calls in a thread, in the order given, with at most `depth` of them waiting."""

    def __init__(self, depth: int) -> None:
        """Begin without any call."""
        self._thread = ThreadPoolExecutor(1, "behind")
        self._calls: deque[Future[None]] = deque()
        self._depth = depth

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queue a call; raises the error of an earlier call, if there was one."""
        while self._calls and (self._calls[0].done() or len(self._calls) >= self._depth):
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(function, *arguments))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the queued calls; after an error, drop them."""
        try:
            while kind is None and self._calls:
                self._calls.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
