"""A frame's description in the header of a camera's channel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.cameras.channel import CameraHeader, view_camera_frame

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=99)


@given(encoding=TEXT, frame_id=TEXT, stamp_ns=st.integers(0, 2**60))
def test_a_frame_is_viewed_as_it_was_described(encoding, frame_id, stamp_ns):
    header, pixels = CameraHeader(number=5, lost=2), np.arange(24, dtype=np.uint8)
    header.describe(stamp_ns, encoding, 3, 2, 10, 20, frame_id)
    view = view_camera_frame(header, pixels)
    assert (view.stamp_ns, view.width, view.height, view.step) == (stamp_ns, 3, 2, 10)
    assert bytes(view.data) == bytes(range(20))
    assert (header.number, header.lost) == (5, 2)
    for viewed, text, room in (
        (view.encoding, encoding, 31),
        (view.frame_id, frame_id, 63),
    ):
        if len(text.encode()) <= room:
            assert viewed == (text.lower() if room == 31 else text)
        else:
            assert len(viewed) <= room
