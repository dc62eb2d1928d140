"""The decoder against a plain one with loops and scalar arithmetic."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.core.decode import (
    AbsurdOutput,
    CellsDecoder,
    DecodeSettings,
    LevelsDecoder,
    nms,
)
from perception_nodes.core.frame import MAX_DETECTIONS

STRIDES, REG_MAX, CLASSES = (8, 16), 4, 3
WIDTH, HEIGHT = 48, 32
SETTINGS = DecodeSettings(0.35, 0.6)
NOTHING = -20.0


def plain_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union


def plain_suppress(found, iou_threshold):
    """Indices kept of (box, score, label), best first."""
    kept = []
    for i, (box, _, label) in enumerate(found):
        rivals = (found[k] for k in kept if found[k][2] == label)
        if all(plain_iou(box, rival[0]) <= iou_threshold for rival in rivals):
            kept.append(i)
    return kept


def plain_decode(boxes, classes, strides=STRIDES, reg_max=REG_MAX, limits=SETTINGS):
    found = []
    for stride, box, logits in zip(strides, boxes, classes, strict=True):
        _, count, rows, columns = logits.shape
        for row in range(rows):
            for column in range(columns):
                cell = [float(logits[0, c, row, column]) for c in range(count)]
                best = max(cell)
                score = 1 / (1 + math.exp(-best))
                if score <= limits.score_threshold:
                    continue
                sides = []
                for side in range(4):
                    bins = [float(box[0, side * reg_max + b, row, column]) for b in range(reg_max)]
                    weights = [math.exp(value - max(bins)) for value in bins]
                    sides.append(sum(b * w for b, w in enumerate(weights)) / sum(weights))
                x, y = column + 0.5, row + 0.5
                left, top, right, bottom = sides
                corners = (x - left, y - top, x + right, y + bottom)
                found.append(([stride * value for value in corners], score, cell.index(best)))
    found.sort(key=lambda item: -item[1])
    return [found[i] for i in plain_suppress(found, limits.iou_threshold)]


def decoder(limits=SETTINGS):
    return LevelsDecoder(WIDTH, HEIGHT, STRIDES, REG_MAX, limits)


def heads(seed=None, scale=3.0, fill=NOTHING):
    """Random heads, or an empty road."""
    boxes, classes = [], []
    random = np.random.default_rng(seed)
    for stride in STRIDES:
        size = (HEIGHT // stride, WIDTH // stride)
        if seed is None:
            boxes.append(np.zeros((1, 4 * REG_MAX, *size), np.float32))
            classes.append(np.full((1, CLASSES, *size), fill, np.float32))
        else:
            boxes.append(random.normal(0, scale, (1, 4 * REG_MAX, *size)).astype(np.float32))
            classes.append(random.normal(-2, scale, (1, CLASSES, *size)).astype(np.float32))
    return boxes, classes


def put(boxes, classes, level, row, column, label, logit, sides=(1, 1, 1, 1)):
    """An object at a cell; the distances to its sides are whole numbers of strides."""
    classes[level][0, label, row, column] = logit
    for side, bins in enumerate(sides):
        boxes[level][0, side * REG_MAX + bins, row, column] = 60


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 6))
@settings(max_examples=60)
def test_agrees_with_the_plain_decoder(seed, scale):
    boxes, classes = heads(seed, scale)
    expected = plain_decode(boxes, classes)
    found = decoder().decode(boxes, classes)
    assert found.classes.tolist() == [label for _, _, label in expected]
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=1e-5)
    boxes = np.array([box for box, _, _ in expected]).reshape(-1, 4)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)


def test_equal_scores_keep_the_order_of_the_cells():
    boxes, classes = heads()
    for row, column, label in [(0, 0, 2), (0, 3, 0), (3, 5, 1)]:
        put(boxes, classes, 0, row, column, label, logit=2.0, sides=(0, 0, 1, 1))
    assert [decoder().decode(boxes, classes).classes.tolist() for _ in range(3)] == [[2, 0, 1]] * 3


def test_a_cell_with_equal_classes_is_the_first_of_them():
    boxes, classes = heads()
    put(boxes, classes, 0, 0, 0, label=1, logit=2.0)
    put(boxes, classes, 0, 0, 0, label=2, logit=2.0)
    assert decoder().decode(boxes, classes).classes.tolist() == [1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("level", [0, 1])
def test_a_class_logit_that_is_no_number_is_absurd(bad, level):
    boxes, classes = heads()
    classes[level][0, 1, 0, 0] = bad
    with pytest.raises(AbsurdOutput, match=f"class logits at stride {STRIDES[level]}"):
        decoder().decode(boxes, classes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_box_logit_of_an_object_that_is_no_number_is_absurd(bad):
    boxes, classes = heads()
    put(boxes, classes, 0, 0, 0, label=0, logit=2.0)
    boxes[0][0, 5, 0, 0] = bad
    with pytest.raises(AbsurdOutput, match="box logits of an object"):
        decoder().decode(boxes, classes)


def test_of_more_objects_than_there_is_room_for_the_best_are_reported():
    """One class, none overlapping."""
    width = height = 8 * 20
    boxes = [np.zeros((1, 4 * REG_MAX, 20, 20), np.float32)]
    boxes[0][:, ::REG_MAX] = 60  # zero-sized: no two overlap
    logits = np.random.default_rng(2).permutation(400).astype(np.float32) / 100
    many = LevelsDecoder(width, height, (8,), REG_MAX, SETTINGS)
    found = many.decode(boxes, [logits.reshape(1, 1, 20, 20)])
    expected = 1 / (1 + np.exp(-np.sort(logits)[::-1][:MAX_DETECTIONS]))
    assert found.more
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    logits[np.argsort(logits)[: 400 - MAX_DETECTIONS]] = -5
    assert not many.decode(boxes, [logits.reshape(1, 1, 20, 20)]).more


coordinates = st.integers(0, 20)


@given(
    st.lists(st.tuples(coordinates, coordinates, coordinates, coordinates, st.integers(0, 2))),
    st.sampled_from([0.11, 0.33, 0.6, 0.87]),
    st.booleans(),
    st.sampled_from([2, 5, 300]),
)
def test_suppression_agrees_with_the_plain_one(items, threshold, across_classes, block):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d, _ in items]
    labels = [item[4] for item in items]
    found = [(box, 0.0, label) for box, label in zip(boxes, labels, strict=True)]
    # Boxes without area overlap nothing; the plain division would be by zero.
    with mock.patch("perception_nodes.core.decode.BLOCK", block):
        kept = nms(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            DecodeSettings(iou_threshold=threshold, across_classes=across_classes),
        )
    if across_classes:
        found = [(box, score, 0) for box, score, _ in found]
    assert kept.tolist() == plain_suppress(found, threshold)


def plain_cells(boxes, scores, suppressed, limits):
    """What a head of cells shows, cell by cell."""
    found = []
    for cell in range(boxes.shape[2]):
        column = [float(value) for value in scores[0, :, cell]]
        if max(column) > limits.score_threshold:
            found.append((boxes[0, :, cell].tolist(), max(column), column.index(max(column))))
    found.sort(key=lambda item: -item[1])
    return found if suppressed else [found[i] for i in plain_suppress(found, limits.iou_threshold)]


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_cells_are_decoded_as_by_the_plain_oracle(seed, suppressed):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (1, 2, 40))
    boxes = np.concatenate([corners, corners + random.uniform(5, 30, (1, 2, 40))], axis=1)
    boxes, scores = boxes.astype(np.float32), random.random((1, 3, 40), np.float32) ** 3
    found = CellsDecoder(suppressed, SETTINGS).decode([boxes], [scores])
    wanted = plain_cells(boxes, scores, suppressed, SETTINGS)
    assert found.classes.tolist() == [label for _, _, label in wanted]
    np.testing.assert_array_equal(found.boxes, [box for box, _, _ in wanted] or np.empty((0, 4)))
    np.testing.assert_array_equal(found.scores, np.array([s for _, s, _ in wanted], np.float32))


def test_a_thin_object_with_crossed_sides_is_there_and_hides_no_other():
    boxes = np.array([[[201, 300], [0, 300], [200, 350], [100, 350]]], np.float32)
    found = CellsDecoder(False, SETTINGS).decode([boxes], [np.array([[[0.9, 0.8]]], np.float32)])
    assert found.boxes.tolist() == [[200, 0, 201, 100], [300, 300, 350, 350]]


def test_across_classes_one_object_has_one_box():
    boxes = np.array([[[0, 1], [0, 1], [50, 50], [50, 51]]], np.float32)
    scores = np.array([[[0.9, 0.1], [0.1, 0.8]]], np.float32)
    assert CellsDecoder(True, DecodeSettings()).decode([boxes], [scores]).classes.tolist() == [0, 1]
    across = CellsDecoder(True, DecodeSettings(across_classes=True)).decode([boxes], [scores])
    assert across.classes.tolist() == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -0.5])
def test_scores_that_are_no_probabilities_are_absurd(value):
    scores = np.full((1, 3, 8), 0.5, np.float32)
    scores[0, 1, 4] = value
    with pytest.raises(AbsurdOutput, match="probabilities"):
        CellsDecoder(False, SETTINGS).decode([np.zeros((1, 4, 8), np.float32)], [scores])


def test_boxes_of_objects_must_be_finite():
    boxes, scores = np.zeros((1, 4, 8), np.float32), np.zeros((1, 3, 8), np.float32)
    boxes[0, 2, 5] = np.nan
    decoder = CellsDecoder(False, SETTINGS)
    assert len(decoder.decode([boxes], [scores])) == 0
    scores[0, 1, 5] = 0.9
    with pytest.raises(AbsurdOutput, match="million pixels"):
        decoder.decode([boxes], [scores])


def test_a_crowd_is_reported_whole():
    """Sixty cars, each seen by twelve cells about as well."""
    corners = np.repeat(np.stack([np.arange(60) * 50.0, np.zeros(60)]), 12, axis=1)
    scores = np.random.default_rng(3).uniform(0.5, 0.9, (1, 1, 720)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 40])[None].astype(np.float32)
    found = CellsDecoder(False, SETTINGS).decode([boxes], [scores])
    assert sorted(found.boxes[:, 0].tolist()) == [50 * n for n in range(60)]
    np.testing.assert_array_equal(found.scores, np.sort(scores.reshape(60, 12).max(1))[::-1])
