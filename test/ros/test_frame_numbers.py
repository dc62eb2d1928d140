"""Which of a camera's numbered frames are new, and which are missing."""

from types import SimpleNamespace

import pytest

from perception_nodes.core.frame import MAX_GAP
from perception_nodes.graph.topics import info_topic
from perception_nodes.nodes import preprocess_node
from perception_nodes.nodes.frame_numbers import FrameNumbers
from perception_nodes.nodes.preprocess_node import PreprocessNode


def test_the_first_frame_of_a_source_misses_nothing():
    assert list(FrameNumbers().missing_before(1, 100)) == []


def test_what_a_camera_has_lost_before_its_first_frame_is_missing():
    numbers = FrameNumbers()
    assert list(numbers.missing_before(1, 3, lost=3)) == [0, 1, 2]
    assert list(numbers.missing_before(2, 100, lost=2)) == [98, 99]
    assert list(numbers.missing_before(2, 102, lost=1)) == [101]
    assert list(numbers.missing_before(3, 1, lost=5)) == [0]


def test_gaps_are_missing_in_each_source_by_itself():
    numbers = FrameNumbers()
    numbers.missing_before(1, 5)
    numbers.missing_before(2, 50)
    assert list(numbers.missing_before(1, 8)) == [6, 7]
    assert list(numbers.missing_before(2, 51)) == []


def test_numbers_that_begin_anew_miss_nothing():
    numbers = FrameNumbers()
    numbers.missing_before(1, 5)
    assert list(numbers.missing_before(1, 0)) == []


def test_what_a_predecessor_took_is_not_new_and_what_it_missed_is_missing():
    numbers = FrameNumbers()
    numbers.take_over({7: 90, 1: 5})
    assert numbers.missing_before(1, 5) is None
    assert list(numbers.missing_before(1, 8)) == [6, 7]
    assert list(numbers.missing_before(1, 3)) == [], "the camera was restarted"
    assert numbers.missing_before(7, 90) is None, "the last frame of the camera before"
    assert list(numbers.missing_before(7, 92)) == [91]


def test_numbers_that_begin_anew_or_stand_still_are_new_after_a_takeover():
    numbers = FrameNumbers()
    numbers.take_over({1: 10_000, 2: 0})
    assert list(numbers.missing_before(1, 0)) == []
    assert list(numbers.missing_before(1, 1)) == []
    standing = [numbers.missing_before(2, 0) for _ in range(100)]
    assert 0 < standing.count(None) < 20


def preprocess(told, video=None):
    """What of the node counts its frames; reports go to a list."""
    return SimpleNamespace(
        _numbers=FrameNumbers(),
        _video=video,
        _sender=0,
        _topic=None,
        lease=SimpleNamespace(
            take=lambda source, number: None, taken=dict, note=SimpleNamespace(source=0)
        ),
        _preprocessor=SimpleNamespace(placer=SimpleNamespace(unfit="", is_fault=False)),
        _told="",
        sign=lambda: None,
        _enter=lambda *_: None,
        _end=lambda record, status, reason: told.append(reason),
        _reject=lambda reason, received_ns: told.append(reason),
    )


@pytest.mark.parametrize("gap", [3, MAX_GAP, MAX_GAP + 1, 42_000, 2**64 - 100])
def test_of_a_long_gap_one_report_tells(gap):
    """The camera went on while nobody took its frames."""
    told = []
    node, is_new = preprocess(told), PreprocessNode._is_new
    assert is_new(node, 1, 10, 0)
    assert told == []
    assert is_new(node, 1, 11 + gap, 0)
    if gap <= MAX_GAP:
        assert len(told) == gap
    else:
        assert told == [f"one report for {gap} frames that were lost in a row"]


@pytest.mark.parametrize(
    ("images", "info"),
    [
        ("image", "camera_info"),
        ("/image", "/camera_info"),
        ("camera/image_raw", "camera/camera_info"),
        ("~/image", "~/camera_info"),
    ],
)
def test_camera_info_lies_beside_the_images(images, info):
    assert info_topic(images) == info


def test_video_waits_for_a_key_frame_wherever_packets_may_be_missing():
    """Behind a gap, from another publisher, and where another node has taken them meanwhile."""
    waits = []
    node = preprocess([], SimpleNamespace(interrupt=waits.append))

    def interrupted(source, number):
        waits.clear()
        assert PreprocessNode._is_new(node, source, number, 0)
        return bool(waits)

    interrupted(1, 10)
    assert not interrupted(1, 11)
    assert interrupted(1, 13)
    assert interrupted(3, 0)
    assert not interrupted(3, 1)
    PreprocessNode.take_over(node, False)
    assert interrupted(3, 2)
    assert not interrupted(3, 3)


@pytest.mark.parametrize("source", ["dds", "shm"])
def test_a_slow_camera_is_silent_only_after_the_time_that_it_may_take(source, monkeypatch):
    """0.5 Hz, where a frame may take 3 s; and who takes over does not know what came before."""
    told, clock = [], SimpleNamespace(s=1000.0)
    facts = SimpleNamespace(received=0, lost=0)
    node = preprocess([])
    node.lease.note.source = 1
    node.settings = SimpleNamespace(camera="front", source=source, no_frame_ms=3000.0)
    node._topic = node._camera = None
    node._input, node._working = SimpleNamespace(tell=told.append), True
    node._came, node._look_due, node.endpoint = 0, SimpleNamespace(due=lambda: True), None
    now = SimpleNamespace(monotonic_ns=lambda: round(clock.s * 1e9))
    monkeypatch.setattr(preprocess_node, "time", now)
    monkeypatch.setattr(preprocess_node, "camera_senders", lambda endpoint, camera: 1)
    monkeypatch.setattr(preprocess_node, "trouble_of", lambda facts: "silent")
    monkeypatch.setattr(preprocess_node, "channel_trouble", lambda *_: "silent")
    if source == "dds":
        node._topic = SimpleNamespace(look=lambda: facts, open=lambda: None)
    else:
        node._camera = object()

    def look(after_s):
        told.clear()
        clock.s += after_s
        PreprocessNode._look_after_camera(node)
        return told

    PreprocessNode.take_over(node, False)
    assert look(0.5) == []
    assert look(1) == [None]
    assert look(1.4) == [None]
    assert look(0.2) == ["silent"]
    node.lease.note.source = 0
    PreprocessNode.take_over(node, False)
    assert look(1.1) == ["silent"], "nobody has ever had a frame"
