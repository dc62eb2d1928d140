"""A camera's lane of the detector and damaged slots; without a graph."""

import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perception_nodes.core.frame import FrameHeader
from perception_nodes.core.scheduler import FOREVER_NS
from perception_nodes.nodes import lane as module
from perception_nodes.nodes.lane import Lane

pytestmark = pytest.mark.ros


@pytest.fixture
def lane(monkeypatch):
    """One to which slots come from a list, and which notes what it refuses."""
    made: Any = Lane.__new__(Lane)
    made.arrived, made.refused, made.begun = [], [], []
    made.slots = SimpleNamespace(receive=lambda: made.arrived.pop(0) if made.arrived else None)
    made.waiting = made._in_place = made._crop = None
    made._newest_ns = made._passed_since_ns = 0
    made.enabled = True
    made._size = SimpleNamespace(width=64, height=64)
    begin = SimpleNamespace(begin=lambda *frame: made.begun.append(frame), note=SimpleNamespace())
    made._seat = SimpleNamespace(lease=begin)
    made.topic = SimpleNamespace(listeners=0)
    made.pipeline = SimpleNamespace(refused=lambda header, error: str(error))
    monkeypatch.setattr(Lane, "end", lambda self, record: made.refused.append(record))
    monkeypatch.setattr(module.frames, "check_slot", lambda *_: None)
    return made


def slot(ingested_ns):
    return SimpleNamespace(
        header=FrameHeader(ingested_ns=ingested_ns),
        payload=SimpleNamespace(nbytes=0),
        release=lambda: None,
    )


def test_one_damaged_time_costs_one_frame(lane):
    now_ns = time.monotonic_ns()
    lane.arrived = [slot(1 << 62)]
    assert not lane.receive()
    assert lane.refused == ["slot with a time in the future; its memory was damaged"]
    assert lane.begun[0][2] <= time.monotonic_ns(), "a successor gets no such time"
    lane.arrived = [slot(time.monotonic_ns())]
    assert lane.receive()
    assert now_ns < lane._newest_ns <= time.monotonic_ns()


def test_a_wrong_note_of_the_newest_frame_is_forgotten(lane, monkeypatch):
    lane.sit(SimpleNamespace(lease=SimpleNamespace(note=SimpleNamespace(ingested_ns=1 << 62))))
    assert lane._newest_ns <= time.monotonic_ns()
    lane._newest_ns = 1 << 62
    lane.arrived = [slot(1)]
    assert not lane.receive()
    monkeypatch.setattr(module, "NOTES_LAST_NS", -1)
    lane.arrived = [slot(2), slot(3)]
    assert lane.receive()
    assert lane.header.ingested_ns == 3


def test_only_regions_of_the_waiting_frame_are_looked_at_and_all_are_released(lane):
    size = {"width": 64, "height": 64, "source_width": 640, "source_height": 640}
    pixels, released, crops = np.zeros(64 * 64 * 3, np.uint8), [], []
    for sequence in (6, 7, 7, 8):
        header = FrameHeader(sequence=sequence, scale_x=1, scale_y=1, pad_x=-len(crops), **size)
        release = partial(released.append, len(crops))
        crops.append(SimpleNamespace(header=header, payload=pixels, release=release))
    lane.waiting = SimpleNamespace(header=FrameHeader(sequence=7, **size), release=lambda: None)
    lane._crops = SimpleNamespace(receive=lambda: crops.pop(0) if crops else None)
    lane._shape = (64, 64, 3)
    assert lane.next_crop(lambda: True, FOREVER_NS) is None, "a frame waits"
    assert len(crops) == 4
    for region in (1, 2):
        header, shown = lane.next_crop(lambda: False, FOREVER_NS)
        assert (-header.pad_x, shown.shape) == (region, (64, 64, 3))
    assert released == [0, 1]
    assert lane.next_crop(lambda: False, FOREVER_NS) is None, "none comes within a moment"
    lane.drop()
    assert released == [0, 1, 2, 3]
