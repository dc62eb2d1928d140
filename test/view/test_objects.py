"""Identities as the tracker's node writes them, read for the boxes of a frame."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.frame import Detections
from perception_nodes.drives.schemas import DETECTIONS, typestore
from perception_nodes.transport.cdr_writer import write_detection_array
from perception_nodes.view.objects import Objects, identified, place_of
from perception_nodes.view.pictures import Shot

PIXELS = st.integers(0, 65_535 * 256).map(lambda n: n / 256)
BOXES = st.lists(st.tuples(PIXELS, PIXELS, PIXELS, PIXELS, st.integers(0, 1 << 63)), max_size=5)


@given(BOXES)
def test_boxes_that_were_tracked_have_their_ids(found) -> None:
    boxes = np.array([box for *box, _ in found], np.float32).reshape(-1, 4)
    ids = [number for *_, number in found]
    objects = Detections(boxes, np.ones(len(found), np.float32), np.zeros(len(found), np.int64))
    data = write_detection_array(0, b"camera", objects, (b"car",), ids)
    place, shown = identified(typestore().deserialize_cdr(data, DETECTIONS))
    assert place == place_of(boxes)
    assert shown == tuple(str(number) if number else None for number in ids)


def test_other_boxes_are_in_another_place() -> None:
    boxes = np.array([[0, 0, 20, 20], [30, 0, 50, 20]], np.float32)
    assert len({place_of(boxes), place_of(boxes[::-1]), place_of(boxes[:1])}) == 3
    assert place_of(-0.0 * boxes) == place_of(0.0 * boxes)


def test_second_looks_are_placed_in_shares_of_the_picture() -> None:
    look = SimpleNamespace(x_offset=32, y_offset=18, width=160, height=90, cost_ms=1.0)
    shot = Shot(np.zeros((90, 160, 3), np.uint8), (320, 180), None)
    shown = Objects().picture(SimpleNamespace(looks=[look]), shot, None)
    assert (shown.objects, shown.looks) == (None, [[0.1, 0.1, 0.6, 0.6]])
