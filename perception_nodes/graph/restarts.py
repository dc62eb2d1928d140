"""When a process of the graph that died is started again."""

import re
from collections import deque

from perception_nodes.core import failover

_NUMBER = re.compile(r"\d+")


class Restarts:
    """Counts the deaths of each process, which is restarted however many there are.

    A vehicle is better served by a graph that reports itself UNSAFE and recovers when the cause
    goes away than by one that has given up. Only a process that has never worked, and dies at once
    by the same cause again and again, is hopeless.
    """

    def __init__(self) -> None:
        self._deaths_s: dict[str, deque[float]] = {}
        self._started_s: dict[str, float] = {}
        self._causes: dict[str, list[str]] = {}
        self._has_worked: set[str] = set()

    def has_died(self, name: str) -> bool:
        """Whether the process has ever died."""
        return name in self._deaths_s

    def note_start(self, name: str, now_s: float) -> None:
        """Note that a process is started, at a time in seconds of CLOCK_MONOTONIC."""
        self._started_s[name] = now_s

    def note_death(self, name: str, now_s: float, cause: str = "") -> tuple[int, float]:
        """Count a death.

        Args:
            name: name of the process.
            now_s: seconds of CLOCK_MONOTONIC.
            cause: why it ended; empty if another process killed it.

        Returns:
            How often it has died within the window, this time included, and how many seconds to
            wait until the restart.
        """
        deaths_s = self._deaths_s.setdefault(name, deque())
        deaths_s.append(now_s)
        while now_s - deaths_s[0] > failover.DEATHS_WITHIN_S:
            deaths_s.popleft()
        if now_s - self._started_s.get(name, now_s) > failover.WORKED_S:
            self._has_worked.add(name)
        self._causes.setdefault(name, []).append(_NUMBER.sub("", cause))
        del self._causes[name][: -failover.SAME_CAUSE]
        return len(deaths_s), 0.0 if len(deaths_s) <= failover.AT_ONCE else failover.DELAY_S

    def is_hopeless(self, name: str) -> bool:
        """Whether the last deaths had the same cause, at once each, and it has never worked."""
        causes = self._causes.get(name, [])
        is_same = len(causes) == failover.SAME_CAUSE and len(set(causes)) == 1 and causes[0] != ""
        return is_same and name not in self._has_worked
