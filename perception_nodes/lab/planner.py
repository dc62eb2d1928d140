"""What a planner in the vehicle would have known of a run: the verdicts of its consumers."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from perception_nodes.core.health import HealthMode
from perception_nodes.protection.consumer import Consumer, Content, Instant, Limits, State

LOOK_NS = 10_000_000
"""The planner's cycle: so often it looks at a topic of which no message has come."""
DISCOVERY_NS = 3_000_000_000
"""Within this time after the first plain detections protected ones must come."""
KEEPS_NS = 1_100_000_000
"""So much later than its graph it is NOMINAL at the latest: the consumer keeps a fault for its
`hold_ms`, and messages take their way."""
CONTENTS = {"health": Content.HEALTH, "safe_stop": Content.SAFE_STOP}
"""By the plain topic's last name; other topics are about objects."""


@dataclass
class Consumed:
    """The planner's view; times are nanoseconds since the Unix epoch.

    Attributes:
        states: number of messages about objects by the name of their state.
        lost: how many of these it knows not to have come.
        first_ns: when the first of them came; None if none did.
        wrong: why messages of any topic were refused as wrong.
        modes: each change of the mode to be in, the worst of all topics'.
    """

    states: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    first_ns: int | None = None
    wrong: Counter[str] = field(default_factory=Counter)
    modes: list[tuple[int, HealthMode]] = field(default_factory=list)

    def missed(self, arrived: Sequence[int]) -> int:
        """How many detections came plain, and neither came protected nor are known as lost.

        Args:
            arrived: when detections came plain. Those before the first protected ones do not count:
                the two topics are not discovered at the same moment.
        """
        since_ns = self.first_ns
        if since_ns is None:
            since_ns = min(arrived, default=0) + DISCOVERY_NS
        known = self.states.total() - self.states[State.REPEATED.name] + self.lost
        return max(0, sum(at_ns >= since_ns for at_ns in arrived) - known)

    def told_ns(self, wanted: HealthMode, begin_ns: int) -> int | None:
        """When the mode was this or a worse one for the first time since an instant."""
        before = [mode for at_ns, mode in self.modes if at_ns <= begin_ns]
        if before and before[-1] >= wanted:
            return begin_ns
        since = (at_ns for at_ns, mode in self.modes if at_ns > begin_ns and mode >= wanted)
        return next(since, None)

    def worst(self, since_ns: int, until_ns: int) -> HealthMode:
        """The worst mode between two instants; UNSAFE before the first message."""
        before = [mode for at_ns, mode in self.modes if at_ns <= since_ns]
        during = [mode for at_ns, mode in self.modes if since_ns < at_ns <= until_ns]
        return max([*(before[-1:] or [HealthMode.UNSAFE]), *during])

    def no_worse_ns(self, limit: HealthMode, until_ns: int) -> int | None:
        """Since when the mode has been this or a better one until an instant; None if it is not."""
        since_ns = None
        for at_ns, mode in self.modes:
            if at_ns <= until_ns:
                since_ns = None if mode > limit else at_ns if since_ns is None else since_ns
        return since_ns

    def lets_up(self, wanted: HealthMode, begin_ns: int, end_ns: int) -> bool:
        """Whether the mode becomes a better one than this meanwhile."""
        return any(mode < wanted and begin_ns < at_ns < end_ns for at_ns, mode in self.modes)


def demanded(deadline_ms: float) -> Limits:
    """A planner's limits where the graph has this deadline."""
    usual = Limits()
    ahead_ms = max(usual.ahead_ms, math.ceil(deadline_ms))
    unsafe_after_ms = max(usual.unsafe_after_ms, usual.transport_ms + ahead_ms)
    return replace(usual, ahead_ms=ahead_ms, unsafe_after_ms=unsafe_after_ms)


def consume(messages: Iterable[tuple[str, int, bytes]], limits: Limits) -> Consumed:
    """Play a planner to which protected messages came.

    Args:
        messages: topic, time of arrival by the wall clock, serialized message; in this order.
        limits: what it demands.
    """
    seen = Consumed()
    consumers: dict[str, Consumer] = {}
    modes: dict[str, HealthMode] = {}
    looked_ns: int | None = None
    for topic, at_ns, message in messages:
        looked_ns = at_ns if looked_ns is None else looked_ns
        while looked_ns + LOOK_NS <= at_ns:
            looked_ns += LOOK_NS
            for name, consumer in consumers.items():
                modes[name] = consumer.check(None, Instant(looked_ns, looked_ns)).mode
            _note(seen, looked_ns, modes)
        content = CONTENTS.get(topic.split("/")[-2], Content.OBJECTS)
        consumer = consumers.setdefault(topic, Consumer(topic, content, limits))
        verdict = consumer.check(message, Instant(at_ns, at_ns))
        modes[topic] = verdict.mode
        _note(seen, at_ns, modes)
        if verdict.state is State.WRONG:
            seen.wrong[f"{topic}: {verdict.reason}"] += 1
        elif content is Content.OBJECTS:
            seen.first_ns = at_ns if seen.first_ns is None else seen.first_ns
            seen.states[verdict.state.name] += 1
            seen.lost += verdict.lost
    return seen


def _note(seen: Consumed, at_ns: int, modes: dict[str, HealthMode]) -> None:
    if modes:
        worst = max(modes.values())
        if not seen.modes or seen.modes[-1][1] != worst:
            seen.modes.append((at_ns, worst))
