"""Message stamps on the monotonic clock."""

import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.clock import (
    CLOCK_MESSAGES,
    MAX_SANE_AGE_NS,
    CaptureTime,
    SimulatedClock,
    capture_time,
    since_receipt,
)

RECEIVED, WALL = 50_000_000_000, 1_700_000_000_000_000_000


@given(st.integers(0, MAX_SANE_AGE_NS - 1))
def test_a_sane_age_is_taken_off_the_receipt(age_ns):
    assert capture_time(WALL - age_ns, RECEIVED, WALL) == CaptureTime(RECEIVED - age_ns, False)


@pytest.mark.parametrize(
    "stamp_ns",
    [WALL + 1, WALL - MAX_SANE_AGE_NS, 0, WALL + 10**18, -1],
    ids=["from the future", "a second old", "unset", "far future", "before 1970"],
)
def test_any_other_stamp_is_suspect_and_the_receipt_counts(stamp_ns):
    assert capture_time(stamp_ns, RECEIVED, WALL) == CaptureTime(RECEIVED, True)


@given(st.integers(1, 50_000_000), st.integers(0, 20_000_000))
def test_a_clock_that_is_behind_makes_no_stamp_suspect(ahead_ns, behind_ns):
    capture = capture_time(WALL + ahead_ns, RECEIVED, WALL, behind_ns)
    assert capture == CaptureTime(RECEIVED, ahead_ns > behind_ns)


@given(
    st.floats(0.1, 5),
    st.lists(st.integers(0, 3_000_000), min_size=2, max_size=80),
    st.integers(0, 20_000_000),
)
def test_a_simulated_time_goes_on_at_its_rate_and_is_as_late_as_its_fastest_message(
    rate, late_ns, after_ns
):
    """A message every 10 ms, each delayed: the clock is never ahead, and never later than they."""
    begin_ns = time.monotonic_ns() - 10**9
    clock = SimulatedClock()
    for index, late in enumerate(late_ns):
        sent_ns = index * 10_000_000
        clock.update(WALL + round(rate * sent_ns), begin_ns + sent_ns + late)
    at_ns = len(late_ns) * 10_000_000 + after_ns
    error_ns = clock._at(begin_ns + at_ns) - (WALL + round(rate * at_ns))
    # The uncertainty: the messages' delays, and those in the rate times the time since then.
    span_ns = max(10_000_000 * (min(len(late_ns), 50) - 1), 1)
    open_ns = rate * 3_000_000 * (1 + 2 * (at_ns + 10_000_000) / span_ns)
    assert abs(error_ns) <= open_ns + 1000


def test_a_simulated_time_stands_at_0_before_it_is_told_and_follows_jumps():
    clock = SimulatedClock()
    assert clock.realtime_ns() == 0
    clock.update(WALL, time.monotonic_ns())
    assert abs(clock.realtime_ns() - WALL) < 10**9
    clock.update(WALL - 10**12, time.monotonic_ns())
    assert abs(clock.realtime_ns() - (WALL - 10**12)) < 10**9


@pytest.mark.parametrize("pause_ms", [150, 300, 800])
def test_a_simulated_time_that_is_not_told_for_a_while_is_followed_at_once(pause_ms):
    begin_ns, tick_ns = time.monotonic_ns() - 10**10, 10_000_000
    clock = SimulatedClock()
    for index in range(150):
        now_ns = begin_ns + index * tick_ns + (pause_ms * 1_000_000 if index >= 100 else 0)
        clock.update(WALL + index * tick_ns, now_ns)
        assert abs(clock._at(now_ns) - WALL - index * tick_ns) <= tick_ns, index


def test_a_burst_after_a_pause_says_nothing_of_the_rate():
    clock, begin_ns, told_ns, now_ns = SimulatedClock(), time.monotonic_ns() - 10**10, WALL, 0
    for step_ms in [50] * 20 + [210, 5, 5, 50, 50]:
        now_ns += step_ms * 1_000_000
        told_ns += 50_000_000
        clock.update(told_ns, begin_ns + now_ns)
        assert abs(clock._at(begin_ns + now_ns + 45_000_000) - told_ns) <= 200_000_000


@pytest.mark.parametrize("period_ms", [10, 25, 40, 166, 333])
@pytest.mark.parametrize(
    ("before", "rate"), [(1, 0.2), (1, 0.1), (1, 0.5), (2, 1), (5, 1), (10, 1)]
)
def test_a_simulated_time_that_goes_slower_is_followed(before, rate, period_ms):
    begin_ns, told_ns, clock = time.monotonic_ns() - 10**11, WALL, SimulatedClock()
    for index in range(200):
        now_ns = begin_ns + index * period_ms * 1_000_000
        error_ns = clock._at(now_ns) - told_ns
        assert index <= 100 + CLOCK_MESSAGES or abs(error_ns) <= 10_000_000, index
        clock.update(told_ns, now_ns)
        told_ns += round((before if index < 100 else rate) * period_ms * 1_000_000)


@pytest.mark.parametrize("period_ms", [25, 166])
def test_two_first_messages_in_a_burst_say_nothing_of_the_rate_for_long(period_ms):
    begin_ns, clock = time.monotonic_ns() - 10**11, SimulatedClock()
    for index in range(100):
        late_ms = period_ms - 5 if index == 0 else 0
        told_ns, late_ns = index * period_ms * 1_000_000, late_ms * 1_000_000
        error_ns = clock._at(begin_ns + told_ns) - WALL - told_ns
        assert index <= CLOCK_MESSAGES or abs(error_ns) <= 10_000_000, index
        clock.update(WALL + told_ns, begin_ns + told_ns + late_ns)


def test_messages_at_one_instant_or_seconds_apart_are_followed():
    begin_ns, clock = time.monotonic_ns() - 10**12, SimulatedClock()
    clock.update(WALL - 2, begin_ns - 10**10)
    clock.update(WALL - 1, begin_ns - 10**10)
    for index in range(10):  # after a pause of 10 s, which nobody told
        told_ns = 2 * index * 10**9
        clock.update(WALL + told_ns, begin_ns + told_ns)
    assert abs(clock._at(begin_ns + told_ns + 10**9) - WALL - told_ns - 10**9) < 10_000_000


@pytest.mark.parametrize("period_ms", [4, 10, 33, 100])
@pytest.mark.parametrize(
    ("rate_at", "at_most"),
    [
        (lambda s: 1.0 if s < 5 else 3.0, 0.03),
        (lambda s: 3.0 if s < 5 else 1.0, 0.03),
        (lambda s: 0.75 + 0.25 * math.sin(s), 0.01),
        (lambda s: 0.6 + 0.4 * math.sin(2 * s), 0.03),
    ],
    ids=["faster", "slower", "wandering", "wandering fast"],
)
def test_a_simulated_time_follows_the_rate_of_its_clock(rate_at, at_most, period_ms):
    """Frames at 30 Hz have the time of the clock, whose messages are up to 3 ms under way."""
    begin_ns, clock, told_ns = time.monotonic_ns() - 10**11, SimulatedClock(), WALL
    late, suspect, frames = random.Random(7), 0, 0
    waiting = []
    for ms in range(20_000):
        now_ns = begin_ns + ms * 1_000_000
        told_ns += round(rate_at(ms / 1000) * 1_000_000)
        if ms % period_ms == 0:
            waiting.append((now_ns + late.randrange(3_000_000), told_ns))
        while waiting and waiting[0][0] <= now_ns:
            at_ns, time_ns = waiting.pop(0)
            clock.update(time_ns, at_ns)
        if ms > 1000 and ms % 33 == 0:
            frames += 1
            age_ns = clock._at(now_ns) - (told_ns - round(2_000_000 * rate_at(ms / 1000)))
            suspect += not -clock.behind_ns <= age_ns < 50_000_000
    assert suspect <= at_most * frames, f"{suspect} of {frames}"


@pytest.mark.parametrize(("waited_ns", "known_ns"), [(5, 5), (-1, 0), (10**9, 0), (10**18, 0)])
def test_a_wait_that_cannot_be_is_none(waited_ns, known_ns):
    assert since_receipt(waited_ns) == known_ns


@pytest.mark.parametrize("step_ms", [0, -500])
def test_a_simulated_time_that_pauses_or_goes_back_a_little_is_followed_at_once(step_ms):
    """Messages every 10 ms: a second, a pause of 600 ms or a step back, half a second more."""
    begin_ns, tick_ns = time.monotonic_ns() - 10**10, 10_000_000
    clock, told_ns = SimulatedClock(), WALL
    for index in range(210):
        if index == 100:
            told_ns += step_ms * 1_000_000 - (tick_ns if step_ms else 0)
        if step_ms or not 100 <= index < 160:
            told_ns += tick_ns
        now_ns = begin_ns + index * tick_ns
        clock.update(told_ns, now_ns)
        assert abs(clock._at(now_ns + tick_ns // 2) - told_ns) <= tick_ns, index
