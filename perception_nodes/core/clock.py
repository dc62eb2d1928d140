"""Clocks: the monotonic one that durations are measured with, the wall clock that stamps use."""

import time
from collections import deque
from typing import NamedTuple, Protocol

MAX_SANE_AGE_NS = 1_000_000_000
TOLD_TIMES = 50
"""Messages of a simulated time that its rate is taken from."""


class Clock(Protocol):
    """Source of both times; the fake one in the tests implements it too.

    Attributes:
        behind_ns: by how much `realtime_ns` may be behind the clock of the stamps.
    """

    behind_ns: int

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC, the same in every process of this machine."""
        ...

    def realtime_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...


class SystemClock:
    """The clocks of this machine."""

    behind_ns = 0

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def realtime_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()


class SimulatedClock:
    """The clocks where stamps are in a recorded time that is told now and then, as on `/clock`.

    Between two messages the time goes on at the rate of the last ones. Each of them was late by its
    way here, and the one that was so the least is gone by: a line with their slope that no message
    lies above.
    """

    behind_ns = 20_000_000
    """What a busy machine lets such a message wait."""

    def __init__(self) -> None:
        """No time is known yet; it stands at 0."""
        self._told: deque[tuple[int, int]] = deque(maxlen=TOLD_TIMES)
        self._rate = 1.0
        self._latest = (0, 0)

    def told(self, time_ns: int, now_ns: int) -> None:
        """Take note of a message.

        Args:
            time_ns: the recorded time that it tells.
            now_ns: CLOCK_MONOTONIC of its receipt.
        """
        if self._told and abs(time_ns - self._at(now_ns)) > MAX_SANE_AGE_NS:
            self._told.clear()  # another drive, or the same one from another place
        self._told.append((time_ns, now_ns))
        first_ns, begin_ns = self._told[0]
        passed_ns = now_ns - begin_ns
        self._rate = (time_ns - first_ns) / passed_ns if passed_ns > 0 else 1.0
        self._latest = max(self._told, key=lambda told: told[0] - self._rate * (told[1] - begin_ns))

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def realtime_ns(self) -> int:
        """The recorded time, nanoseconds since the Unix epoch; 0 before any was told."""
        return self._at(time.monotonic_ns()) if self._told else 0

    def _at(self, now_ns: int) -> int:
        time_ns, at_ns = self._latest
        return time_ns + round(self._rate * (now_ns - at_ns))


class CaptureTime(NamedTuple):
    """When a frame was captured, and whether its stamp could be believed."""

    capture_ns: int
    clock_suspect: bool


def capture_time(
    stamp_ns: int, received_ns: int, received_realtime_ns: int, behind_ns: int = 0
) -> CaptureTime:
    """Translate a message stamp into CLOCK_MONOTONIC.

    Args:
        stamp_ns: `header.stamp`, nanoseconds since the Unix epoch.
        received_ns: CLOCK_MONOTONIC at receipt.
        received_realtime_ns: the stamps' clock at the same moment.
        behind_ns: by how much that may be too little; a stamp so far ahead of it is of no age.

    Returns:
        The capture instant in CLOCK_MONOTONIC. Where the frame's age is not in [0 s, 1 s) the
        stamp's clock is not ours: the instant is then the receipt, and `clock_suspect` is set.
    """
    age_ns = received_realtime_ns - stamp_ns
    if -behind_ns <= age_ns < 0:
        age_ns = 0
    if 0 <= age_ns < MAX_SANE_AGE_NS:
        return CaptureTime(received_ns - age_ns, False)
    return CaptureTime(received_ns, True)
