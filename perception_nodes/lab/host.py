"""When the host of a virtual machine had a processor of ours: what no setting here can prevent."""

import threading
import time
from bisect import bisect_left, bisect_right

from perception_nodes.system.processes import stolen_ns

SAMPLE_S = 0.02


class HostWatch:
    """Looks at the stolen time while its context lasts.

    The kernel tells it in steps of 10 ms, so a shorter theft may not be seen.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._looks_ns = [time.time_ns()]
        self._stolen_ns = [sum(stolen_ns())]
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "HostWatch":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        self._over.set()
        self._thread.join()

    def had_a_processor(self, begin_ns: int, end_ns: int) -> bool:
        """Whether the host took a processor between two times, in nanoseconds since the epoch."""
        first = max(bisect_right(self._looks_ns, begin_ns) - 1, 0)
        last = min(bisect_left(self._looks_ns, end_ns), len(self._looks_ns) - 1)
        return self._stolen_ns[last] > self._stolen_ns[first]

    def _watch(self) -> None:
        while True:
            over = self._over.wait(SAMPLE_S)
            self._looks_ns.append(time.time_ns())
            self._stolen_ns.append(sum(stolen_ns()))
            if over:
                return
