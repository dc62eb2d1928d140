"""The preprocessing kernel: the same bits as its specification, nearly the CPU path's picture."""

import ctypes

import cv2
import kernels_on_host
import numpy as np
import preprocess_oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import ENCODINGS, frame, noise, scene, view
from test_cpu import BARREL, FISHEYE, MATRIX

from perception_nodes.core.frame import CameraInfo, FrameHeader, FrameRejected, ImageView
from perception_nodes.core.geometry import Lens, Letterbox, remap_grid
from perception_nodes.gpu.preprocess_job import (
    FrameCell,
    build_fetch_job,
    build_preprocess_job,
    constants_of,
    grid_of,
    plan_frame,
)
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.formats import ALIASES, BYTES_PER_PIXEL, PACKED
from perception_nodes.preprocess.lens import lens_from

LENSES = {
    "none": None,
    "barrel": BARREL,
    "pincushion": CameraInfo(640, 480, "plumb_bob", (0.25, 0.1, 0, 0, 0), MATRIX),
    "fisheye": FISHEYE,
}


def plan_for(image, width, height, lens=None):
    box = Letterbox.fit(image.width, image.height, width, height)
    if lens is None:
        return plan_frame(image, box, None)
    rectified = lens.rectified_matrix(image.width, image.height)
    return plan_frame(image, box, remap_grid(box, lens, rectified))


def lens_named(name):
    info = LENSES[name]
    return None if info is None else lens_from(info)


def check_bits(image, plan):
    data = np.frombuffer(image.data, np.uint8)
    expected = preprocess_oracle.preprocess(data, plan)
    for order in (kernels_on_host.FORWARDS, kernels_on_host.BACKWARDS):
        for fetched in (False, True):
            found = kernels_on_host.preprocess(data, plan, order, fetched)
            np.testing.assert_array_equal(found, expected)
    return expected


class TestBits:
    @pytest.mark.parametrize("lens", LENSES)
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_of_every_encoding_and_lens(self, encoding, lens):
        image = frame(noise(640, 480), encoding, padding=24)
        for size in [(416, 256), (150, 90)]:  # below and above half size: Bayer differs
            check_bits(image, plan_for(image, *size, lens_named(lens)))

    @pytest.mark.parametrize("size", [(64, 4), (416, 256), (127, 33), (33, 130), (1, 1), (3, 2)])
    def test_of_every_size(self, size):
        image = frame(noise(320, 180), "nv12")
        check_bits(image, plan_for(image, *size))

    @pytest.mark.parametrize("encoding", ["bgr8", "mono8", "yuyv", "nv12", "bayer_gbrg8"])
    @pytest.mark.parametrize("source", [(2, 2), (2, 200), (200, 2), (4, 2), (1920, 1080)])
    def test_of_every_shape(self, source, encoding):
        image = frame(noise(*source), encoding, padding=3)
        for size in [(96, 64), (64, 96), (20, 12)]:
            check_bits(image, plan_for(image, *size))

    @pytest.mark.parametrize("encoding", ["bgr8", "nv12", "bayer_rggb8"])
    def test_where_a_lens_folds_and_shows_nothing(self, encoding):
        image = frame(noise(640, 480), encoding)
        box = Letterbox.fit(640, 480, 96, 72)
        folding = Lens((300.0, 300.0, 320.0, 240.0), (-0.35, *[0.0] * 7))
        grid = remap_grid(box, folding, (100.0, 100.0, 320.0, 240.0))
        assert (grid < -1e5).any() and (grid > 0).any()
        shown = check_bits(image, plan_frame(image, box, grid))
        assert np.abs(shown[0, 0].astype(int) - 114).max() <= 1

    @given(
        st.sampled_from(ENCODINGS),
        st.tuples(st.integers(1, 45), st.integers(1, 45)),
        st.tuples(st.integers(1, 140), st.integers(1, 20)),
        st.integers(0, 9),
        st.none() | st.tuples(st.floats(-0.6, 0.6), st.floats(-0.3, 0.3), st.booleans()),
        st.integers(0, 2**32 - 1),
    )
    @settings(max_examples=200)
    def test_of_anything(self, encoding, source, size, padding, distortion, seed):
        name = ALIASES.get(encoding, encoding)
        if name in PACKED or (BYTES_PER_PIXEL[name] < 3 and name not in ("mono8", "8uc1")):
            source = (4 * source[0] if name in PACKED else 2 * source[0], 2 * source[1])
        image = frame(noise(*source, seed), encoding, padding)
        lens = None
        if distortion is not None:
            k1, k2, fisheye = distortion
            centre = ((source[0] - 1) / 2, (source[1] - 1) / 2)
            lens = Lens((50.0, 50.0, *centre), (k1, k2, 0.001, 0.002, 0, 0, 0, 0), fisheye)
            box = Letterbox.fit(*source, *size)
            plan = plan_frame(image, box, remap_grid(box, lens, (40.0, 40.0, *centre)))
        else:
            plan = plan_for(image, *size)
        check_bits(image, plan)


@pytest.mark.parametrize("shift", [0, 1, 4, 8])
def test_all_of_the_input_is_written_and_nothing_around_it(shift):
    image = frame(noise(320, 180), "yuyv")
    plan = plan_for(image, 130, 74)
    pixels = np.frombuffer(image.data, np.uint8).ctypes.data
    cell, ticket = FrameCell(pixels, pixels, 7), ctypes.c_uint64()
    constants = [np.ascontiguousarray(array) for array in constants_of(plan)]
    nbytes, results = 130 * 74 * 3, []
    for before in (0, 255):
        memory = np.full(nbytes + 64 + shift, 0xA5, np.uint8)
        first = -memory.ctypes.data % 16 + 16 + shift
        inside = slice(first, first + nbytes)
        memory[inside] = before
        addresses = [array.ctypes.data for array in constants]
        told = ctypes.addressof(cell), ctypes.addressof(ticket)
        job = build_preprocess_job(plan, *told, memory.ctypes.data + first, addresses)
        kernels_on_host.load("preprocess").preprocess(ctypes.byref(job), *grid_of(plan)[:2], 0)
        assert ticket.value == 7
        results.append(memory[inside].copy())
        memory[inside] = 0xA5
        assert np.all(memory == 0xA5)
    np.testing.assert_array_equal(*results)


class TestFetch:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_of_a_frame_that_becomes_much_smaller_only_some_rows_are_read(self, encoding):
        image = frame(noise(1280, 720), encoding, padding=8)
        plan = plan_for(image, 208, 128)
        # Each of 117 rows of the picture needs two neighbours; of chroma too, or of 2 x 2 cells; of
        # planes, U and V too, and luma in two halves.
        times = 4 if encoding == "i420" else 2 if encoding.startswith(("nv", "bayer")) else 1
        assert len(plan.rows) <= 234 * times
        assert plan.row_bytes * len(plan.rows) < 0.7 * len(image.data)
        check_bits(image, plan)

    @pytest.mark.parametrize("shift", range(0, 32, 3))
    def test_it_writes_the_rows_and_nothing_far_from_them(self, shift):
        """A frame may begin anywhere; a piece at a row's end may have its surroundings."""
        image = frame(noise(333, 60), "mono8", padding=5)
        plan = plan_for(image, 40, 20)
        source = np.frombuffer(bytes(64) + bytes(image.data) + bytes(64), np.uint8).copy()
        begin = -source.ctypes.data % 16 + 16 + shift
        source[begin : begin + len(image.data)] = np.frombuffer(image.data, np.uint8)
        moved = np.full(source.size, 0xA5, np.uint8)
        first = -moved.ctypes.data % 16 + 16 + shift
        cell = FrameCell(moved.ctypes.data + first, source.ctypes.data + begin, 0)
        rows = np.ascontiguousarray(plan.rows)
        job, blocks = build_fetch_job(plan, ctypes.addressof(cell), rows.ctypes.data)
        kernels_on_host.load("fetch").fetch(ctypes.byref(job), blocks, 0)
        written = np.zeros(moved.size, bool)
        for row in plan.rows:
            ours, theirs = (at + np.arange(row, row + 333) for at in (first, begin))
            np.testing.assert_array_equal(moved[ours], source[theirs])
            low, high = ours[0] - 15, ours[-1] + 16
            written[low:high] = True
        assert (moved[~written] == 0xA5).all()


class TestAgainstTheCpuPath:
    """Allowed difference in grey levels: both round, and `cv2.resize` truncates where we do not."""

    @pytest.mark.parametrize("picture", [scene, noise])
    @pytest.mark.parametrize("size", [(416, 256), (200, 130)])
    @pytest.mark.parametrize("lens", LENSES)
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_the_picture_is_the_same(self, encoding, lens, size, picture):
        image = frame(picture(640, 480), encoding, padding=24)
        processor = Preprocessor(*size, undistort=True)
        if LENSES[lens] is not None:
            processor.calibrate(LENSES[lens])
        cpu = np.zeros((size[1], size[0], 3), np.uint8)
        processor.write(image, cpu, FrameHeader())
        plan = plan_for(image, *size, lens_named(lens))
        found = preprocess_oracle.preprocess(np.frombuffer(image.data, np.uint8), plan)
        difference = np.abs(found.astype(int) - cpu)
        yuv = encoding[:2] in ("yu", "uy", "nv", "i4")
        if lens != "none":
            # Maps and weights are the same; only the colour matrix rounds differently.
            assert difference.max() <= (1 if yuv else 0)
        elif yuv:
            # A difference of one level in luma and chroma, amplified by the matrix.
            assert difference.max() <= 4
            assert difference.mean() < 0.4
        else:
            assert difference.max() <= (2 if encoding.startswith("bayer") else 1)
            assert difference.mean() < 0.15

    @pytest.mark.parametrize("lens", ["barrel", "pincushion", "fisheye"])
    def test_the_map_is_opencvs(self, lens):
        box = Letterbox.fit(640, 480, 416, 256)
        found = lens_named(lens)
        grid = remap_grid(box, found, found.rectified_matrix(640, 480))
        for plane in plan_frame(frame(scene(640, 480), "nv12"), box, grid).planes:
            scale = np.array([plane.width, plane.height]) / (640, 480)
            position = ((grid + 0.5) * scale - 0.5).astype(np.float32)
            xy, fraction = cv2.convertMaps(position[:, :, 0], position[:, :, 1], cv2.CV_16SC2)
            np.testing.assert_array_equal(plane.xy, xy)
            np.testing.assert_array_equal(plane.fraction, fraction)


def test_what_contradicts_itself_or_is_too_large_is_rejected():
    box = Letterbox.fit(4, 4, 8, 8)
    with pytest.raises(FrameRejected, match="16 bytes are fewer than 4 rows of 12"):
        plan_frame(view(4, 4, "bgr8", 12, bytes(16)), box, None)
    huge = ImageView(0, "camera", 32768, 21846, "bgr8", 98304, range(1 << 32))
    with pytest.raises(FrameRejected, match="is too large"):
        plan_frame(huge, box, None)
    with pytest.raises(FrameRejected, match="is too large"):
        plan_frame(view(32768, 2, "mono8", 32768, bytes(65536)), box, np.zeros((4, 8, 2)))
