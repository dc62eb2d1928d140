"""Tells a planner whether what it received can be relied on; the same rules as in `consumer.hpp`.

It knows neither ROS nor threads. Its user passes on each message that comes, and also calls it when
none has come.
"""

import time
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from perception_nodes.core.health import HealthMode
from perception_nodes.protection.profile import data_id, open_protected

MS = 1_000_000
MAX_TOLERATED = 7
COUNTERS = 1 << 32
"""Number of messages after which counters begin again."""


class State(IntEnum):
    """What a call of `Consumer.check` found; a message is usable if it is OK or LOST."""

    OK = 0
    NOTHING_NEW = 1
    """No message was passed on, and the last usable one is not old."""
    LOST = 2
    """The message is right, but others before it did not come."""
    LATE = 3
    """The message is not altered, but came after its deadline and the time for transport."""
    REPEATED = 4
    """The message, or one that was sent after it, has come before."""
    WRONG = 5
    """The message is altered, of another topic or sender, or by another clock than ours."""
    SILENT = 6
    """No message was passed on, and there was no usable one for too long."""


class Content(IntEnum):
    """What a topic's messages state about the mode that the vehicle must be in."""

    OBJECTS = 0
    HEALTH = 1
    SAFE_STOP = 2


class Instant(NamedTuple):
    """A moment: CLOCK_MONOTONIC, for durations, and nanoseconds since the Unix epoch."""

    monotonic_ns: int
    wall_ns: int

    @classmethod
    def now(cls) -> "Instant":
        """This moment."""
        return cls(time.monotonic_ns(), time.time_ns())


@dataclass(frozen=True)
class Limits:
    """What a consumer demands.

    Attributes:
        transport_ms: a message may be received this long after its deadline.
        ahead_ms: a deadline that lies further ahead than this means that the clocks differ.
        silent_after_ms: without a usable message for longer, the topic is silent: DEGRADED.
        unsafe_after_ms: without one for longer than this, the mode is UNSAFE; at least
            `transport_ms + ahead_ms`, so that no message is used twice.
        tolerated: number of lost, late or repeated messages in `hold_ms` that leave the mode
            NOMINAL, at most 7. A wrong message is never tolerated.
        hold_ms: how long a fault counts.
    """

    transport_ms: int = 10
    ahead_ms: int = 200
    silent_after_ms: int = 250
    unsafe_after_ms: int = 500
    tolerated: int = 2
    hold_ms: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.tolerated <= MAX_TOLERATED:
            raise ValueError(f"tolerated is {self.tolerated}, it must be 0 to {MAX_TOLERATED}")
        least_ms = self.transport_ms + self.ahead_ms
        if self.unsafe_after_ms < least_ms:
            raise ValueError(
                f"unsafe_after_ms is {self.unsafe_after_ms}, it must be at least transport_ms + "
                f"ahead_ms = {least_ms}"
            )


class Verdict(NamedTuple):
    """The answer to a call.

    Attributes:
        state: state of the message, or of the topic if there is no message.
        mode: the mode that the planner must be in, as far as this topic is concerned.
        silent_ms: whole milliseconds since the last usable message, or since the first call.
        lost: number of messages between the last one and this one that did not come.
        message: the serialized message inside, of the topic's own type; None if not usable.
        reason: what is wrong if the state is WRONG.
    """

    state: State
    mode: HealthMode
    silent_ms: int
    lost: int = 0
    message: bytes | None = None
    reason: str = ""


class _Found(NamedTuple):
    state: State
    lost: int = 0
    data: bytes | None = None
    reason: str = ""


class Consumer:
    """Judges the messages of one protected topic."""

    def __init__(
        self, topic: str, content: Content = Content.OBJECTS, limits: Limits = Limits()
    ) -> None:
        """Until the first usable message the mode is UNSAFE.

        Args:
            topic: full name of the topic, such as `/perception/detections/protected`.
            content: what its messages are about.
            limits: what messages must meet.
        """
        self._identity, self._content, self._limits = data_id(topic), content, limits
        self._sender: int | None = None
        self._counter = 0
        self._begun_ns: int | None = None
        self._usable_ns: int | None = None
        self._told = HealthMode.NOMINAL
        self._faults: deque[int] = deque(maxlen=limits.tolerated + 1)

    def check(self, message: bytes | None = None, now: Instant | None = None) -> Verdict:
        """Judge a message, and the topic as a whole.

        Args:
            message: a serialized `perception_interfaces/msg/Protected`; None if none has come.
            now: when it was received; None for this moment.
        """
        now = now or Instant.now()
        if self._begun_ns is None:
            self._begun_ns = now.monotonic_ns
        if self._unsafe(now) or self._told is HealthMode.UNSAFE:
            self._note(MAX_TOLERATED + 1, now)
        found = self._found(message, now)
        if found.state in (State.WRONG, State.SILENT):
            self._note(MAX_TOLERATED + 1, now)
        else:
            self._note(found.lost + (found.state in (State.LATE, State.REPEATED)), now)
        return Verdict(found.state, self._mode(now), self._silent_ns(now) // MS, *found[1:])

    def _found(self, message: bytes | None, now: Instant) -> _Found:
        if message is None:
            silent = self._silent_ns(now) > self._limits.silent_after_ms * MS
            return _Found(State.SILENT if silent else State.NOTHING_NEW)
        opened = open_protected(message, self._identity)
        if isinstance(opened, str):
            return _Found(State.WRONG, reason=opened)
        counter, deadline_ns, data, sender = opened
        if (told := self._mode_told(data)) is None:
            return _Found(State.WRONG, reason="another message inside")
        late_ns = now.wall_ns - deadline_ns
        if late_ns < -self._limits.ahead_ms * MS:
            return _Found(State.WRONG, reason="deadline far ahead: the clocks differ")
        late = late_ns > self._limits.transport_ms * MS
        # A graph that was started anew is another sender. It is believed if the mode is UNSAFE
        # without it; of two at once, the first one is.
        other = sender != self._sender
        if other and not self._unsafe(now):
            return _Found(State.WRONG, reason="data id: of another sender")
        ahead = 1 if other else (counter - self._counter) % COUNTERS
        newer = 0 < ahead < COUNTERS // 2
        # A sender may count anew from a lower number. Its message is believed if the mode is
        # UNSAFE without it and it is in time; an earlier message would not be in time.
        if not newer and (late or not self._unsafe(now)):
            return _Found(State.REPEATED)
        lost = ahead - 1 if newer else 0
        self._sender, self._counter = sender, counter
        if late:
            # A request to be careful is believed all the same.
            self._told = max(self._told, told)
            return _Found(State.LATE, lost)
        self._usable_ns, self._told = now.monotonic_ns, told
        return _Found(State.LOST if lost else State.OK, lost, data)

    def _mode_told(self, data: bytes) -> HealthMode | None:
        """The mode that a message asks for; None if it is none of the topic's type."""
        if self._content is Content.HEALTH:
            # perception_interfaces/Health: encapsulation, stamp, mode.
            known = len(data) > 12 and data[12] <= HealthMode.UNSAFE
            return HealthMode(data[12]) if known else None
        if self._content is Content.SAFE_STOP:
            # std_msgs/Bool: encapsulation, data.
            if len(data) <= 4:
                return None
            return HealthMode.UNSAFE if data[4] else HealthMode.NOMINAL
        return HealthMode.NOMINAL

    def _note(self, faults: int, now: Instant) -> None:
        self._faults.extend([now.monotonic_ns] * min(faults, MAX_TOLERATED + 1))

    def _mode(self, now: Instant) -> HealthMode:
        if self._unsafe(now):
            return HealthMode.UNSAFE
        faults = self._faults
        if len(faults) == faults.maxlen and (
            now.monotonic_ns - faults[0] <= self._limits.hold_ms * MS
        ):
            return max(HealthMode.DEGRADED, self._told)
        return self._told

    def _unsafe(self, now: Instant) -> bool:
        """Whether there is nothing to rely on."""
        return self._usable_ns is None or self._silent_ns(now) > self._limits.unsafe_after_ms * MS

    def _silent_ns(self, now: Instant) -> int:
        since_ns = self._begun_ns if self._usable_ns is None else self._usable_ns
        assert since_ns is not None
        return now.monotonic_ns - since_ns
