"""How far the clocks of two machines are apart, as seen over a network: ping and pong."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

ROUND_TRIPS = 40
PAUSE_S = 0.005


@dataclass(frozen=True)
class ClockOffset:
    """The other machine's clock minus ours, and the largest possible error of that, both ways."""

    offset_ms: float
    error_ms: float


def clock_offset(trips: Iterable[tuple[int, int, int]]) -> ClockOffset:
    """Estimate the offset from the fastest round trip.

    The answer was given at some time between question and receipt. If the middle between them is
    taken for that time, the error is at most half of the round trip, however unequal both ways are.

    Args:
        trips: when a question was sent by our clock, answered by theirs, and its answer received by
            ours, in nanoseconds.
    """
    sent_ns, answered_ns, received_ns = min(trips, key=lambda trip: trip[2] - trip[0])
    offset_ns = answered_ns - (sent_ns + received_ns) / 2
    return ClockOffset(offset_ns / 1e6, (received_ns - sent_ns) / 2e6)


def measure_offset(ask: Callable[[], int]) -> ClockOffset:
    """Ask for the other clock many times, and estimate the offset.

    Args:
        ask: returns the other machine's CLOCK_REALTIME, nanoseconds.
    """
    trips = []
    for _ in range(ROUND_TRIPS):
        trips.append((time.time_ns(), ask(), time.time_ns()))
        time.sleep(PAUSE_S)
    return clock_offset(trips)
