"""What a feed gives a page: each entry once, everything bounded, nothing of a missed frame lost."""

import pytest
from fake_graph import COUNTS, nominal, pass_s, picture, report

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.view.feed import MAX_LOG, MAX_MISSES, Feed
from perception_nodes.view.history import MAX_CAUSES


@pytest.fixture
def feed():
    return Feed(("front", "rear"), 10.0, 1.0)


def facts(feed):
    return feed.update(0)[0]


def front(feed, cursor=0):
    return feed.update(cursor)[0]["cameras"]["front"]


def test_each_browser_gets_each_frame_once(feed):
    def latencies(cursor):
        return [ms for _, ms, *_ in front(feed, cursor)["frames"]]

    feed.frame("front", report(ms=6.0))
    cursor = feed.update(0)[2]
    feed.frame("front", report(ms=7.0))
    assert (latencies(0), latencies(cursor)) == ([6.0, 7.0], [7.0])
    assert latencies(feed.update(0)[2]) == []


def test_figures_are_of_the_last_minute(feed, monkeypatch):
    for status, ms in ((FrameStatus.OK, 6.0), (FrameStatus.LATE, 12.0), (FrameStatus.OK, 8.0)):
        feed.frame("front", report(status, ms))
    summary = front(feed)["summary"]
    assert summary["frames_in"] == 3 and round(summary["miss_rate"], 2) == 0.33
    assert (summary["latency_ms"]["p50"], summary["latency_ms"]["max"]) == (8.0, 12.0)
    pass_s(monkeypatch, 61)
    assert front(feed)["summary"]["frames_in"] == 0


def test_a_missed_frame_is_kept_with_its_picture_reason_and_stages(feed):
    feed.frame("front", report(FrameStatus.LATE, 13.0, "late"), picture())
    (miss,) = front(feed)["misses"]
    assert (miss["status"], miss["ms"], miss["reason"]) == (FrameStatus.LATE, 13.0, "late")
    assert [*miss["stages"]] == [*STAGES] and abs(sum(miss["stages"].values()) - 13.0) < 0.01
    assert feed.missed_picture(miss["n"]) == picture().jpeg
    assert feed.missed_picture(miss["n"] + 1) is None


def test_pictures_are_dropped_before_facts(feed):
    assert feed.wants_picture("front", FrameStatus.OK)
    feed.frame("front", report(), picture())
    assert not feed.wants_picture("front", FrameStatus.OK)
    assert feed.wants_picture("front", FrameStatus.LATE)
    feed.frame("front", report(FrameStatus.LATE), picture())
    assert not feed.wants_picture("front", FrameStatus.LATE)
    feed.frame("front", report(FrameStatus.LATE))
    assert [miss["pictured"] for miss in front(feed)["misses"]] == [True, False]


def test_nothing_grows_without_an_end(feed):
    for number in range(3 * MAX_LOG):
        feed.frame("front", report(FrameStatus.LATE), picture())
        feed.health("front", number % 2, "x", [], COUNTS)
    kept = [serial for serial in range(13 * MAX_LOG) if feed.missed_picture(serial)]
    assert [miss["n"] for miss in front(feed)["misses"]] == kept and len(kept) == MAX_MISSES
    assert len(facts(feed)["log"]) == MAX_LOG


def test_a_fault_is_logged_when_it_begins_and_ends_not_when_its_numbers_change(feed):
    nominal(feed)
    for ms in (310, 320):
        feed.health("front", HealthMode.UNSAFE, "blind", [f"no frame for {ms} ms"], COUNTS)
    nominal(feed)
    assert [(entry["kind"], entry["text"]) for entry in facts(feed)["log"]] == [
        ("NOMINAL", "start → NOMINAL: detections arrive in time"),
        ("UNSAFE", "NOMINAL → UNSAFE: blind"),
        ("fault", "no frame for 310 ms"),
        ("NOMINAL", "UNSAFE → NOMINAL: detections arrive in time"),
        ("over", "over: no frame for 320 ms"),
    ]


def test_each_request_to_stop_is_kept_with_its_causes(feed):
    feed.safe_stop(False)
    feed.health("rear", HealthMode.UNSAFE, "blind", [], COUNTS)
    for requested in (True, True, False):
        feed.safe_stop(requested)
    stops = [(stop["on"], stop["text"]) for stop in facts(feed)["stops"]]
    assert stops == [(True, "rear: blind"), (False, "rear: blind")]


def test_health_and_the_last_picture_have_an_age(feed, monkeypatch):
    nominal(feed)
    feed.frame("front", report(), picture())
    for seconds in (0, 3):
        pass_s(monkeypatch, seconds)
        ages = front(feed)["health_age"], front(feed)["picture"]["age"]
        assert all(seconds <= age < seconds + 3 for age in ages)


def test_causes_are_counted_by_stage_over_a_minute_ten_and_since_the_start(feed, monkeypatch):
    def skipped(left_ms):
        feed.frame("front", report(FrameStatus.SKIPPED_LATE, 6.0, f"{left_ms} ms are left"))

    skipped(2.1)
    skipped(3.2)
    pass_s(monkeypatch, 120)
    for _ in range(2):
        feed.frame("front", report(FrameStatus.LATE, 20.0))
    pass_s(monkeypatch, 140)
    skipped(1.9)
    late, skip = (FrameStatus.LATE, FrameStatus.SKIPPED_LATE)
    rows = front(feed)["causes"]
    assert [row[1:] for row in rows] == [
        [late, "inference", "published after the deadline", 2, 2, 2],
        [skip, "inference", "1.9 ms are left", 1, 3, 3],
    ]
    assert {miss["cause"] for miss in front(feed)["misses"]} == {row[0] for row in rows}
    pass_s(monkeypatch, 1000)
    assert [row[4:] for row in front(feed)["causes"]] == [[0, 0, 3], [0, 0, 2]]


def test_causes_are_bounded_and_no_frame_is_left_out(feed):
    for number in range(200):
        feed.frame("front", report(FrameStatus.FAILED, 1.0, f"error {'x' * number}"))
    rows = front(feed)["causes"]
    assert len(rows) == MAX_CAUSES + 1 and sum(row[6] for row in rows) == 200


def test_an_hour_is_kept_by_the_worst_frame_of_each_interval(feed, monkeypatch):
    feed.frame("front", report(ms=6.0, sequence=1))
    feed.frame("front", report(FrameStatus.LATE, 30.0, sequence=2))
    feed.frame("front", report(ms=7.0, sequence=3))
    pass_s(monkeypatch, 70)
    feed.frame("front", report(sequence=4))
    intervals = front(feed)["intervals"]
    assert sum(frames for _, frames, *_ in intervals) == 3
    assert [one[2:] for one in intervals if one[2]] == [[1, 30.0, FrameStatus.LATE, 2]]
    known = feed.frame_facts("front", 2)
    assert known is not None and known["ms"] == 30.0
    assert feed.frame_facts("front", 1) is None and feed.frame_facts("nobody", 2) is None


def test_reports_that_the_watchdog_counted_and_nobody_brought_are_known(feed):
    counts = dict.fromkeys(COUNTS, 0)
    for ok, shown in ((100, 0), (160, 20)):
        for _ in range(shown):
            feed.frame("front", report())
        feed.health("front", HealthMode.NOMINAL, "", [], counts | {"OK": ok})
    assert front(feed)["summary"]["unseen"] == 40


def test_a_page_knows_how_far_it_is_behind(feed, monkeypatch):
    feed.turned()
    feed.frame("front", report())
    made = report()
    assert facts(feed)["turned"] < 1 and front(feed)["lag"] < 1
    pass_s(monkeypatch, 5)
    feed.frame("front", made)
    assert facts(feed)["turned"] >= 5 and front(feed)["lag"] >= 4.9
