"""What a page is told: each entry once, everything bounded, nothing of a missed frame lost."""

import time

from fake_graph import COUNTS, nominal, picture, report

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.view.feed import MAX_LOG, MAX_MISSES, Feed


def feed(rate_hz: float = 30.0, *cameras: str) -> Feed:
    return Feed(cameras or ("front",), 10.0, rate_hz)


def test_each_browser_gets_each_frame_once() -> None:
    told = feed()
    told.frame("front", report(ms=6.0))
    first = told.update(0)
    told.frame("front", report(ms=7.0))
    assert [ms for _, ms, _ in first.facts["cameras"]["front"]["frames"]] == [6.0]
    assert [ms for _, ms, _ in told.update(first.cursor).facts["cameras"]["front"]["frames"]] == [7]
    assert [ms for _, ms, _ in told.update(0).facts["cameras"]["front"]["frames"]] == [6.0, 7.0]
    assert told.update(told.update(0).cursor).facts["cameras"]["front"]["frames"] == []


def test_figures_are_of_the_last_minute() -> None:
    told = feed()
    for status, ms in ((FrameStatus.OK, 6.0), (FrameStatus.LATE, 12.0), (FrameStatus.OK, 8.0)):
        told.frame("front", report(status, ms))
    summary = told.update(0).facts["cameras"]["front"]["summary"]
    assert summary["frames_in"] == 3 and round(summary["miss_rate"], 2) == 0.33
    assert (summary["latency_ms"]["p50"], summary["latency_ms"]["max"]) == (8.0, 12.0)
    one = told._cameras["front"]
    one.forget(time.monotonic_ns() + 1)
    assert not one.reports


def test_a_missed_frame_is_kept_with_its_picture_reason_and_stages() -> None:
    told = feed()
    told.frame("front", report(FrameStatus.LATE, 13.0, "late"), picture())
    (miss,) = told.update(0).facts["cameras"]["front"]["misses"]
    assert (miss["status"], miss["ms"], miss["reason"]) == (FrameStatus.LATE, 13.0, "late")
    assert [*miss["stages"]] == [*STAGES] and abs(sum(miss["stages"].values()) - 13.0) < 0.01
    assert told.missed_picture(miss["n"]) == picture().jpeg
    assert told.missed_picture(miss["n"] + 1) is None


def test_pictures_are_dropped_before_facts() -> None:
    told = feed(rate_hz=1.0)
    assert told.wants_picture("front", FrameStatus.OK)
    told.frame("front", report(), picture())
    assert not told.wants_picture("front", FrameStatus.OK)
    assert told.wants_picture("front", FrameStatus.LATE)
    told.frame("front", report(FrameStatus.LATE), picture())
    assert not told.wants_picture("front", FrameStatus.LATE)
    told.frame("front", report(FrameStatus.LATE))
    has_picture = [
        m["objects"] is not None for m in told.update(0).facts["cameras"]["front"]["misses"]
    ]
    assert has_picture == [True, False]


def test_nothing_grows_without_an_end() -> None:
    told = feed()
    for number in range(3 * MAX_LOG):
        told.frame("front", report(FrameStatus.LATE), picture())
        told.health("front", number % 2, "x", [], COUNTS)
    one = told._cameras["front"]
    assert len(one.misses) == len(one.kept) == MAX_MISSES
    assert len(told.update(0).facts["log"]) == MAX_LOG


def test_a_fault_is_logged_when_it_begins_and_ends_not_when_its_numbers_change() -> None:
    told = feed()
    nominal(told)
    for ms in (310, 320):
        told.health("front", HealthMode.UNSAFE, "blind", [f"no frame for {ms} ms"], COUNTS)
    nominal(told)
    log = told.update(0).facts["log"]
    assert [(entry["kind"], entry["text"]) for entry in log] == [
        ("NOMINAL", "start → NOMINAL: detections arrive in time"),
        ("UNSAFE", "NOMINAL → UNSAFE: blind"),
        ("fault", "no frame for 310 ms"),
        ("NOMINAL", "UNSAFE → NOMINAL: detections arrive in time"),
        ("over", "over: no frame for 320 ms"),
    ]


def test_each_request_to_stop_is_kept_with_its_causes() -> None:
    told = feed(30.0, "front", "rear")
    told.safe_stop(False)
    told.health("rear", HealthMode.UNSAFE, "blind", [], COUNTS)
    for requested in (True, True, False):
        told.safe_stop(requested)
    stops = told.update(0).facts["stops"]
    assert [(stop["on"], stop["text"]) for stop in stops] == [
        (True, "rear: blind"),
        (False, "rear: blind"),
    ]


def test_a_silent_watchdog_is_told_by_the_age_of_its_word() -> None:
    told = feed()
    nominal(told)
    told._cameras["front"].health_ns -= 3_000_000_000
    assert told.update(0).facts["cameras"]["front"]["health_age"] >= 3


def test_who_comes_later_is_told_the_age_of_the_last_picture() -> None:
    told = feed()
    told.frame("front", report(), picture())
    assert 0 <= told.update(0).facts["cameras"]["front"]["picture"]["age"] < 3
    told._cameras["front"].pictured_ns -= 3_000_000_000
    assert told.update(0).facts["cameras"]["front"]["picture"]["age"] >= 3
