"""Camera frames that a detector finds by the names in slots."""

from contextlib import suppress

import numpy as np
import pytest

from perception_nodes.cameras.channel import CAMERA_DEPTH, camera_reader, camera_writer
from perception_nodes.cameras.named_frames import NamedFrames
from perception_nodes.core.frame import FrameHeader, FrameRejected

STAMP_NS = 1_700_000_000_000_000_000


class Camera:
    """Sends frames whose pixels are their number."""

    def __init__(self, join, started_ns=STAMP_NS):
        self.endpoint = join("camera")
        self.reader = camera_reader(self.endpoint, "front")
        self.writer = camera_writer(self.endpoint, "front", 12)
        self.started_ns = started_ns

    def send(self, *numbers, size_bytes=12):
        for number in numbers:
            sample = self.writer.loan()
            sample.header.number = number
            sample.header.describe(self.stamp_ns(number), "BGR8", 2, 2, 6, size_bytes, "camera")
            sample.payload[:] = number % 256
            self.writer.send(sample)
            while (sent := self.reader.receive()) is not None:
                self.source = sent.source
                sent.release()

    def stamp_ns(self, number):
        return self.started_ns + 33_000_000 * number

    def slot(self, number):
        return FrameHeader(camera_source=self.source, camera_number=number)


@pytest.fixture
def frames(join):
    frames = NamedFrames(join("detector"), "front")
    yield frames
    frames.clear()


@pytest.fixture
def camera(frames, join):
    return Camera(join)


def pixels(image):
    (value,) = set(bytes(image.data))
    return value


def test_the_frame_is_the_one_that_the_slot_names(frames, camera):
    camera.send(1, 2, 3)
    image = frames.take(camera.slot(2))
    assert (image.width, image.height, image.encoding, image.copies) == (2, 2, "bgr8", 0)
    assert (image.stamp_ns, pixels(image)) == (camera.stamp_ns(2), 2)
    assert pixels(frames.take(camera.slot(3))) == 3


def test_the_frame_in_hand_is_not_overwritten(frames, camera):
    camera.send(1)
    image = frames.take(camera.slot(1))
    camera.send(*range(2, 60))
    assert pixels(image) == 1


def test_frames_go_on_for_ever_whichever_are_asked_for(frames, camera):
    random = np.random.default_rng(3)
    for number in range(500):
        camera.send(number)
        if random.random() < 0.4:
            assert pixels(frames.take(camera.slot(number))) == number % 256


@pytest.mark.parametrize(("sent", "lost", "later"), [(range(10), 2, [8, 9]), ([4], 5, [6])])
def test_after_a_frame_that_is_gone_the_next_ones_are_found(frames, camera, sent, lost, later):
    """The one is pushed out, the other never comes."""
    camera.send(*sent)
    with pytest.raises(FrameRejected, match=f"frame {lost} was pushed out by newer ones, or never"):
        frames.take(camera.slot(lost))
    camera.send(*(number for number in later if number not in sent))
    for number in later:
        assert pixels(frames.take(camera.slot(number))) == number


def test_a_camera_started_again_may_number_as_its_predecessor_did(frames, camera, join):
    camera.send(*range(4))
    assert pixels(frames.take(camera.slot(0))) == 0
    camera.endpoint.close()
    again = Camera(join, STAMP_NS + 1_000_000_000)
    again.send(0, 1)
    image = frames.take(again.slot(1))
    assert (image.stamp_ns, pixels(image)) == (again.stamp_ns(1), 1)
    with pytest.raises(FrameRejected):
        frames.take(camera.slot(0))
    again.send(2)
    assert frames.take(again.slot(2)).stamp_ns == again.stamp_ns(2)


def test_a_frame_whose_header_contradicts_its_pixels_is_rejected(frames, camera):
    camera.send(0, size_bytes=13)
    with pytest.raises(FrameRejected, match="header says 13 bytes"):
        frames.take(camera.slot(0))


def test_nothing_is_held_once_it_was_cleared(frames, camera):
    for _ in range(20):
        camera.send(1, 2, 3, 4)
        frames.take(camera.slot(1))
        frames.clear()


def test_it_needs_no_more_slots_than_have_their_pages(frames, camera, join):
    """With preprocessing, which holds two frames; a slot names the newest one."""
    reader = camera_reader(join("preprocess"), "front")
    random, held, slots = np.random.default_rng(5), [], set()
    for number in range(3000):
        camera.send(number)
        if random.random() < 0.5:
            while len(held) > 1:
                held.pop(0).release()
            while (sample := reader.receive()) is not None:
                held.append(sample)
                if len(held) > 2:
                    held.pop(0).release()
            slots |= {one.payload.ctypes.data for one in held}
        if random.random() < 0.3 and held:
            with suppress(FrameRejected):
                frames.take(camera.slot(held[-1].header.number))
    assert len(slots) <= CAMERA_DEPTH + 6
