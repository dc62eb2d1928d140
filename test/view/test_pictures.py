"""Pictures of the channels' frames: each is that of the report that is asked for, or none."""

from types import SimpleNamespace

import numpy as np
import pytest

from perception_nodes.cameras.channel import camera_writer
from perception_nodes.core.frame import DetectionRecord
from perception_nodes.preprocess.placement import Placement
from perception_nodes.transport.channels import detection_writer, slot_writer
from perception_nodes.view.pictures import Pictures

SIDE = 32
DEADLINE_MS = 0.0


def report(number, stamp_ns, begun_ns=0):
    sec, nanosec = divmod(stamp_ns, 10**9)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
    return SimpleNamespace(sequence=number, capture_ns=begun_ns + number, header=header)


class Slots:
    """What preprocessing and the detector write of frames whose grey is 10 times their number."""

    def __init__(self, endpoint):
        self._slots = slot_writer(endpoint, "front", SIDE, SIDE)
        self._found = detection_writer(endpoint, "front")

    def send(self, number, stamp_ns, begun_ns=0):
        slot, record = self._slots.loan(), DetectionRecord(count=number)
        for header in (slot.header, record):
            header.sequence, header.stamp_ns = number, stamp_ns
            header.capture_ns = header.ingested_ns = header.deadline_ns = begun_ns + number
        Placement.fit((SIDE, SIDE), (SIDE, SIDE)).describe(slot.header, copies=0)
        slot.payload[:] = 10 * number
        self._slots.send(slot)
        self._found.send_record(record)


class Camera:
    """A camera's own frames of the same grey."""

    def __init__(self, endpoint):
        self._frames = camera_writer(endpoint, "front", 3 * SIDE * SIDE)

    def send(self, number, stamp_ns):
        slot = self._frames.loan()
        slot.header.number = number
        slot.header.describe(stamp_ns, "bgr8", SIDE, SIDE, 3 * SIDE, 3 * SIDE * SIDE)
        slot.payload[:] = 10 * number
        self._frames.send(slot)


def shown(pictures, wanted):
    """Which frame is shown with a report, by its grey."""
    shot = pictures.shot(wanted)
    return None if shot is None else round(float(np.mean(shot.picture)) / 10)


@pytest.mark.parametrize("stamp_ns", [0, 7])
def test_frames_without_stamps_or_with_the_same_are_told_apart_by_their_numbers(join, stamp_ns):
    slots, pictures = Slots(join()), Pictures(join(), "front", DEADLINE_MS, 8)
    for number in range(1, 5):
        slots.send(number, stamp_ns)
        pictures.take()
    for number in range(1, 5):
        wanted = report(number, stamp_ns)
        pictures.hear(wanted)
        assert shown(pictures, wanted) == number
        found = pictures.found(wanted)
        assert found is not None and found.count == number
    assert shown(pictures, report(5, stamp_ns)) is None
    pictures.release()


def test_frames_of_a_process_that_begins_anew_are_not_those_of_the_one_before(join):
    slots, pictures = Slots(join()), Pictures(join(), "front", DEADLINE_MS, 8)
    slots.send(1, 0)
    pictures.take()
    assert shown(pictures, report(1, 0)) == 1
    assert shown(pictures, report(1, 0, begun_ns=9)) is None
    assert not pictures.silent
    Camera(join())
    assert pictures.silent, "the frames of a camera that has begun are better than slots"
    pictures.release()


def test_frames_of_a_camera_are_shown_if_a_stamp_identifies_them(join):
    camera, pictures = Camera(join()), Pictures(join(), "front", DEADLINE_MS, 8)
    stamps = {1: 5, 2: 0, 3: 0, 4: 6, 5: 6, 6: 7}
    for number, stamp_ns in stamps.items():
        camera.send(number, stamp_ns)
        pictures.take()
        pictures.hear(report(number, stamp_ns))
    found = {number: shown(pictures, report(number, stamps[number])) for number in stamps}
    assert found == {1: 1, 2: None, 3: None, 4: None, 5: None, 6: 6}
    known = [number for number in stamps if pictures.knows(report(number, stamps[number]))]
    assert known == [1, 6]  # nobody waits for the pictures of the others
    pictures.release()
