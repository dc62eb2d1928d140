"""Tracks on the boxes of a frame, held against every other way to pair them."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.geometry import pairwise_iou
from perception_nodes.view.identities import MIN_IOU, identities

SQUARES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4, unique=True)


def track(number: int, x: float, y: float) -> SimpleNamespace:
    return SimpleNamespace(id=number, box=[x + 10, y + 10, 20, 20])


@given(SQUARES, SQUARES)
def test_each_track_is_on_one_box_at_most_and_the_best_pair_is_one(first, second) -> None:
    boxes = np.array([(x, y, x + 20, y + 20) for x, y in first], np.float32).reshape(-1, 4)
    found = identities(boxes, [track(7 + n, *corner) for n, corner in enumerate(second)])
    given_ids = [one for one in found if one is not None]
    assert len(found) == len(boxes) and len(set(given_ids)) == len(given_ids)
    pairs = [(b, t) for b in range(len(first)) for t in range(len(second))]
    if pairs:
        corners = np.array([(x, y, x + 20, y + 20) for x, y in second], np.float64)
        iou = pairwise_iou(boxes.astype(np.float64), corners)
        best = max(iou[pair] for pair in pairs)
        assert (best > MIN_IOU) == bool(given_ids)
        assert all(iou[b, one - 7] > MIN_IOU for b, one in enumerate(found) if one is not None)


def test_neighbours_that_have_moved_keep_their_ids() -> None:
    boxes = np.array([(x, 0, x + 20, 20) for x in (0, 21, 42)], np.float32)
    for order in permutations(range(3)):
        tracks = [track(n, 21 * n + 3, 1) for n in order]
        assert identities(boxes, tracks) == [0, 1, 2]
