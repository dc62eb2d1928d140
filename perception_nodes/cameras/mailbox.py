"""Frames on their way from a source's own thread: the newest ones wait, older ones are counted."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from perception_nodes.cameras.camera_source import CameraError

WAITING = 16
"""A decoder gives at most so many frames at once (`video.demux.MAX_HELD`)."""
STOP_S = 0.3
"""How long to wait for a thread that is to end. One that reads from a network ends by itself when
its timeout has passed."""


@dataclass(frozen=True)
class Arrived:
    """A frame that nobody has taken yet.

    Attributes:
        frame: the source's own; None if there are only lost ones.
        stamp_ns: wall clock of its capture.
        lost: frames lost since the one before.
        cause: of the first loss, where it is known.
    """

    frame: Any
    stamp_ns: int
    lost: int = 0
    cause: str = ""


class Mailbox:
    """Holds the newest frames of a thread; one that is pushed out is counted by the next one.

    Attributes:
        closed: is set when the thread is to end.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self._condition = threading.Condition()
        self._items: deque[Arrived | CameraError] = deque()
        self._thread: threading.Thread | None = None
        self.closed = threading.Event()

    def fill(self, run: Callable[[], None]) -> None:
        """Start the thread that puts the frames in."""
        self._thread = threading.Thread(target=run, name="frames", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Have the thread end, and wait a little for that."""
        self.closed.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def put(self, item: Arrived | CameraError) -> None:
        """Add a frame, or the error that ends the frames."""
        with self._condition:
            self._items.append(item)
            if len(self._items) > WAITING and isinstance(item, Arrived):
                oldest, behind = self._items.popleft(), self._items.popleft()
                if isinstance(oldest, Arrived) and isinstance(behind, Arrived):
                    lost = oldest.lost + (oldest.frame is not None) + behind.lost
                    cause = oldest.cause or "they were not taken in time"
                    self._items.appendleft(replace(behind, lost=lost, cause=cause))
            self._condition.notify()

    def take(self, timeout_s: float) -> Arrived | None:
        """The oldest frame; None if none comes in time.

        Raises:
            CameraError: an error was put in place of a frame.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._items, timeout_s)
            found = self._items.popleft() if self._items else None
        if isinstance(found, CameraError):
            raise found
        return found
