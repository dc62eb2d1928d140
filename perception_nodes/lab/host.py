"""When the host of a virtual machine took a processor from us: no setting here prevents that."""

import threading
import time
from bisect import bisect_left, bisect_right

from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.system.processes import stolen_ns

SAMPLE_S = 0.02


class HostWatch:
    """Reads the stolen time again and again beside a run.

    The kernel counts it in steps of 10 ms, so a shorter theft may not be seen.
    """

    def __init__(self) -> None:
        self._looks_ns, self._stolen_ns = [time.time_ns()], [sum(stolen_ns())]

    def __call__(self, graph: Supervisor, over: threading.Event) -> bool:
        """Read until the run is over, and a last time."""
        is_over = False
        while not is_over:
            is_over = over.wait(SAMPLE_S)
            self._looks_ns.append(time.time_ns())
            self._stolen_ns.append(sum(stolen_ns()))
        return False

    def had_a_processor(self, begin_ns: int, end_ns: int) -> bool:
        """Whether the host took a processor between two times, in nanoseconds since the epoch."""
        first = max(bisect_right(self._looks_ns, begin_ns) - 1, 0)
        last = min(bisect_left(self._looks_ns, end_ns), len(self._looks_ns) - 1)
        return self._stolen_ns[last] > self._stolen_ns[first]
