"""Work beside the main thread: items made in advance, and calls made later; both bounded."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LOOK_UP_S = 0.05
"""How often a waiting thread checks whether it should stop."""
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


class _End:
    """Marks the end of the items, with the error that ended them, if there was one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Takes items from an iterable in a thread, at most `depth` items in advance."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        """Nothing runs before the context is entered."""
        self._items = items
        self._queue: Queue[T | _End] = Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)

    def __enter__(self) -> Iterator[T]:
        """Start. Yields the items in order, then raises the error that ended them, if any."""
        self._thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        """Stop, whether or not all items were taken."""
        self._stop.set()
        self._thread.join()

    def _taken(self) -> Iterator[T]:
        while not isinstance(item := self._queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def _run(self) -> None:
        error = None
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as raised:
            error = raised
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        """Queue an item; False once the thread should stop."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=LOOK_UP_S)
                return True
            except Full:
                continue
        return False


class Behind:
    """Makes calls in a thread, in the order given, with at most `depth` of them waiting."""

    def __init__(self, depth: int) -> None:
        """Nothing runs before the context is entered."""
        self._queue: Queue[tuple[Callable[..., None], tuple[Any, ...]]] = Queue(depth)
        self._ending = threading.Event()
        self._given_up = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queue a call; raises the error of an earlier call, if there was one."""
        while not self._given_up.is_set():
            try:
                return self._queue.put((function, arguments), timeout=LOOK_UP_S)
            except Full:
                continue
        assert self._error is not None
        raise self._error

    def __enter__(self) -> "Behind":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the queued calls; after an error, drop them."""
        if kind is not None:
            self._given_up.set()
        self._ending.set()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._given_up.is_set():
            try:
                function, arguments = self._queue.get(timeout=LOOK_UP_S)
            except Empty:
                if self._ending.is_set():
                    return
                continue
            try:
                function(*arguments)
            except BaseException as raised:
                self._error = raised
                self._given_up.set()
