"""Health modes over time, of the graph or of a planner."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from perception_nodes.core.health import HealthMode


@dataclass
class Modes:
    """Changes of a mode: the time, nanoseconds since the Unix epoch, and the new mode."""

    changes: list[tuple[int, HealthMode]] = field(default_factory=list)

    def add(self, at_ns: int, mode: HealthMode) -> None:
        """Note the mode at a time later than all others; the same mode is no change."""
        if not self.changes or self.changes[-1][1] != mode:
            self.changes.append((at_ns, mode))

    def within(self, since_ns: int, until_ns: int) -> Sequence[tuple[int, HealthMode]]:
        """The mode at the first time, if known, and its changes from then until the second time."""
        before = [(since_ns, mode) for at_ns, mode in self.changes if at_ns <= since_ns]
        return before[-1:] + [one for one in self.changes if since_ns < one[0] <= until_ns]

    def worst(self, since_ns: int, until_ns: int) -> HealthMode:
        """The worst mode between two times; UNSAFE before the first one is known."""
        found = [mode for _, mode in self.within(since_ns, until_ns)]
        return max(found) if self.changes and self.changes[0][0] <= since_ns else HealthMode.UNSAFE

    def reached_ns(self, wanted: HealthMode, since_ns: int, until_ns: int) -> int | None:
        """When the mode was this or a worse one for the first time; None if it never was."""
        return next((at for at, mode in self.within(since_ns, until_ns) if mode >= wanted), None)

    def left_ns(self, wanted: HealthMode, since_ns: int, until_ns: int) -> int | None:
        """When the mode became a better one than this between two times; None if it did not."""
        found = (at for at, mode in self.changes if since_ns < at < until_ns and mode < wanted)
        return next(found, None)

    def well_since_ns(self, limit: HealthMode, until_ns: int) -> int | None:
        """Since when the mode was this or a better one until a time; None if it was not."""
        since_ns = None
        for at_ns, mode in self.changes:
            if at_ns <= until_ns:
                since_ns = None if mode > limit else at_ns if since_ns is None else since_ns
        return since_ns
