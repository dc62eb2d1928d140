"""When a frame is looked at again, with a clock and a backend of the test's own."""

from collections import deque

import numpy as np
import pytest
from fake_clock import FakeClock

from perception_nodes.core.decode import AbsurdOutput
from perception_nodes.core.frame import (
    CROWDED,
    MAX_LOOKS,
    Detections,
    FrameFlag,
    FrameHeader,
    FrameStatus,
    blame_looks,
    looks_ms,
    stage_durations_ms,
)
from perception_nodes.core.geometry import Letterbox
from perception_nodes.core.inference import BackendError, BackendLost, Candidate, HeadTensors
from perception_nodes.core.looking import FORGIVEN_EVERY, PATIENCE, Looking
from perception_nodes.core.merging import merge_settings
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.core.prediction import WINDOW
from perception_nodes.core.scheduler import FOREVER_NS
from perception_nodes.preprocess.placement import Placement

MS = 1_000_000
INPUT, SOURCE, AXIS_PX = (64, 64), (640, 640), 200
PIXELS = np.zeros((64, 64, 3), np.uint8)


class OneBox:
    """Finds a box in the middle of the input, a fifth of it wide."""

    def decode(self, boxes, classes):
        box = np.array([[26, 26, 38, 38]], np.float32)
        return Detections(box, np.array([0.5], np.float32), np.array([0]))


class Rig:
    """A camera whose frames come every 33 ms; its backend takes `costs_ms`, one after the other."""

    def __init__(self, costs_ms=(2.0,), most=MAX_LOOKS, until_ms=0.0, first_ms=2.0):
        self.clock, self.error, self.calls = FakeClock(), None, 0
        self.costs_ns = deque(round(ms * MS) for ms in costs_ms)
        models = [Candidate("toy", self, OneBox(), round(first_ms * MS))]
        self.pipeline = Pipeline(models, self.clock, skip_late=True)
        settings = merge_settings(["car"])
        self.looking = Looking(self.pipeline, self.clock, INPUT, most, until_ms, settings)
        self.free_ns, self.asked, self.sequence, self.waits_after = FOREVER_NS, [], 0, 99

    def infer(self, image):
        self.calls += 1
        self.clock.now_ns += self.costs_ns[0]
        self.costs_ns.rotate(-1)
        if self.error is not None and self.calls > 1:
            raise self.error
        return HeadTensors([], [])

    def header(self, box):
        header = FrameHeader(sequence=self.sequence, capture_ns=self.begun_ns)
        Placement(box, *SOURCE).describe(header, copies=0)
        header.ingested_ns, header.preprocessed_ns = self.begun_ns, self.begun_ns + MS // 2
        header.deadline_ns = self.begun_ns + 10 * MS
        return header

    def frame(self, flags=0, come=MAX_LOOKS):
        """One frame, of whose regions `come`; its record and its objects."""
        self.begun_ns, self.calls = 33 * MS * self.sequence, 0
        self.clock.now_ns = self.begun_ns + MS // 2
        header = self.header(Letterbox.fit(*SOURCE, *INPUT))
        header.flags, header.looks = flags, min(come, len(self.asked))
        header.camera_matrix[:] = header.rectified_matrix[:] = (640, 640, 320, AXIS_PX)
        crops = iter(self.asked[:come])

        def next_crop(until_ns):
            region = next(crops, None)
            if region is None or self.calls > self.waits_after:
                return None
            crop = self.header(Letterbox(64, 64, 64, 64, 0, 0, 1.0, 1.0))
            crop.pad_x, crop.pad_y = (-side for side in region)
            return crop, PIXELS

        self.sequence += 1
        record, found = self.pipeline.detect(header, PIXELS)
        if found is not None:
            free_ns = self.begun_ns + self.free_ns
            found = self.looking.again(record, found, header, free_ns, next_crop)
            self.clock.now_ns += MS // 4
            record = self.pipeline.published(record)
            wanted = self.looking.ask()
            self.asked = [(look.x_offset, look.y_offset) for look in wanted.looks] if wanted else []
        return record, found


@pytest.fixture
def rig():
    return Rig()


def test_regions_are_asked_for_and_looked_at_while_there_is_time(rig):
    record, found = rig.frame()
    assert (len(found), record.looks, len(rig.asked)) == (1, [], 2)
    asked = rig.asked
    record, found = rig.frame()
    # Out after 0.5 + 2 + 2 * 2 + 0.25 ms, of the 7 that looks may use.
    assert [(look.x_offset, look.y_offset) for look in record.looks] == asked
    assert [(look.width, look.height, look.cost_ms) for look in record.looks] == [(64, 64, 2.0)] * 2
    assert record.detections == len(found) == 3
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert {*map(tuple, centres.tolist())} == {(320, 320), *((x + 32, y + 32) for x, y in asked)}
    assert record.status == FrameStatus.OK
    assert (record.published_ns - record.capture_ns) / MS == 6.75
    assert stage_durations_ms(record)["postprocess"] == pytest.approx(0, abs=1e-5)
    assert stage_durations_ms(record)["publish"] == 0.25


@pytest.mark.parametrize(
    ("limit", "looks"),
    [
        ({}, 2),
        ({"most": 1}, 1),
        ({"until_ms": 9.9}, 3),
        ({"until_ms": 4.0}, 0),
        ({"until_ms": 50.0}, 3),
        ({"free_ns": 6 * MS}, 1),
        ({"free_ns": 0}, 0),
        ({"waits_after": 1}, 1),
        ({"waits_after": 0}, 0),
    ],
)
def test_each_limit_ends_the_looks(limit, looks):
    settings = {name: limit.pop(name) for name in ("most", "until_ms") if name in limit}
    rig = Rig(**settings)
    for name, value in limit.items():
        setattr(rig, name, value)
    for _ in range(10):
        record, _ = rig.frame()
        assert record.published_ns < record.deadline_ns
    assert len(record.looks) == looks
    assert rig.calls == 1 + looks


def test_looks_that_take_longer_than_expected_are_forgiven_slowly_and_the_model_stays(rig):
    for _ in range(10):
        rig.frame()
    usual = rig.pipeline.costs()
    rig.costs_ns = deque([2 * MS, 7 * MS, 7 * MS])
    rig.frame()
    rig.costs_ns = deque([2 * MS])
    looks = [len(rig.frame()[0].looks) for _ in range(2 * FORGIVEN_EVERY)]
    assert rig.pipeline.costs() == usual
    assert looks[: FORGIVEN_EVERY - 2] == [0] * (FORGIVEN_EVERY - 2)
    assert looks[-1] == 1, "a look may cost as much as the whole frame with its publication"


def test_a_frame_that_looks_made_late_says_so(rig):
    rig.frame()
    rig.costs_ns = deque([2 * MS, 9 * MS])
    record, _ = rig.frame()
    blame_looks(record)
    assert (record.status, record.reason) == (FrameStatus.LATE, b"second looks took 9.0 ms")


def test_a_network_that_was_slow_when_it_was_loaded_is_not_taken_for_slow_for_ever():
    rig = Rig(first_ms=6.0)
    assert [rig.frame()[0].looks for _ in range(FORGIVEN_EVERY)][-1] == []
    for _ in range(3 * WINDOW):  # what the whole frame costs is learned
        record, _ = rig.frame()
    assert len(record.looks) == 2


def test_a_network_that_leaves_no_time_is_run_once_and_asks_for_nothing():
    rig = Rig(costs_ms=[6.0], first_ms=6.0)
    frames = [rig.frame() for _ in range(3 * FORGIVEN_EVERY)]
    assert {record.status for record, _ in frames} == {FrameStatus.OK}
    assert rig.asked == [] and not any(record.looks for record, _ in frames)


@pytest.mark.parametrize("error", [BackendError("broke"), AbsurdOutput("absurd"), BackendLost("x")])
def test_a_look_that_fails_leaves_the_objects_of_the_whole_frame(rig, error):
    rig.frame()
    rig.error = error
    record, found = rig.frame()
    assert record.status == FrameStatus.OK
    assert (record.detections, len(found), rig.calls) == (1, 1, 2)
    assert record.reason == f"a second look failed: {error}".encode()
    assert looks_ms(record) == 2
    assert rig.pipeline.lost is (error if isinstance(error, BackendLost) else None)


def test_looks_at_rectified_frames_begin_where_the_axis_of_the_lens_is(rig):
    rig.frame(flags=FrameFlag.RECTIFIED)
    assert rig.asked[1][1] + 32 == pytest.approx(AXIS_PX, abs=8)
    record, found = rig.frame(flags=FrameFlag.RECTIFIED)
    assert len(record.looks) == 2 and len(found) == 3


def test_smaller_models_have_no_looks(rig):
    rig.frame()
    small = Candidate("tiny", rig, OneBox(), 2 * MS)
    slow = Candidate("toy", rig, OneBox(), 30 * MS)
    rig.pipeline.replace([slow, small])
    record, _ = rig.frame()
    assert (record.model, record.looks, rig.asked) == (b"tiny", [], [])


def test_where_no_regions_come_few_are_asked_for(rig):
    asked = []
    for _ in range(10 * PATIENCE):
        rig.frame(come=0)
        asked.append(len(rig.asked) > 0)
    assert sum(asked) == PATIENCE + 9
    while not rig.asked:
        rig.frame()
    record, _ = rig.frame()
    assert len(record.looks) == 2 and rig.asked


def test_more_objects_than_there_is_room_for_are_told_after_looks_too(rig, monkeypatch):
    rig.frame()
    crowd = Detections(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, int), True)
    monkeypatch.setattr("perception_nodes.core.looking.merge", lambda *_: crowd)
    record, _ = rig.frame()
    assert (record.detections, record.reason) == (1, CROWDED)
