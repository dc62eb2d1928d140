"""Average precision against pycocotools' own sums, and under weights."""

import contextlib
import io

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from perception_nodes.evaluation.matching import ALL_HEIGHTS, Objects, _as_coco, match

CLASSES = 2


def objects(items):
    """Objects from x, y, width, height, class and score."""
    rows = np.array(items, float).reshape(-1, 6)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    return Objects(boxes, rows[:, 4].astype(int), rows[:, 3], rows[:, 5], np.zeros(len(rows), bool))


def drawn(scores):
    place, size = st.integers(0, 12), st.integers(2, 9)
    one = st.tuples(place, place, size, size, st.integers(0, CLASSES - 1), scores)
    return st.lists(st.lists(one, max_size=5).map(objects), min_size=3, max_size=3)


# Scores of one picture must differ: which of two equals goes first is nobody's business.
distinct = st.integers(1, 10**6).map(lambda number: number / 10**6)


@settings(max_examples=60)
@given(drawn(st.just(1.0)), drawn(distinct))
def test_sums_are_those_of_pycocotools(truth, found):
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(_as_coco(truth, CLASSES), _as_coco(found, CLASSES), "bbox")
        theirs.evaluate()
        theirs.accumulate()
    for label, ours in enumerate(match(truth, found, CLASSES)[ALL_HEIGHTS]):
        expected = theirs.eval["precision"][:, :, label, 0, -1].mean(axis=1)
        if (averages := ours.average_precision(np.ones(len(truth), int))) is None:
            assert (expected == -1).all()
        else:
            np.testing.assert_allclose(averages, expected, atol=1e-9)


@settings(max_examples=30)
@given(
    drawn(st.just(1.0)),
    drawn(distinct),
    st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any),
)
def test_a_weight_is_an_image_that_often(truth, found, weights):
    """The bootstrap sums matches up again; matching the drawn images anew gives the same.

    Where scores are equal neither order is the right one, and a repeated image would change it.
    """
    scores = [score for image in found for score in image.scores]
    assume(len(set(scores)) == len(scores))
    drawn_again = [image for image, weight in enumerate(weights) for _ in range(weight)]
    again = match([truth[i] for i in drawn_again], [found[i] for i in drawn_again], CLASSES)
    weighted = match(truth, found, CLASSES)
    for ours, rerun in zip(weighted[ALL_HEIGHTS], again[ALL_HEIGHTS], strict=True):
        a = ours.average_precision(np.array(weights))
        b = rerun.average_precision(np.ones(len(drawn_again), int))
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-9)


def test_heights_part_the_objects():
    truth = [objects([(0, 0, 50, h, 0, 1.0) for h in (10, 16, 31, 32, 63, 64, 200)])]
    matches = match(truth, [objects([])], 1)
    counts = {band: int(found[0].objects.sum()) for band, found in matches.items()}
    assert counts == {ALL_HEIGHTS: 7, "<16": 1, "16-32": 2, "32-64": 2, ">=64": 2}
