"""Threads that take turns at one backend, so that one infers while others decode their results."""

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import Backend, QueuedBackend, QueuedCaller
from perception_nodes.core.inference import HeadTensors, InferenceBackend

RECENT_CALLS = 16
"""More calls are kept than can end before the thread of an earlier call continues."""


class OneAtATime:
    """Lets several threads share a backend: calls wait for each other and return copies.

    Attributes:
        ended_ns: see `QueuedCaller`.
    """

    def __init__(self, backend: InferenceBackend, lock: threading.Lock) -> None:
        """Make the caller of one thread; all threads share `lock`."""
        self._backend, self._lock = backend, lock
        self.ended_ns = 0

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Infer; the tensors are the caller's own."""
        with self._lock:
            try:
                heads = self._backend.infer(image)
                boxes, classes = ([t.copy() for t in some] for some in (heads.boxes, heads.classes))
                return HeadTensors(boxes, classes, heads.engine)
            finally:
                self.ended_ns = time.monotonic_ns()


class Ends:
    """The ends of the calls of several threads; each call begins where the one before it ends."""

    def __init__(self) -> None:
        """Begin without any call."""
        self._lock = threading.Lock()
        self._recent_ns: deque[int] = deque(maxlen=RECENT_CALLS)

    def before(self, ended_ns: int) -> int:
        """Note the end of a call; returns the end of the call before it.

        Threads may come here in another order than their calls ended. The end of a call whose
        thread has not come yet is unknown; an earlier end then stands for it, so that a call seems
        longer than it was, never shorter.
        """
        with self._lock:
            before_ns = max((ns for ns in self._recent_ns if ns < ended_ns), default=0)
            self._recent_ns.append(ended_ns)
        return before_ns


class CameraTurn:
    """Calls a backend for one thread, while other threads call it too.

    Attributes:
        waited_ns: how long the last call waited for calls of other threads.
    """

    def __init__(self, caller: QueuedCaller, ends: Ends) -> None:
        """All threads share `ends`."""
        self._caller, self._ends = caller, ends
        self.waited_ns = 0

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Infer; the tensors are valid until this thread's next call."""
        asked_ns = time.monotonic_ns()
        try:
            return self._caller.infer(image)
        finally:
            self.waited_ns = max(0, self._ends.before(self._caller.ended_ns) - asked_ns)


def turns(backend: Backend, threads: int) -> list[CameraTurn]:
    """Make a caller for each thread, so that one infers while others decode their results."""
    callers: Sequence[QueuedCaller]
    if isinstance(backend, QueuedBackend):
        callers = backend.queue(threads)
    else:
        lock = threading.Lock()
        callers = [OneAtATime(backend, lock) for _ in range(threads)]
    ends = Ends()
    return [CameraTurn(caller, ends) for caller in callers]
