"""Letterbox and lens against OpenCV, an independent implementation, and against inverses."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.core.frame import FrameHeader
from perception_nodes.core.geometry import (
    OUTSIDE,
    BoxesToSource,
    Lens,
    Letterbox,
    intersections_and_unions,
    lens_of,
    pairwise_iou,
    rectified_boxes,
    remap_grid,
)
from perception_nodes.preprocess.placement import Placement

sizes = st.integers(1, 8000)
inputs = st.sampled_from([(416, 256), (640, 384), (640, 640), (1, 1)])

# Calibrations of the kinds that vehicles carry.
NONE = (0.0, 0.0, 0.0, 0.0)
LENSES = {
    "dashcam": Lens(
        (959.8, 956.9, 696.0, 224.2), (-0.369, 0.197, 0.00135, 0.00057, -0.0677, 0, 0, 0)
    ),
    "webcam": Lens((620.3, 619.1, 318.2, 243.9), (0.11, -0.21, -0.0006, 0.0011, 0.05, 0, 0, 0)),
    "telephoto": Lens((2400.0, 2400.0, 320.0, 240.0), (0.5, 0.1, 0.001, -0.001, *NONE)),
    "pincushion": Lens((400.0, 400.0, 320.0, 240.0), (0.5, 0.1, 0.0, 0.0, *NONE)),
    "rational": Lens((608.2, 608.0, 640.0, 367.0), (0.5, -2.6, 5e-4, -2e-4, 1.5, 0.4, -2.4, 1.4)),
    "fisheye": Lens((313.2, 313.5, 322.1, 238.4), (0.03, -0.006, 0.001, -0.0005, *NONE), True),
}
FOLDING = Lens((300.0, 300.0, 320.0, 240.0), (-0.35, *[0.0] * 7))
"""Rays beyond a limit appear again nearer to the middle."""
SIZES = ((40, 40), (60, 60), (12, 48))
"""Of boxes, in pixels; the last one is a person's."""
every_lens = pytest.mark.parametrize("lens", LENSES.values(), ids=list(LENSES))


def rays(lens, count=200, seed=0):
    """Random rays within what the lens shows once."""
    random = np.random.default_rng(seed)
    radius = random.uniform(0, min(0.97 * lens.fold_radius, 1.2), count)
    angle = random.uniform(0, 2 * np.pi, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def opencv_matrix(lens):
    fx, fy, cx, cy = lens.matrix
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def header_for(letterbox, source, lens=None, rectified=(0, 0, 0, 0)):
    header = FrameHeader()
    Placement(letterbox, *source, lens, rectified).describe(header, copies=0)
    return header


class TestLetterbox:
    @given(sizes, sizes, inputs)
    def test_fits_centred_into_the_input_and_keeps_the_aspect(self, width, height, size):
        box = Letterbox.fit(width, height, *size)
        assert 1 <= box.inner_width <= box.width
        assert 1 <= box.inner_height <= box.height
        assert box.inner_width == box.width or box.inner_height == box.height
        right = box.width - box.inner_width - box.pad_x
        below = box.height - box.inner_height - box.pad_y
        assert 0 <= right - box.pad_x <= 1
        assert 0 <= below - box.pad_y <= 1
        scale = min(size[0] / width, size[1] / height)
        assert abs(box.inner_width - max(1, width * scale)) <= 0.5 + 1e-9
        assert abs(box.inner_height - max(1, height * scale)) <= 0.5 + 1e-9
        assert (box.scale_x, box.scale_y) == (box.inner_width / width, box.inner_height / height)

    def test_stretched_it_fills_the_input_and_else_may_lie_in_its_corner(self):
        box = Letterbox.fit(1920, 1080, 416, 416, "stretch")
        assert box == Letterbox(416, 416, 416, 416, 0, 0, 416 / 1920, 416 / 1080)
        box = Letterbox.fit(1920, 1080, 416, 416, "top-left")
        assert box == Letterbox(416, 416, 416, 234, 0, 0, 416 / 1920, 234 / 1080)


class TestBoxesToSource:
    @given(sizes, sizes, inputs, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
    def test_is_the_inverse_of_the_letterbox(self, width, height, size, corners):
        letterbox = Letterbox.fit(width, height, *size)
        source = np.sort(np.array(corners).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        source = source * [width, height, width, height]
        scale = [letterbox.scale_x, letterbox.scale_y] * 2
        boxes = (source * scale + [letterbox.pad_x, letterbox.pad_y] * 2).astype(np.float32)
        back = BoxesToSource(header_for(letterbox, (width, height)), None)(boxes)
        # float32 resolves an input pixel of 640 to 3e-5 of it
        pixel = 1e-4 / min(letterbox.scale_x, letterbox.scale_y)
        np.testing.assert_allclose(back, source, atol=pixel + 1e-3)

    def test_clips_to_the_source_image(self):
        letterbox = Letterbox.fit(1920, 1080, 416, 256)
        boxes = np.array([[-50, -50, 1000, 1000]], np.float32)
        back = BoxesToSource(header_for(letterbox, (1920, 1080)), None)(boxes)
        assert back.tolist() == [[0, 0, 1920, 1080]]

    def test_of_nothing_is_nothing(self):
        header = header_for(Letterbox.fit(640, 480, 416, 256), (640, 480))
        for lens in (None, LENSES["dashcam"]):
            back = BoxesToSource(header, lens)(np.empty((0, 4), np.float32))
            assert back.shape == (0, 4)
            assert back.dtype == np.float32

    @every_lens
    def test_bounds_an_object_seen_through_the_lens(self, lens):
        """A bright rectangle in the source, found again in the rectified input, maps back."""
        width, height = 640, 480
        letterbox = Letterbox.fit(width, height, 640, 480)
        rectified = lens.rectified_matrix(width, height)
        scene = np.zeros((height, width), np.uint8)
        placed = np.array([200, 150, 290, 210])
        scene[placed[1] : placed[3], placed[0] : placed[2]] = 255
        grid = remap_grid(letterbox, lens, rectified).astype(np.float32)
        shown = cv2.remap(scene, grid[:, :, 0], grid[:, :, 1], cv2.INTER_LINEAR)
        rows, columns = np.nonzero(shown > 127)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        found = np.array([corners], np.float32)
        header = header_for(letterbox, (width, height), lens, rectified)
        back = BoxesToSource(header, lens)(found)[0]
        # Half a pixel of threshold at each scale, and the bend of the edges: a box of the
        # rectified image bounds curved edges, which bounds them again on the way back.
        assert np.all(back[:2] <= placed[:2] + 1.0)
        assert np.all(back[2:] >= placed[2:] - 1.0)
        np.testing.assert_allclose(back, placed, atol=5)

    def test_of_a_box_beyond_or_across_the_fold_only_what_is_seen_is_left(self):
        # Intrinsics so wide that the corner contains rays that the lens does not show.
        letterbox = Letterbox.fit(640, 480, 640, 480)
        header = header_for(letterbox, (640, 480), FOLDING, (100.0, 100.0, 320.0, 240.0))
        boxes = np.array([[0, 0, 20, 20], [0, 200, 330, 280]], np.float32)
        beyond, across = BoxesToSource(header, FOLDING)(boxes)
        assert beyond.tolist() == [0, 0, 0, 0]
        assert across[2] - across[0] > 20
        assert np.all(across >= 0)

    @every_lens
    def test_is_undone_by_rectified_boxes(self, lens):
        width, height = (round(2 * centre) for centre in lens.matrix[2:])
        grid = np.meshgrid(np.arange(0, width - 60, 40), np.arange(0, height - 60, 40))
        corners = np.stack(grid, axis=2).reshape(-1, 2)
        boxes = np.concatenate([np.hstack([corners, corners + size]) for size in SIZES])
        rectified = lens.rectified_matrix(width, height)
        letterbox = Letterbox.fit(width, height, width, height)
        header = header_for(letterbox, (width, height), lens, rectified)
        source = BoxesToSource(header, lens)(boxes.astype(np.float32)).astype(np.float64)
        whole = ((source > 0) & (source < [width, height] * 2)).all(axis=1)
        back = rectified_boxes(source[whole], lens, rectified, (width, height))
        overlaps = pairwise_iou(back, boxes[whole].astype(np.float64)).diagonal()
        assert len(overlaps) > 100
        assert overlaps.min() > 0.99


class TestLens:
    @every_lens
    def test_distorts_as_opencv_projects(self, lens):
        points = rays(lens)
        project = cv2.fisheye.projectPoints if lens.fisheye else cv2.projectPoints
        expected, _ = project(
            np.column_stack([points, np.ones(len(points))])[:, None],
            np.zeros(3),
            np.zeros(3),
            opencv_matrix(lens),
            np.array(lens.distortion[: 4 if lens.fisheye else 8]),
        )
        np.testing.assert_allclose(lens.distort(points), expected.reshape(-1, 2), atol=1e-8)

    @every_lens
    def test_undistort_is_the_inverse_of_distort(self, lens):
        points = rays(lens, 500)
        np.testing.assert_allclose(lens.undistort(lens.distort(points)), points, atol=1e-9)

    @given(
        st.floats(-0.4, 0.6),
        st.floats(-0.2, 0.2),
        st.floats(-0.005, 0.005),
        st.floats(-0.005, 0.005),
        st.booleans(),
    )
    @settings(max_examples=50)
    def test_undistort_inverts_any_believable_lens(self, k1, k2, p1, p2, fisheye):
        lens = Lens((500.0, 510.0, 320.0, 240.0), (k1, k2, p1, p2, *NONE), fisheye)
        # Near the fold a pixel covers ever more rays, and tangential terms move the fold itself.
        points = rays(lens, 50) * 0.9
        np.testing.assert_allclose(lens.undistort(lens.distort(points)), points, atol=1e-6)

    def test_a_ray_beyond_the_fold_is_outside(self):
        fold = np.sqrt(1 / (3 * 0.35))  # where r + k1 r^3 is largest
        near, far = FOLDING.distort(np.array([[fold - 0.02, 0.0], [fold + 0.02, 0.0]]))
        assert near[0] > 320
        assert far.tolist() == [OUTSIDE, OUTSIDE]

    def test_pixels_that_no_ray_reaches_get_rays_within_the_fold(self):
        found = FOLDING.undistort(np.array([[5000.0, 240.0], [320.0, -5000.0]]))
        assert np.isfinite(found).all()
        assert np.hypot(*found.T).max() <= FOLDING.fold_radius

    def test_a_lens_that_folds_at_once_shows_nothing(self):
        lens = Lens((300.0, 300.0, 320.0, 240.0), (-1e6, *[0.0] * 7))
        assert lens.distort(np.array([[0.1, 0.1]])).tolist() == [[OUTSIDE, OUTSIDE]]

    def test_a_rational_lens_ends_before_its_pole(self):
        assert Lens((300.0, 300.0, 320.0, 240.0), (*[0.0] * 5, -1.0, 0.0, 0.0)).fold_radius <= 1.0

    @every_lens
    def test_rectified_image_shows_the_middles_of_the_source_edges(self, lens):
        fx, fy, cx, cy = lens.rectified_matrix(640, 480)
        edges = np.array([[0, 239.5], [639, 239.5], [319.5, 0], [319.5, 479]])
        x, y = (lens.undistort(edges) * [fx, fy] + [cx, cy]).T
        np.testing.assert_allclose([x[0], x[1], y[2], y[3]], [0, 639, 0, 479], atol=1e-6)

    @every_lens
    def test_survives_the_slot_header(self, lens):
        header = header_for(Letterbox.fit(640, 480, 416, 256), (640, 480), lens, (1, 1, 0, 0))
        assert lens_of(header) == lens


class TestRemapGrid:
    @pytest.mark.parametrize("name", ["dashcam", "webcam", "rational"])
    def test_is_opencvs_rectification_seen_through_the_letterbox(self, name):
        lens = LENSES[name]
        width, height = 640, 480
        letterbox = Letterbox.fit(width, height, 416, 256)
        rectified = lens.rectified_matrix(width, height)
        fx, fy, cx, cy = rectified
        # Scaling an image about its edge moves the centre coordinates of its pixels by this.
        sx, sy = letterbox.scale_x, letterbox.scale_y
        rows = [fx * sx, 0, (cx + 0.5) * sx - 0.5], [0, fy * sy, (cy + 0.5) * sy - 0.5], [0, 0, 1]
        scaled = np.array(rows)
        expected = cv2.initUndistortRectifyMap(
            opencv_matrix(lens),
            np.array(lens.distortion),
            None,
            scaled,
            (letterbox.inner_width, letterbox.inner_height),
            cv2.CV_32FC1,
        )
        grid = remap_grid(letterbox, lens, rectified)
        seen = grid[:, :, 0] > OUTSIDE / 2
        assert seen.mean() > 0.8
        np.testing.assert_allclose(grid[seen], np.dstack(expected)[seen], atol=2e-3)


def pixels_of(box):
    """The pixels of a box whose corners are whole numbers."""
    x1, y1, x2, y2 = box
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


corners = st.tuples(*[st.integers(0, 9)] * 4)
boxes_of_pixels = st.lists(
    corners.map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))),
    max_size=5,
)


class TestOverlapOfBoxes:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @given(first=boxes_of_pixels, second=boxes_of_pixels)
    def test_is_that_of_counted_pixels(self, dtype, first, second):
        arrays = [np.array(boxes, dtype).reshape(-1, 4) for boxes in (first, second)]
        intersections, unions = intersections_and_unions(*arrays)
        assert intersections.dtype == unions.dtype == dtype
        assert intersections.shape == unions.shape == (len(first), len(second))
        for i, one in enumerate(map(pixels_of, first)):
            for j, two in enumerate(map(pixels_of, second)):
                assert intersections[i, j] == len(one & two)
                assert unions[i, j] == len(one | two)
                iou = pairwise_iou(*arrays)[i, j]
                assert iou == pytest.approx(len(one & two) / (len(one | two) or 1), abs=1e-6)
