"""A frame's description in the header of a camera's channel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.cameras.channel import CameraHeader, view_camera_frame

FILLED_NS = st.integers(1000, 2**62)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=99)


@given(now_ns=FILLED_NS, age_us=st.integers(1, 999_999))
def test_how_long_ago_it_was_filled_in_is_known_also_where_the_number_wraps(now_ns, age_us):
    header = CameraHeader(filled_us=(now_ns // 1000 - age_us) % 2**32)
    assert header.since_filled_ns(now_ns) == (1000 * age_us if header.filled_us else 0)
    assert CameraHeader().since_filled_ns(now_ns) == 0


@given(encoding=TEXT, frame_id=TEXT, stamp_ns=st.integers(0, 2**60))
def test_a_frame_is_viewed_as_it_was_described(encoding, frame_id, stamp_ns):
    header, pixels = CameraHeader(number=5, lost=2), np.arange(24, dtype=np.uint8)
    header.describe(stamp_ns, encoding, 3, 2, 10, 20, frame_id)
    view = view_camera_frame(header, pixels)
    assert (view.stamp_ns, view.width, view.height, view.step) == (stamp_ns, 3, 2, 10)
    assert bytes(view.data) == bytes(range(20))
    assert (header.number, header.lost) == (5, 2)
    for viewed, text, room in ((view.encoding, encoding, 31), (view.frame_id, frame_id, 63)):
        if len(text.encode()) <= room:
            assert viewed == (text.lower() if room == 31 else text)
        else:
            assert len(viewed) <= room
