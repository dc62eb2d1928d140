"""Work beside the main thread: items made ahead of it, calls made behind it; both bounded."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LOOK_UP_S = 0.05
"""How often a waiting thread looks whether it should stop."""
SWITCH_INTERVAL_S = 0.0002


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let threads take turns often.

    One that comes back from inference waits until another gives up the interpreter, by default for
    5 ms: longer than a frame takes.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


class _End:
    """Follows the last item; carries the error that ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Takes items from an iterable in a thread, at most `depth` before they are used."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        """Nothing runs before the context is entered."""
        self._items = items
        self._queue: Queue[T | _End] = Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)

    def __enter__(self) -> Iterator[T]:
        """Start; the items come in order, then the error that ended them, if one did."""
        self._thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        """Stop, whether or not all was taken."""
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
        """False where it is no longer wanted."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=LOOK_UP_S)
                return True
            except Full:
                continue
        return False


class Behind:
    """Makes calls in a thread, in the order they are given, at most `depth` of them waiting."""

    def __init__(self, depth: int) -> None:
        """Nothing runs before the context is entered."""
        self._queue: Queue[tuple[Callable[..., None], tuple[Any, ...]]] = Queue(depth)
        self._ending = threading.Event()
        self._given_up = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Leave a call to the thread; raises what an earlier one raised."""
        while not self._given_up.is_set():
            try:
                return self._queue.put((function, arguments), timeout=LOOK_UP_S)
            except Full:
                continue
        assert self._error is not None
        raise self._error

    def __enter__(self) -> "Behind":
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the calls that are left; after an error leave them be."""
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
