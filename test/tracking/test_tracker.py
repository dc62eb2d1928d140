"""Identities, and what becomes of them when frames are late, lost, wrong or too many."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detections import detected

from perception_nodes.core.frame import MAX_DETECTIONS, STAMP_LIMIT_NS, DetectionRecord
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracker import MAX_TRACKS, Tracker
from perception_nodes.tracking.tracks import TrackingSettings, TrackState
from perception_nodes.transport.cdr_writer import write_tracks

START_NS = 10**9
PERIOD_NS = 33_333_333
CAR, TRUCK = 0, 1


def found(*rows, score=0.9, label=CAR):
    """Detections of one class and score."""
    return detected(rows, score, label)


def car(x, y=100.0):
    return (x, y, x + 60, y + 40)


def at(frame):
    return START_NS + frame * PERIOD_NS


@pytest.fixture
def tracker():
    return Tracker(classes=2)


def follow(tracker, frames, first=0):
    """A car that drives to the right."""
    return [int(tracker.take(at(n), found(car(6 * n)))[0]) for n in range(first, first + frames)]


def test_an_object_keeps_its_identity_and_has_a_velocity(tracker):
    assert set(follow(tracker, 20)) == {1}
    tracks = tracker.at(at(19))
    assert tracks.states.tolist() == [TrackState.TRACKED]
    assert tracks.hits.tolist() == [20] and tracks.misses.tolist() == [0]
    assert tracks.filters[0, motion.VELOCITY, 0] == pytest.approx(180, rel=0.03)
    assert tracks.boxes[0] == pytest.approx(car(6 * 19), abs=1)
    later = tracker.at(at(22))
    assert later.boxes[0] == pytest.approx(car(6 * 22), abs=2)
    assert later.unseen_s[0] == pytest.approx(3 * PERIOD_NS / 1e9)


def test_what_is_seen_once_is_new_and_what_is_not_seen_again_was_nothing(tracker):
    tracker.take(at(0), found(car(0)))
    assert tracker.at(at(0)).states.tolist() == [TrackState.NEW]
    tracker.take(at(1), found())
    assert len(tracker.at(at(1))) == 0


def test_a_hidden_object_coasts_with_growing_uncertainty_and_comes_back(tracker):
    follow(tracker, 10)
    variances = []
    for n in range(10, 20):
        tracker.take(at(n), found())
        tracks = tracker.at(at(n))
        assert tracks.states.tolist() == [TrackState.COASTED]
        assert tracks.misses.tolist() == [n - 9]
        variances.append(tracks.filters[0, motion.BOX_VARIANCE])
    assert (np.diff(variances, axis=0) > 0).all()
    assert follow(tracker, 1, first=20) == [1]


def test_lost_frames_change_nothing_but_the_uncertainty(tracker):
    """Time is that of the stamps: half of the frames give nearly the same velocity."""
    every, half = Tracker(2), Tracker(2)
    for n in range(40):
        every.take(at(n), found(car(6 * n)))
        if n % 2 == 0:
            half.take(at(n), found(car(6 * n)), frames_without=1)
    first, second = every.at(at(40)), half.at(at(40))
    assert second.frames_without == 1 and second.gap_ns == 2 * PERIOD_NS
    assert first.boxes[0] == pytest.approx(second.boxes[0], abs=1)
    assert (second.filters[0, motion.BOX_VARIANCE] > first.filters[0, motion.BOX_VARIANCE]).all()


def test_a_track_ends_when_no_frames_come_for_too_long_and_its_identity_is_gone(tracker):
    follow(tracker, 10)
    for silent_ns, left, reason in (
        (400_000_000, 1, "no detections for 0.40 s"),
        (1_001_000_000, 0, "no detections for 1.00 s: all tracks have ended"),
    ):
        tracker.coast(silent_ns)
        tracks = tracker.at(at(9) + silent_ns)
        assert (len(tracks), tracks.reason) == (left, reason)
    # Published as gone is gone, whatever the stamp of the next frame.
    assert follow(tracker, 1, first=10) == [2]


def test_a_gap_that_was_coasted_is_told_of_the_frame_after_it(tracker):
    follow(tracker, 5)
    tracker.coast(1_500_000_000)
    tracker.take(at(4) + 2 * 10**9, found())
    assert tracker.at(0).reason == "no detections for 2.00 s: all tracks have ended"


def test_how_late_frames_are_published_ends_no_track():
    tracker = Tracker(2, TrackingSettings(max_unseen_s=0.1))
    for n in range(10):
        missed = n == 5
        tracker.take(at(n), found() if missed else found(car(6 * n)))
        for late_ns in (120_000_000, 2 * 10**9):
            tracks = tracker.at(at(n) + late_ns)
            assert tracks.ids.tolist() == [1]
            assert tracks.unseen_s[0] == pytest.approx((late_ns + missed * PERIOD_NS) / 1e9)


@pytest.mark.parametrize("stamp_ns", [STAMP_LIMIT_NS - 1, -STAMP_LIMIT_NS])
def test_no_time_is_beyond_what_a_stamp_can_hold(tracker, stamp_ns):
    tracker.take(stamp_ns, found(car(0)))
    tracks = tracker.at(stamp_ns + 10**9)
    assert tracks.time_ns == min(stamp_ns + 10**9, STAMP_LIMIT_NS - 1)
    write_tracks(DetectionRecord(stamp_ns=stamp_ns), "front", tracks, [b"car", b"truck"])


def test_two_that_cross_keep_their_identities(tracker):
    for n in range(40):
        assert tracker.take(at(n), found(car(6 * n, 100), car(240 - 6 * n, 112))).tolist() == [1, 2]


def test_a_weak_detection_prolongs_a_track_and_begins_none(tracker):
    follow(tracker, 5)
    assert tracker.take(at(5), found(car(30), car(500), score=0.3)).tolist() == [1, 0]


def test_the_class_is_that_of_the_greatest_sum_of_scores_which_fades(tracker):
    votes = np.zeros(2)
    for n in range(30):
        label, score = (CAR, 0.6) if n < 20 and n != 4 else (TRUCK, 0.9)
        assert tracker.take(at(n), found(car(6 * n), label=label, score=score)).tolist() == [1]
        votes = 0.9 * votes + score * np.eye(2)[label]
        assert tracker.at(at(n)).classes.tolist() == [votes.argmax()]
    assert votes.argmax() == TRUCK  # of which there were fewer detections, but newer ones


def test_a_frame_that_was_overtaken_is_not_used_and_told(tracker):
    follow(tracker, 5)
    before = tracker.at(at(4)).filters
    for stamp_ns in (at(4), at(3)):
        assert tracker.take(stamp_ns, found(car(0))).tolist() == [0]
        assert "not used" in tracker.at(stamp_ns).reason
        assert tracker.at(stamp_ns).states.tolist() == [TrackState.COASTED]
    np.testing.assert_array_equal(tracker.at(at(4)).filters, before)
    assert follow(tracker, 1, first=5) == [1]
    assert tracker.at(at(5)).reason == ""


def test_a_clock_that_is_set_back_a_little_ends_all_tracks_with_the_second_frame(tracker):
    follow(tracker, 40)
    ids = [int(tracker.take(at(n), found(car(6 * n)))[0]) for n in range(15, 20)]
    assert ids == [0, 2, 2, 2, 2]
    assert tracker.at(at(19)).states.tolist() == [TrackState.TRACKED]
    tracker.take(at(10), found())
    tracker.take(at(11), found())
    assert "went back by 0.27 s: all tracks" in tracker.at(at(11)).reason


@pytest.mark.parametrize("step_ns", [0, -1000])
def test_a_clock_that_stands_or_falls_does_not_keep_what_is_no_longer_seen(tracker, step_ns):
    follow(tracker, 5)
    stamps = [at(4) + n * step_ns for n in range(1, 10)]
    for stamp_ns in stamps:
        tracker.take(stamp_ns, found())
    assert len(tracker.at(stamps[-1])) == 0
    for stamp_ns in (stamps[-1] + n * step_ns for n in range(1, 10)):
        tracker.take(stamp_ns, found(car(0)))
        assert len(tracker.at(stamp_ns)) <= 1
    assert tracker.next_id > 2, "what is seen now has a track"


@pytest.mark.parametrize(("jump_ns", "why"), [(-(10**10), "went back"), (10**10, "no detections")])
def test_a_clock_that_jumps_ends_all_tracks_and_they_begin_anew(tracker, jump_ns, why):
    start_ns = 10**12
    for n in range(5):
        tracker.take(start_ns + n * PERIOD_NS, found(car(6 * n)))
    for n in range(5, 10):
        ids = tracker.take(start_ns + jump_ns + n * PERIOD_NS, found(car(6 * n)))
        assert ids.tolist() == [2]
    tracker.take(start_ns + 2 * jump_ns, found())
    assert why in tracker.at(start_ns + 2 * jump_ns).reason


def test_what_is_no_box_belongs_to_no_track(tracker):
    bad = [(np.nan, 0, 10, 10), (0, 0, np.inf, 10), (5, 5, 5, 20)]
    bad += [(20, 20, 10, 10), (-1e9, 0, 1e9, 10)]
    assert tracker.take(at(0), found(*bad, car(0))).tolist() == [0] * len(bad) + [1]
    nan_score = replace(found(car(200)), scores=np.array([np.nan], np.float32))
    assert tracker.take(at(1), nan_score).tolist() == [0]
    assert np.isfinite(tracker.at(at(1)).filters).all()


def test_thousands_of_boxes_are_bounded(tracker):
    random = np.random.default_rng(0)
    for n in range(12):
        corner = random.uniform(0, 5000, (4000, 2))
        rows = np.concatenate([corner, corner + 20], axis=1)
        again = np.repeat(rows, 2, axis=0)[:4000]
        for step in (2 * n, 2 * n + 1):
            assert np.count_nonzero(tracker.take(at(step), found(*again))) <= MAX_DETECTIONS
            assert len(tracker.at(at(step))) <= MAX_TRACKS


rows = st.lists(
    st.tuples(
        st.floats(0, 300), st.floats(0, 300), st.floats(-5, 200), st.floats(-5, 200),
        st.floats(0.01, 1), st.integers(0, 1),
    ),
    max_size=12,
)  # fmt: skip
steps_ms = st.one_of(st.integers(1, 200), st.integers(-3000, 3000))


@settings(max_examples=150)
@given(st.lists(st.tuples(steps_ms, rows), max_size=25))
def test_any_drive(drive):
    """No identity is given twice, to two at once, or again after it was gone."""
    tracker, time_ns, ended, before = Tracker(2), 10**12, set(), set()
    for step_ms, objects in drive:
        time_ns += step_ms * 1_000_000
        values = np.array(objects, np.float64).reshape(-1, 6)
        boxes = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], axis=1)
        seen = detected(boxes, values[:, 4], values[:, 5])
        ids = [i for i in tracker.take(time_ns, seen).tolist() if i]
        tracks = tracker.at(time_ns + 20_000_000)
        now = tracks.ids.tolist()
        assert len(set(ids)) == len(ids) and set(ids) <= set(now)
        assert sorted(set(now)) == now and max(now, default=0) < tracker.next_id
        assert not ended & set(now)
        ended |= before - set(now)
        before = set(now)
        filters = tracks.filters
        assert np.isfinite(filters).all()
        variance, covariance = filters[:, motion.BOX_VARIANCE], filters[:, motion.COVARIANCE]
        assert (variance > 0).all() and (filters[:, motion.VELOCITY_VARIANCE] > 0).all()
        assert (covariance**2 <= variance * filters[:, motion.VELOCITY_VARIANCE] * (1 + 1e-9)).all()
        assert (filters[:, motion.BOX, 2:] >= motion.MIN_SIDE_PX).all()
        assert (tracks.unseen_s <= tracks.age_s).all()
