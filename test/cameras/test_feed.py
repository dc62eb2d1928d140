"""A camera's channel filled from a source: numbered without gaps but for what was lost."""

import pytest

from perception_nodes.cameras import camera_feed as feed_module
from perception_nodes.cameras.camera_feed import CameraFeed
from perception_nodes.cameras.camera_source import (
    CameraError,
    CameraFormat,
    CameraGone,
    CapturedFrame,
)
from perception_nodes.cameras.channel import camera_reader


class Scripted:
    """A source that does what a list says: a number is a frame with so many lost before it."""

    def __init__(self, script, size_bytes=6):
        self.script = list(script)
        self.size_bytes = size_bytes
        self.opened = self.closed = 0

    def open(self):
        self.opened += 1
        if isinstance(self.script[0], CameraError) and self.opened > 1:
            raise self.script.pop(0)
        return CameraFormat("bgr8", 2, 1, 6, self.size_bytes, 30.0, 1, 2, "scripted")

    def start(self, slots):
        self.slots = slots

    def capture(self, timeout_ms):
        said = self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        if said is None:
            return None
        sample = self.slots.loan(self.size_bytes)
        sample.header.width, sample.header.height, sample.header.size_bytes = 2, 1, 6
        sample.payload[:] = len(self.script)
        return CapturedFrame(sample, said)

    def close(self):
        self.closed += 1


@pytest.fixture
def play(join, monkeypatch):
    """Feeds what a script says to a reader; gives the numbers and lost, and what was told."""
    monkeypatch.setattr(feed_module, "REOPEN_S", 0.0)

    def run(script, steps=None, **options):
        endpoint, told = join("camera"), []
        reader = camera_reader(join("reader"), "front")
        source = Scripted(script, **options)
        feed = CameraFeed(endpoint, "front", source, "optical", told.append)
        feed.open()
        feed.start()
        found = []
        for _ in range(len(script) if steps is None else steps):
            feed.step(1.0)
            found += [(r.number, r.lost, r.frame_id) for r in reader.records()]
        feed.close()
        return found, told, source, feed

    return run


def test_frames_are_numbered_and_named(play):
    found, told, source, feed = play([0, 0, 0])
    assert found == [(0, 0, b"optical"), (1, 0, b"optical"), (2, 0, b"optical")]
    assert (feed.sent, feed.lost) == (3, 0)
    assert told == ["camera front: scripted"]
    assert source.closed == 1


def test_numbers_skip_what_the_sensor_lost(play):
    found, *_, feed = play([0, 2, None, 1])
    assert [(number, lost) for number, lost, _ in found] == [(0, 0), (3, 2), (5, 1)]
    assert (feed.sent, feed.lost) == (3, 3)


def test_a_source_that_is_gone_is_told_of_and_opened_again(play):
    found, told, source, _ = play(
        [0, CameraGone("unplugged"), CameraGone("not yet"), 0, 0], steps=6
    )
    assert [number for number, *_ in found] == [0, 1, 2]
    assert told[1] == "camera front is gone: unplugged; it is tried again"
    assert told[2] == "camera front: scripted"
    assert source.opened == 3


def test_a_source_that_falls_silent_is_opened_again(play, monkeypatch):
    monkeypatch.setattr(feed_module, "SILENT_S", 0.0)
    found, told, source, _ = play([None, 0], steps=3)
    assert source.opened == 2
    assert "no frame for 0 s" in told[1]
    assert [number for number, *_ in found] == [0]


def test_an_error_that_does_not_pass_is_raised(play):
    with pytest.raises(CameraError, match="wrong format"):
        play([0, CameraError("wrong format")])
