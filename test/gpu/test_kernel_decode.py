"""The decoding kernels: the same bits as their specification, the same boxes as the CPU path."""

import ctypes

import decode_oracle
import kernels_on_host
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.core.decode import AbsurdOutput, DecodeSettings, LevelsDecoder
from perception_nodes.core.frame import MAX_DETECTIONS, Detections, FrameHeader
from perception_nodes.core.geometry import BoxesToSource, Lens, Letterbox
from perception_nodes.gpu import decode_job
from perception_nodes.preprocess.placement import Placement

SMALL = decode_job.Head(96, 64, (8, 16), 4, 3)
LARGE = decode_job.Head(640, 384, (8, 16, 32), 16, 8)
SETTINGS = DecodeSettings(0.35, 0.6)
NONE = (0.0, 0.0, 0.0, 0.0)
LENSES = {
    "none": None,
    "dashcam": Lens((960.0, 957.0, 959.5, 539.5), (-0.27, 0.09, 0.0013, 0.0006, -0.01, 0, 0, 0)),
    "rational": Lens((900.0, 900.0, 960.0, 540.0), (0.5, -2.6, 5e-4, -2e-4, 1.5, 0.4, -2.4, 1.4)),
    "fisheye": Lens((700.0, 700.0, 960.0, 540.0), (0.03, -0.006, 0.001, -0.0005, *NONE), True),
    "folding": Lens((500.0, 500.0, 960.0, 540.0), (-0.35, *[0.0] * 7)),
}


def placement_of(head, lens=None, source=(1920, 1080), rectified=None):
    box = Letterbox.fit(*source, head.width, head.height)
    if lens is None:
        return Placement(box, *source)
    return Placement(box, *source, lens, rectified or lens.rectified_matrix(*source))


def random_heads(head, seed, spread=3.0, mean=-2.0):
    random = np.random.default_rng(seed)
    boxes, classes = [], []
    for stride in head.strides:
        size = head.size(stride)
        boxes.append(random.normal(0, spread, (1, 4 * head.reg_max, *size)).astype(np.float32))
        classes.append(random.normal(mean, spread, (1, head.classes, *size)).astype(np.float32))
    return boxes, classes


def empty_heads(head):
    boxes, classes = random_heads(head, 0)
    return [np.zeros_like(box) for box in boxes], [np.full_like(level, -20) for level in classes]


def put(boxes, classes, head, level, row, column, label, logit, sides=(1, 1, 1, 1)):
    """An object at a cell; the distances to its sides are whole numbers of strides."""
    classes[level][0, label, row, column] = logit
    for side, bins in enumerate(sides):
        boxes[level][0, side * head.reg_max + bins, row, column] = 60


def check_bits(boxes, classes, head, limits=SETTINGS, placement=None):
    placement = placement or placement_of(head)
    expected = decode_oracle.decode(boxes, classes, head, limits, placement)
    for order in (kernels_on_host.FORWARDS, kernels_on_host.BACKWARDS):
        found = kernels_on_host.decode(boxes, classes, head, limits, placement, order)
        assert bytes(found) == bytes(expected)
    return expected


def cpu(boxes, classes, head, limits, placement):
    """The pipeline's result for the same tensors."""
    decoder = LevelsDecoder(head.width, head.height, head.strides, head.reg_max, limits)
    found = decoder.decode(boxes, classes)
    header = FrameHeader()
    placement.describe(header, copies=0)
    source = BoxesToSource(header, placement.lens)(found.boxes)
    seen = (source[:, 2:] > source[:, :2]).all(axis=1)
    return Detections(source[seen], found.scores[seen], found.classes[seen])


def check_agreement(found, expected):
    """The same boxes in the same order, within float32's rounding of a source pixel."""
    assert found.classes.tolist() == expected.classes.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)


class TestBits:
    @given(st.integers(0, 2**32 - 1), st.floats(0.2, 6), st.floats(-6, 3))
    @settings(max_examples=100)
    def test_of_random_heads(self, seed, spread, mean):
        check_bits(*random_heads(SMALL, seed, spread, mean), SMALL)

    @pytest.mark.parametrize("lens", LENSES)
    @pytest.mark.parametrize("mean", [-8.0, -4.0, 0.0, 8.0])
    def test_of_a_heads_real_size_through_every_lens(self, lens, mean):
        found = check_bits(
            *random_heads(LARGE, 5, 2.0, mean), LARGE, placement=placement_of(LARGE, LENSES[lens])
        )
        assert found.found == 0 or found.count > 0

    @given(
        st.integers(0, 2**32 - 1),
        st.tuples(st.floats(-0.6, 0.6), st.floats(-0.3, 0.3), st.floats(-0.01, 0.01)),
        st.booleans(),
        st.tuples(st.integers(2, 4000), st.integers(2, 4000)),
        st.floats(0.05, 0.95),
        st.floats(0.05, 0.95),
    )
    @settings(max_examples=100)
    def test_of_any_lens_size_and_setting(self, seed, k, fisheye, source, score, iou):
        centre = (source[0] / 2, source[1] / 2)
        lens = Lens((300.0, 310.0, *centre), (k[0], k[1], k[2], -k[2], *NONE), fisheye)
        placement = placement_of(SMALL, lens, source, (200.0, 210.0, *centre))
        limits = DecodeSettings(score, iou)
        check_bits(*random_heads(SMALL, seed, 2.0, 0.0), SMALL, limits, placement)

    def test_of_zeros_of_both_signs(self):
        boxes, classes = empty_heads(SMALL)
        for level in classes:
            zeros = np.where(np.arange(level[0, 0].size) % 2, 0.0, -0.0)
            level[0, 0] = zeros.reshape(level[0, 0].shape)
        check_bits(boxes, classes, SMALL)

    def test_of_few_levels_classes_and_bins(self):
        for head in (
            decode_job.Head(64, 32, (32,), 1, 1),
            decode_job.Head(64, 64, (4, 8, 16, 32, 64), 64, 2),
            decode_job.Head(32, 32, (8, 16), 2, 80),
        ):
            check_bits(*random_heads(head, 3), head)


class TestAgainstTheCpuPath:
    @given(st.integers(0, 2**32 - 1), st.floats(0.5, 4), st.sampled_from(list(LENSES)))
    @settings(max_examples=60)
    def test_of_random_heads(self, seed, spread, lens):
        boxes, classes = random_heads(SMALL, seed, spread)
        placement = placement_of(SMALL, LENSES[lens])
        found = kernels_on_host.decode(boxes, classes, SMALL, SETTINGS, placement)
        check_agreement(found.detections(), cpu(boxes, classes, SMALL, SETTINGS, placement))

    @pytest.mark.parametrize("lens", LENSES)
    def test_of_a_flood(self, lens):
        boxes, classes = random_heads(LARGE, 9, 2.0, 6.0)
        placement = placement_of(LARGE, LENSES[lens])
        found = kernels_on_host.decode(boxes, classes, LARGE, SETTINGS, placement)
        check_agreement(found.detections(), cpu(boxes, classes, LARGE, SETTINGS, placement))
        assert found.found > found.entered == decode_job.MAX_CANDIDATES
        assert found.more

    def test_of_equal_scores_everywhere(self):
        boxes, classes = empty_heads(LARGE)
        for level in classes:
            level[0, 3] = 1.5
        limits = DecodeSettings(0.35, 0.9)
        placement = placement_of(LARGE)
        found = kernels_on_host.decode(boxes, classes, LARGE, limits, placement)
        check_agreement(found.detections(), cpu(boxes, classes, LARGE, limits, placement))

    def test_of_more_boxes_than_there_is_room_for(self):
        boxes, classes = empty_heads(LARGE)
        logits = np.random.default_rng(2).permutation(LARGE.cells).astype(np.float32) / 1000
        first = 0
        for level, box in zip(classes, boxes, strict=True):
            size = level[0, 0].size
            level[0, 1] = logits[first : first + size].reshape(level[0, 1].shape)
            box[:, 0 :: LARGE.reg_max] = 60  # without area above and left: none overlap
            first += size
        found = check_bits(boxes, classes, LARGE, DecodeSettings(0.6, 0.95))
        assert found.kept > MAX_DETECTIONS
        assert found.more
        expected = cpu(boxes, classes, LARGE, DecodeSettings(0.6, 0.95), placement_of(LARGE))
        check_agreement(found.detections(), expected)

    def test_of_a_box_in_the_grey_border_alone(self):
        boxes, classes = empty_heads(LARGE)
        put(boxes, classes, LARGE, 0, 0, 10, 2, 4.0, (0, 0, 1, 0))
        put(boxes, classes, LARGE, 0, 20, 20, 1, 3.0)
        placement = placement_of(LARGE)
        assert placement.letterbox.pad_y == 12
        found = check_bits(boxes, classes, LARGE)
        assert (found.kept, found.count, found.classes[0]) == (2, 1, 1)
        check_agreement(found.detections(), cpu(boxes, classes, LARGE, SETTINGS, placement))


class TestAbsurdOutput:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1000.0, -2000.0])
    @pytest.mark.parametrize("level", [0, 1])
    def test_of_a_class_logit_is_told_with_its_level(self, bad, level):
        boxes, classes = random_heads(SMALL, 1)
        classes[level][0, 1, 0, 0] = bad
        found = check_bits(boxes, classes, SMALL)
        assert found.count == 0
        with pytest.raises(AbsurdOutput, match=f"class logits at stride {SMALL.strides[level]}"):
            found.check(SMALL.strides)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_of_an_objects_box_logit_is_told(self, bad):
        boxes, classes = empty_heads(SMALL)
        put(boxes, classes, SMALL, 0, 0, 0, 0, 2.0)
        boxes[0][0, 5, 0, 0] = bad
        found = check_bits(boxes, classes, SMALL)
        with pytest.raises(AbsurdOutput, match="box logits of an object"):
            found.check(SMALL.strides)
        with pytest.raises(AbsurdOutput, match="box logits of an object"):
            cpu(boxes, classes, SMALL, SETTINGS, placement_of(SMALL))

    def test_of_a_box_logit_where_no_object_is_does_no_harm(self):
        boxes, classes = random_heads(SMALL, 1)
        cell = np.argwhere(classes[0][0].max(axis=0) < -2)[0]
        boxes[0][0, 5, cell[0], cell[1]] = np.nan
        found = check_bits(boxes, classes, SMALL)
        found.check(SMALL.strides)
        wanted = cpu(boxes, classes, SMALL, SETTINGS, placement_of(SMALL))
        check_agreement(found.detections(), wanted)


def test_the_state_is_left_as_the_next_frame_wants_it():
    boxes, classes = random_heads(SMALL, 3)
    state, result, scratch = (
        decode_job.DecodeState(ticket=41),
        decode_job.DecodeResult(),
        np.zeros(12 * SMALL.cells, np.uint8),
    )
    tensors = [(b.ctypes.data, c.ctypes.data) for b, c in zip(boxes, classes, strict=True)]
    places = ctypes.addressof(state), scratch.ctypes.data, ctypes.addressof(result)
    job = decode_job.build_decode_job(SMALL, SETTINGS, placement_of(SMALL), tensors, *places)
    answers = []
    for ticket in (41, 42):
        state.ticket = ticket
        kernels_on_host.run_decode(job, SMALL)
        assert result.ticket == ticket
        assert (state.found, state.absurd) == (0, 0)
        answers.append(bytes(result)[8:])
    assert answers[0] == answers[1]


@given(st.lists(st.floats(-87, 0, width=32), min_size=1))
def test_the_exponential_is_one(values):
    x = np.array(values, np.float32)
    exact = np.exp(x.astype(np.float64))
    error = np.abs(decode_oracle.exponential(x).astype(np.float64) - exact)
    assert np.all(error <= 2 * np.spacing(exact.astype(np.float32)))


def test_the_exponential_ends_at_zero():
    x = np.array([-87.5, -500.0, -2000.0], np.float32)
    assert decode_oracle.exponential(x).tolist() == [0, 0, 0]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_arc_tangent_is_one(values):
    x = np.array(values)
    exact = np.arctan(x)
    assert np.all(np.abs(decode_oracle.arc_tangent(x) - exact) <= 2 * np.spacing(exact))


def test_what_there_is_no_room_for_is_refused():
    with pytest.raises(ValueError, match="a head of 6 levels; the GPU decodes 5"):
        decode_job.Head(64, 64, (2, 4, 8, 16, 32, 64), 16, 8)
