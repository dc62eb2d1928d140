"""How far the clocks of two machines are apart, as seen over a network: ping and pong."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

ROUND_TRIPS = 40
PAUSE_S = 0.005


class RoundTrip(NamedTuple):
    """A question and its answer: sent and received by our clock, answered by theirs, ns."""

    sent_ns: int
    answered_ns: int
    received_ns: int


@dataclass(frozen=True)
class ClockOffset:
    """Their clock minus ours, and how wrong that may be: the truth is within plus or minus."""

    offset_ms: float
    error_ms: float


def clock_offset(trips: Iterable[RoundTrip]) -> ClockOffset:
    """The offset by the fastest round trip.

    The answer was given at some time between question and receipt: half of the fastest round trip
    is the most by which its middle can be wrong, however unequal both ways are.
    """
    best = min(trips, key=lambda trip: trip.received_ns - trip.sent_ns)
    middle_ns = (best.sent_ns + best.received_ns) / 2
    return ClockOffset(
        (best.answered_ns - middle_ns) / 1e6, (best.received_ns - best.sent_ns) / 2e6
    )


def measure_offset(ask: Callable[[], int]) -> ClockOffset:
    """Ask for the other clock many times, and estimate the offset.

    Args:
        ask: returns the other machine's CLOCK_REALTIME, nanoseconds.
    """
    trips = []
    for _ in range(ROUND_TRIPS):
        sent_ns = time.time_ns()
        answered_ns = ask()
        trips.append(RoundTrip(sent_ns, answered_ns, time.time_ns()))
        time.sleep(PAUSE_S)
    return clock_offset(trips)
