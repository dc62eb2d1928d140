"""The frames that a report plays: all of a short drive, evenly fewer of a long one."""

import cv2
import numpy as np
import pytest

from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.report import film
from perception_nodes.report.annotate import AFTER_COLOUR, BEFORE_COLOUR, blank
from perception_nodes.report.changes import Change, ChangeKind
from perception_nodes.report.film import Film
from perception_nodes.report.recording import DetectedObject, FrameDetections, ReportedFrame

PICTURE = np.full((90, 160, 3), 120, np.uint8)
FOUND = FrameDetections(
    ("car",), np.array([0.75], np.float32), np.array([[20, 9, 40, 18]], np.float32)
)
BEFORE = DetectedObject("car", 0.5, (0.0, 0.0, 20.0, 18.0))


def moved(index):
    after = DetectedObject("car", 0.75, (20.0, 9.0, 40.0, 18.0))
    return Change(index, 0.0, ChangeKind.MOVED, BEFORE, after)


def reported(status):
    return ReportedFrame.of_record(FrameRecord(status=status), 0)


def filmed(count, changed, missed=()):
    made = Film()
    for index in range(count):
        report = reported(FrameStatus.LATE if index in missed else FrameStatus.OK)
        made.take(index, PICTURE, 4.0, report, FOUND, [moved(index)] if index in changed else [])
    assert made.taken == count
    return [frame["index"] for frame in made.frames()]


def test_what_is_drawn_need_not_be_ascii():
    assert cv2.__version__ < "5" or (blank(99, 40, "車") != blank(99, 40, "?")).any()
    blank(99, 40, "\udcff.jpg")  # as Python reads a name that is no UTF-8


def test_a_frame_has_its_objects_and_changes_in_shares_of_the_picture():
    made = Film()
    made.take(3, PICTURE, 4.0, None, FOUND, [moved(3)])
    (frame,) = made.frames()
    assert (frame["index"], frame["status"], frame["missed"]) == (3, "NO REPORT", True)
    assert frame["objects"] == [[0.5, 0.4, 1.0, 0.8, "car 0.75", "#3a9dff"]]
    assert frame["changed"] == [
        [0.0, 0.0, 0.5, 0.8, "car 0.50 before", BEFORE_COLOUR],
        [0.5, 0.4, 1.0, 0.8, "car 0.75 moved", AFTER_COLOUR],
    ]
    assert frame["picture"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(("count", "stride"), [(8, 1), (9, 2), (17, 4), (100, 16)])
def test_of_a_long_drive_evenly_spread_frames_are_kept(monkeypatch, count, stride):
    monkeypatch.setattr(film, "MAX_FRAMES", 8)
    assert filmed(count, set()) == list(range(0, count, stride))


def test_frames_that_changed_are_kept_until_they_alone_are_too_many(monkeypatch):
    monkeypatch.setattr(film, "MAX_FRAMES", 8)
    assert {5, 37, 77} <= set(filmed(100, {5, 37, 77}))
    assert {5, 37, 77} <= set(filmed(100, {}, missed={5, 37, 77}))


@pytest.mark.parametrize("marked", [range(100), range(50), range(7), range(1, 100, 2)])
def test_where_too_many_are_marked_the_whole_drive_is_shown_evenly(monkeypatch, marked):
    monkeypatch.setattr(film, "MAX_FRAMES", 8)
    for shown in (filmed(100, marked), filmed(100, (), missed=marked)):
        assert 4 <= len(shown) <= 8
        assert max(np.diff([*shown, 100])) <= 50
