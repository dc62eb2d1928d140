"""Times of files, stamps of streams, and the pictures that are missing between others."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.video.times import FileTimes, LossCounter, StreamClock

MS = 1_000_000


@given(st.lists(st.integers(0, 50 * MS), min_size=2, max_size=60), st.integers(-(10**12), 10**12))
def test_stamps_keep_the_streams_spacing_but_for_a_smaller_delay(delays_ns, origin_ns):
    """A frame is never stamped later than it arrived, and jitter alone never reaches a stamp."""
    clock, least_ns = StreamClock(), None
    for index, delay_ns in enumerate(delays_ns):
        presented_ns = index * 33 * MS
        arrived_ns = 10**18 + presented_ns + delay_ns
        stamp_ns = clock.stamp_ns(presented_ns + origin_ns, arrived_ns)
        least_ns = delay_ns if least_ns is None else min(least_ns, delay_ns)
        assert stamp_ns == 10**18 + presented_ns + least_ns
        assert stamp_ns <= arrived_ns


@pytest.mark.parametrize(
    ("sender_ms", "earlier_ms"),
    [(-40, 40), (0, 0), (30, 0), (-999, 999), (-1500, 0)],
    ids=["older", "at once", "of the future", "much older", "of another clock"],
)
@pytest.mark.parametrize("reports_from", [0, 10])
def test_stamps_go_over_to_the_clock_of_a_sender_by_a_millisecond_a_frame(
    sender_ms, earlier_ms, reports_from
):
    clock, last_ns = StreamClock(), 0
    for index in range(1200):
        presented_ns = 7 * 10**9 + index * 20 * MS
        arrived_ns = 10**18 + index * 20 * MS
        sender_ns = arrived_ns + sender_ms * MS - presented_ns
        reported_ns = sender_ns if index >= reports_from else None
        stamp_ns = clock.stamp_ns(presented_ns, arrived_ns, reported_ns)
        gone_over_ms = earlier_ms if not reports_from else max(index - reports_from + 1, 0)
        assert stamp_ns == arrived_ns - min(gone_over_ms, earlier_ms) * MS
        assert stamp_ns > last_ns
        last_ns = stamp_ns


def test_frames_of_no_time_are_dated_by_their_arrival():
    clock = StreamClock()
    assert [clock.stamp_ns(None, at_ns) for at_ns in (5, 7, 6)] == [5, 7, 6]


@pytest.mark.parametrize("step_s", [6, 25])
def test_our_clock_may_be_set_forward(step_s):
    clock = StreamClock()
    for index in range(100):
        arrived_ns = 10**18 + index * 40 * MS + (index >= 50) * step_s * 1000 * MS
        assert clock.stamp_ns(index * 40 * MS, arrived_ns) == arrived_ns


@pytest.mark.parametrize("held_up_ms", [700, 3000])
def test_what_a_network_holds_up_is_as_old_as_it_is(held_up_ms):
    """Its frames come at once when the network goes on, at ten times their rate."""
    clock = StreamClock()
    for index in range(200):
        presented_ns = index * 40 * MS
        since_ns = presented_ns - 100 * 40 * MS
        delay_ns = max(held_up_ms * MS - since_ns * 9 // 10, 0) if since_ns >= 0 else 0
        stamp_ns = clock.stamp_ns(presented_ns, 10**18 + presented_ns + delay_ns)
        assert stamp_ns == 10**18 + presented_ns


@pytest.mark.parametrize(
    ("presented_ms", "wanted_ms"),
    [
        ([None, None, None], [0, 100, 200]),
        ([7000, 7040, 7500], [0, 40, 500]),
        ([7000, None, 7150], [0, 100, 150]),
        ([7000, 7040, 0, 40, 7300], [0, 40, 140, 240, 300]),
    ],
)
def test_a_file_without_times_or_with_such_that_go_back_goes_on_at_its_rate(
    presented_ms, wanted_ms
):
    times = FileTimes(SimpleNamespace(time_base=Fraction(1, 1000)), 10.0)
    assert [times.next_ns(pts) for pts in presented_ms] == [at_ms * MS for at_ms in wanted_ms]


@pytest.mark.parametrize("jitter_ms", [0, 3])
@given(lost=st.sets(st.integers(6, 39)), broken=st.sets(st.integers(6, 39)))
def test_frames_that_did_not_arrive_show_in_the_times_of_the_others(jitter_ms, lost, broken):
    losses, jitter = LossCounter(), np.random.default_rng(0).uniform(-jitter_ms, jitter_ms, 41)
    counted, last, previous = 0, -1, 0
    for index in range(41):
        if index in lost:
            continue
        losses.follow(index * 40 * MS + round(jitter[index] * MS), "broken" * (index in broken))
        same_gap_twice, previous = index - last == previous > 1, index - last
        last = index
        counted += losses.take()[0]
        if same_gap_twice:  # that is taken for another rate
            return
    assert counted == len(lost | broken)


def test_a_camera_of_no_steady_rate_loses_nothing_by_its_times_alone():
    losses, at_ns = LossCounter(), 0
    for gap_ms in (40, 40, 80, 40, 120, 40, 40, 200, 40, 40):
        at_ns += gap_ms * MS
        losses.follow(at_ns, "")
        assert losses.take() == (0, "")


def test_gaps_that_the_demuxer_knows_are_counted_also_where_they_are_many():
    losses, counted = LossCounter(), 0
    for index in range(90):
        if index > 10 and index % 3 == 0:
            losses.expect_gap()
            continue
        losses.follow(index * 40 * MS, "")
        counted += losses.take()[0]
    assert counted == len(range(12, 87, 3)) + 1


@pytest.mark.parametrize("jump_s", [-3600, -6, -0.5, 6, 3600])
def test_a_stream_that_sets_its_clock_has_lost_nothing_and_is_dated_anew(jump_s):
    losses, clock = LossCounter(), StreamClock()
    for index in range(40):
        arrived_ns = 10**18 + index * 40 * MS
        presented_ns = index * 40 * MS + (index >= 20) * round(jump_s * 1000) * MS
        losses.follow(presented_ns, "")
        assert losses.take() == (0, "")
        assert clock.stamp_ns(presented_ns, arrived_ns) == arrived_ns
    losses.follow(presented_ns + 120 * MS, "")
    assert losses.take()[0] == 2
