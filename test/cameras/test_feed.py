"""A camera's channel filled from a source: numbered without gaps but for what was lost."""

import pytest

from perception_nodes.cameras import feed as feed_module
from perception_nodes.cameras.channel import camera_reader
from perception_nodes.cameras.feed import CameraFeed
from perception_nodes.cameras.mailbox import Arrived, Mailbox
from perception_nodes.cameras.source import CameraError, CameraFormat, CameraGone, CapturedFrame


class Scripted:
    """A source that does what a list says: a number is a frame with so many lost before it."""

    def __init__(self, script, size_bytes=6, notes=()):
        self.script, self.notes = list(script), list(notes)
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
        return CapturedFrame(sample, said, note=self.notes.pop() if self.notes else "")

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


def test_what_a_source_notes_is_told(play):
    _, told, *_ = play([0, 0], notes=["its clock is odd"])
    assert told == ["camera front: scripted", "camera front: its clock is odd"]


def test_what_is_noted_with_a_frame_that_nobody_takes_comes_with_the_next():
    mailbox = Mailbox()
    for index in range(4):
        mailbox.put(Arrived(index, index, note="odd" * (index == 1)))
    found = [mailbox.take(0.0) for _ in range(2)]
    assert [(one.frame, one.lost, one.note) for one in found] == [(2, 2, "odd"), (3, 0, "")]


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
