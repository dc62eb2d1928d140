"""When a process of the graph that died is started again."""

from collections import deque

from perception_nodes.core import failover


class Restarts:
    """Counts the deaths of each process, which is restarted however many there are.

    A vehicle is better served by a graph that reports itself UNSAFE and recovers when the cause
    goes away than by one that has given up.
    """

    def __init__(self) -> None:
        self._deaths_s: dict[str, deque[float]] = {}

    def has_died(self, name: str) -> bool:
        """Whether the process has ever died."""
        return name in self._deaths_s

    def note_death(self, name: str, now_s: float) -> tuple[int, float]:
        """Count a death.

        Args:
            name: name of the process.
            now_s: seconds of CLOCK_MONOTONIC.

        Returns:
            How often it has died within the window, this time included, and how many seconds to
            wait until the restart.
        """
        deaths_s = self._deaths_s.setdefault(name, deque())
        deaths_s.append(now_s)
        while now_s - deaths_s[0] > failover.DEATHS_WITHIN_S:
            deaths_s.popleft()
        return len(deaths_s), 0.0 if len(deaths_s) <= failover.AT_ONCE else failover.DELAY_S
