"""What a feed gives a page: each entry once, everything bounded, nothing of a missed frame lost."""

from typing import Any

import pytest
from fake_graph import COUNTS, nominal, pass_s, picture, report

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.view.feed import MAX_LOG, MAX_MISSES, Feed


@pytest.fixture
def feed() -> Feed:
    return Feed(("front", "rear"), 10.0, 1.0)


def facts(feed: Feed) -> dict[str, Any]:
    return feed.update(0)[0]


def front(feed: Feed, cursor: int = 0) -> dict[str, Any]:
    return feed.update(cursor)[0]["cameras"]["front"]


def test_each_browser_gets_each_frame_once(feed: Feed) -> None:
    def latencies(cursor: int) -> list[float]:
        return [ms for _, ms, _ in front(feed, cursor)["frames"]]

    feed.frame("front", report(ms=6.0))
    cursor = feed.update(0)[2]
    feed.frame("front", report(ms=7.0))
    assert (latencies(0), latencies(cursor)) == ([6.0, 7.0], [7.0])
    assert latencies(feed.update(0)[2]) == []


def test_figures_are_of_the_last_minute(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    for status, ms in ((FrameStatus.OK, 6.0), (FrameStatus.LATE, 12.0), (FrameStatus.OK, 8.0)):
        feed.frame("front", report(status, ms))
    summary = front(feed)["summary"]
    assert summary["frames_in"] == 3 and round(summary["miss_rate"], 2) == 0.33
    assert (summary["latency_ms"]["p50"], summary["latency_ms"]["max"]) == (8.0, 12.0)
    pass_s(monkeypatch, 61)
    assert front(feed)["summary"]["frames_in"] == 0


def test_a_missed_frame_is_kept_with_its_picture_reason_and_stages(feed: Feed) -> None:
    feed.frame("front", report(FrameStatus.LATE, 13.0, "late"), picture())
    (miss,) = front(feed)["misses"]
    assert (miss["status"], miss["ms"], miss["reason"]) == (FrameStatus.LATE, 13.0, "late")
    assert [*miss["stages"]] == [*STAGES] and abs(sum(miss["stages"].values()) - 13.0) < 0.01
    assert feed.missed_picture(miss["n"]) == picture().jpeg
    assert feed.missed_picture(miss["n"] + 1) is None


def test_pictures_are_dropped_before_facts(feed: Feed) -> None:
    assert feed.wants_picture("front", FrameStatus.OK)
    feed.frame("front", report(), picture())
    assert not feed.wants_picture("front", FrameStatus.OK)
    assert feed.wants_picture("front", FrameStatus.LATE)
    feed.frame("front", report(FrameStatus.LATE), picture())
    assert not feed.wants_picture("front", FrameStatus.LATE)
    feed.frame("front", report(FrameStatus.LATE))
    assert [miss["pictured"] for miss in front(feed)["misses"]] == [True, False]


def test_nothing_grows_without_an_end(feed: Feed) -> None:
    for number in range(3 * MAX_LOG):
        feed.frame("front", report(FrameStatus.LATE), picture())
        feed.health("front", number % 2, "x", [], COUNTS)
    kept = [serial for serial in range(12 * MAX_LOG) if feed.missed_picture(serial)]
    assert [miss["n"] for miss in front(feed)["misses"]] == kept and len(kept) == MAX_MISSES
    assert len(facts(feed)["log"]) == MAX_LOG


def test_a_fault_is_logged_when_it_begins_and_ends_not_when_its_numbers_change(feed: Feed) -> None:
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


def test_each_request_to_stop_is_kept_with_its_causes(feed: Feed) -> None:
    feed.safe_stop(False)
    feed.health("rear", HealthMode.UNSAFE, "blind", [], COUNTS)
    for requested in (True, True, False):
        feed.safe_stop(requested)
    stops = [(stop["on"], stop["text"]) for stop in facts(feed)["stops"]]
    assert stops == [(True, "rear: blind"), (False, "rear: blind")]


def test_health_and_the_last_picture_have_an_age(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    nominal(feed)
    feed.frame("front", report(), picture())
    for seconds in (0, 3):
        pass_s(monkeypatch, seconds)
        ages = front(feed)["health_age"], front(feed)["picture"]["age"]
        assert all(seconds <= age < seconds + 3 for age in ages)
