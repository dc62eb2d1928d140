"""Message stamps on the monotonic clock."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.clock import MAX_SANE_AGE_NS, CaptureTime, SystemClock, capture_time

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


def test_the_system_clock_reads_the_clocks_of_this_machine():
    clock = SystemClock()
    before = time.monotonic_ns(), time.time_ns()
    read = clock.monotonic_ns(), clock.realtime_ns()
    after = time.monotonic_ns(), time.time_ns()
    assert before[0] <= read[0] <= after[0]
    assert before[1] <= read[1] <= after[1]
