"""What a planner in the vehicle would have known of a run, from the consumers of its topics."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from perception_nodes.core.health import HealthMode
from perception_nodes.lab.modes import Modes
from perception_nodes.protection.consumer import Consumer, Content, Instant, Limits, State

LOOK_NS = 10_000_000
"""The planner's cycle: the period in which it looks at a topic without a message."""
DISCOVERY_NS = 3_000_000_000
"""Within this time after the first plain detections protected ones must come."""
KEEPS_NS = 1_100_000_000
"""The planner is NOMINAL at most this much later than its graph: the consumer keeps a fault for its
`hold_ms`, and messages need time."""
CONTENTS = {"health": Content.HEALTH, "safe_stop": Content.SAFE_STOP}
"""Contents by the last part of the plain topic's name; other topics are about objects."""


@dataclass
class Consumed:
    """The planner's view; times are nanoseconds since the Unix epoch.

    Attributes:
        states: number of messages about objects by the name of their state.
        lost: number of these that it knows to be lost.
        first_ns: when the first of them came; None if none did.
        wrong: number of refused messages, by topic and reason.
        modes: the mode to be in, the worst of all topics'.
    """

    states: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    first_ns: int | None = None
    wrong: Counter[str] = field(default_factory=Counter)
    modes: Modes = field(default_factory=Modes)

    def missed(self, arrived: Sequence[int]) -> int:
        """The number of plain detections whose protected copies neither came nor are known as lost.

        Args:
            arrived: when detections came plain. Those before the first protected ones do not count:
                the two topics are not discovered at the same moment.
        """
        since_ns = self.first_ns
        if since_ns is None:
            since_ns = min(arrived, default=0) + DISCOVERY_NS
        known = self.states.total() - self.states[State.REPEATED.name] + self.lost
        return max(0, sum(at_ns >= since_ns for at_ns in arrived) - known)


def demanded(deadline_ms: float) -> Limits:
    """A planner's limits for a graph with this deadline."""
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
            if modes:
                seen.modes.add(looked_ns, max(modes.values()))
        content = CONTENTS.get(topic.split("/")[-2], Content.OBJECTS)
        consumer = consumers.setdefault(topic, Consumer(topic, content, limits))
        verdict = consumer.check(message, Instant(at_ns, at_ns))
        modes[topic] = verdict.mode
        seen.modes.add(at_ns, max(modes.values()))
        if verdict.state is State.WRONG:
            seen.wrong[f"{topic}: {verdict.reason}"] += 1
        elif content is Content.OBJECTS:
            seen.first_ns = at_ns if seen.first_ns is None else seen.first_ns
            seen.states[verdict.state.name] += 1
            seen.lost += verdict.lost
    return seen
