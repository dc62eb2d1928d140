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
from perception_nodes.cameras.channel import camera_reader, notice_of


class Scripted:
    """A source that does what a list says: a number is a frame with so many lost before it.

    Whenever it is opened its frames are larger.
    """

    def __init__(self, script):
        self.script, self.opened, self.closed = list(script), 0, 0
        self.senders = set()

    def open(self):
        self.opened += 1
        if isinstance(self.script[0], CameraError) and self.opened > 1:
            raise self.script.pop(0)
        return CameraFormat(600 * self.opened, "scripted")

    def start(self, slots):
        self.slots = slots

    def capture(self, timeout_ms):
        lost = self.script.pop(0)
        if isinstance(lost, Exception):
            raise lost
        if lost is None or isinstance(lost, CapturedFrame):
            return lost
        return CapturedFrame(self.slots.loan(600 * self.opened), lost)

    def close(self):
        self.closed += 1


@pytest.fixture
def play(join, monkeypatch):
    """Feeds what a script yields to a reader; returns its frames, the log, source and feed."""
    monkeypatch.setattr(feed_module, "REOPEN_S", 0.0)

    def run(script, steps=None):
        endpoint, lines = join("camera"), []
        reader = camera_reader(join("reader"), "front")
        source = Scripted(script)
        feed = CameraFeed(endpoint, "front", source, "optical", lines.append)
        feed.open()
        feed.start()
        found = []
        for _ in range(len(script) if steps is None else steps):
            feed.step(1.0)
            while (sample := reader.receive()) is not None:
                header, notice = sample.header, notice_of(sample.header, sample.payload)
                found.append((header.number, header.lost, notice or header.frame_id))
                source.senders.add(sample.source)
                sample.release()
        feed.close()
        return found, lines, source, feed

    return run


def test_frames_are_named_and_numbered_and_numbers_skip_what_the_sensor_lost(play):
    found, lines, source, feed = play([0, 2, None, 1])
    assert found == [(0, 0, b"optical"), (3, 2, b"optical"), (5, 1, b"optical")]
    assert (feed.sent, feed.lost, source.closed) == (3, 3, 1)
    assert lines == ["camera front: scripted"]


@pytest.mark.parametrize(
    ("script", "opened", "numbers", "whys"),
    [
        ([0, CameraGone("a"), CameraGone("a"), 0, 0], 3, [0, 1, 2], ["a"]),
        ([0, CameraGone("a"), CameraGone("401"), CameraGone("401"), 0], 4, [0, 1], ["a", "401"]),
        ([None, 0], 2, [0], ["no frame for 0 s"]),  # it falls silent
    ],
)
def test_a_source_that_is_gone_or_silent_is_opened_again_and_each_reason_is_told(
    play, monkeypatch, script, opened, numbers, whys
):
    monkeypatch.setattr(feed_module, "SILENT_S", 0.0)
    found, lines, source, _ = play(script, steps=len(script) + 1)
    assert [number for number, _, last in found if last == b"optical"] == numbers
    assert [last for *_, last in found if last != b"optical"] == whys
    gone = [f"camera front is gone: {why}; it is tried again" for why in whys]
    opening = ["camera front: scripted"]
    assert (lines, source.opened) == (opening + gone + opening, opened)
    assert len(source.senders) == 1, "another sender would begin at 0"


def test_lost_frames_are_told_before_the_next_one_comes(play):
    found, lines, _, feed = play([0, CapturedFrame(None, 3, "missing"), 1])
    assert found == [(0, 0, b"optical"), (4, 3, "missing"), (5, 1, b"optical")]
    assert (feed.sent, feed.lost, lines[1]) == (2, 4, "camera front lost 3 frames: missing")


def test_an_error_that_does_not_pass_is_raised(play):
    with pytest.raises(CameraError, match="wrong format"):
        play([0, CameraError("wrong format")])
