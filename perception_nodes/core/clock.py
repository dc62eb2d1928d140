"""Clocks: the monotonic one that durations are measured with, the wall clock that stamps use."""

import time
from typing import NamedTuple, Protocol

MAX_SANE_AGE_NS = 1_000_000_000


class Clock(Protocol):
    """Source of both times; the fake one in the tests implements it too."""

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC, the same in every process of this machine."""
        ...

    def realtime_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def realtime_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()


class CaptureTime(NamedTuple):
    """When a frame was captured, and whether its stamp could be believed."""

    capture_ns: int
    clock_suspect: bool


def capture_time(stamp_ns: int, received_ns: int, received_realtime_ns: int) -> CaptureTime:
    """Translate a message stamp into CLOCK_MONOTONIC.

    Args:
        stamp_ns: `header.stamp`, nanoseconds since the Unix epoch.
        received_ns: CLOCK_MONOTONIC at receipt.
        received_realtime_ns: wall clock at the same moment.

    Returns:
        The capture instant in CLOCK_MONOTONIC. Where the frame's age is not in [0 s, 1 s) the
        stamp's clock is not ours: the instant is then the receipt, and `clock_suspect` is set.
    """
    age_ns = received_realtime_ns - stamp_ns
    if 0 <= age_ns < MAX_SANE_AGE_NS:
        return CaptureTime(received_ns - age_ns, False)
    return CaptureTime(received_ns, True)
