"""Drivers that are not at hand elsewhere; all else of V4L2 is for `make camera-test`."""

import select
from types import SimpleNamespace

import pytest

from perception_nodes.cameras import v4l2
from perception_nodes.cameras import v4l2_kernel as kernel
from perception_nodes.cameras.source import colour_note
from perception_nodes.cameras.source_for import source_for


def test_of_damaged_frames_alone_none_is_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = iter(
        [(0, kernel.BUF_FLAG_ERROR, 100), (1, 0, 0), (2, kernel.BUF_FLAG_ERROR, 100), (5, 0, 100)]
    )

    def call(_descriptor: int, order: int, buffer: kernel.Buffer) -> None:
        if order == kernel.DQBUF:
            buffer.sequence, buffer.flags, buffer.bytesused = next(given)

    header = SimpleNamespace(describe=lambda *_: None)
    source = source_for("v4l2:/dev/video0")
    assert isinstance(source, v4l2.V4l2Source)
    source._poll = SimpleNamespace(poll=lambda _: [(0, select.POLLIN)])
    source._next_sequence, source._use_pointers = None, False
    source._frame = "mono8", 10, 10, 10
    monkeypatch.setattr(v4l2.kernel, "call", call)
    monkeypatch.setattr(source, "_filled", lambda buffer: SimpleNamespace(header=header))
    assert [source.capture(50.0) for _ in range(3)] == [None] * 3
    frame = source.capture(50.0)
    assert frame is not None
    assert frame.lost == 5


@pytest.mark.parametrize(
    ("facts", "states"),
    [
        ({}, ""),
        ({"colorspace": 8}, ""),  # sRGB, as webcams have it
        ({"ycbcr_enc": 1, "colorspace": 3, "quantization": 2}, ""),
        ({"ycbcr_enc": 2}, "BT.709"),
        ({"colorspace": 3}, "BT.709"),
        ({"colorspace": 7}, "full range"),
        ({"ycbcr_enc": 6, "quantization": 1}, "BT.2020 in full range"),
    ],
)
def test_colours_that_are_not_those_we_take_them_for_are_told(facts, states):
    note = colour_note("yuyv", *v4l2._colours(kernel.Format(**facts)))
    assert note == (f"; it states {states}, and is read as BT.601 in limited range" * bool(states))
    assert not colour_note("bgr8", "BT.709", True)
