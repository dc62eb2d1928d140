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

from perception_nodes.core.frame import CameraInfo, FrameHeader, FrameRejected, ImageView
from perception_nodes.core.geometry import Lens, Letterbox, remap_grid
from perception_nodes.gpu.preprocess_job import (
    FrameCell,
    InputFormat,
    build_preprocess_job,
    constants_of,
    grid_of,
    plan_frame,
)
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.formats import ALIASES, BYTES_PER_PIXEL
from perception_nodes.preprocess.lens import lens_from

MATRIX = (400.0, 0.0, 319.5, 0.0, 400.0, 239.5, 0.0, 0.0, 1.0)
LENSES = {
    "none": None,
    "barrel": CameraInfo(640, 480, "plumb_bob", (-0.3, 0.08, 0.001, -0.0005, 0.0), MATRIX),
    "pincushion": CameraInfo(640, 480, "plumb_bob", (0.25, 0.1, 0, 0, 0), MATRIX),
    "fisheye": CameraInfo(640, 480, "equidistant", (0.03, -0.006, 0.001, -0.0005), MATRIX),
}
OUTPUTS = [
    ("uint8", "NHWC", "BGR", 1.0, 0.0),
    ("uint8", "NCHW", "RGB", 1.0, 0.0),
    ("int8", "NCHW", "BGR", 1.0, -128.0),
    ("float16", "NCHW", "RGB", 1 / 255, 0.0),
    ("float32", "NCHW", "BGR", 1 / 58.4, -2.1),
    ("float32", "NHWC", "RGB", 1 / 255, 0.0),
]


def plan_for(image, width, height, lens=None):
    box = Letterbox.fit(image.width, image.height, width, height)
    if lens is None:
        return plan_frame(image, box, None)
    return plan_frame(
        image, box, remap_grid(box, lens, lens.rectified_matrix(image.width, image.height))
    )


def lens_named(name):
    info = LENSES[name]
    return None if info is None else lens_from(info)


def output_of(width, height, dtype="uint8", layout="NHWC", order="BGR", scale=1.0, bias=0.0):
    return InputFormat(
        width, height, dtype, layout, order, (scale,) * 3, (bias, bias + 1, bias - 1)
    )


def check_bits(image, plan, input_format):
    data = np.frombuffer(image.data, np.uint8)
    expected = preprocess_oracle.preprocess(data, plan, input_format)
    assert (expected.shape, expected.dtype) == (input_format.shape, np.dtype(input_format.dtype))
    for order in (kernels_on_host.FORWARDS, kernels_on_host.BACKWARDS):
        found = kernels_on_host.preprocess(data, plan, input_format, order)
        assert found.tobytes() == expected.tobytes()
    return expected


class TestBits:
    @pytest.mark.parametrize("lens", LENSES)
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_of_every_encoding_and_lens(self, encoding, lens):
        image = frame(noise(640, 480), encoding, padding=24)
        for size in [(416, 256), (150, 90)]:  # below and above half size: Bayer differs
            check_bits(image, plan_for(image, *size, lens_named(lens)), InputFormat(*size))

    @pytest.mark.parametrize("settings", OUTPUTS, ids=lambda o: "-".join(map(str, o[:3])))
    @pytest.mark.parametrize("size", [(64, 4), (416, 256), (127, 33), (33, 130), (1, 1), (3, 2)])
    def test_of_every_output(self, size, settings):
        image = frame(noise(320, 180), "nv12")
        check_bits(image, plan_for(image, *size), output_of(*size, *settings))

    @pytest.mark.parametrize("encoding", ["bgr8", "mono8", "yuyv", "nv12", "bayer_gbrg8"])
    @pytest.mark.parametrize("source", [(2, 2), (2, 200), (200, 2), (4, 2), (1920, 1080)])
    def test_of_every_shape(self, source, encoding):
        image = frame(noise(*source), encoding, padding=3)
        for size in [(96, 64), (64, 96), (20, 12)]:
            check_bits(image, plan_for(image, *size), InputFormat(*size))

    @pytest.mark.parametrize("source", [(1, 1), (1, 77), (77, 1), (3, 3)])
    def test_of_a_single_row_or_column(self, source):
        image = frame(noise(*source), "rgb8", padding=1)
        check_bits(image, plan_for(image, 40, 30), InputFormat(40, 30))

    @pytest.mark.parametrize("encoding", ["bgr8", "nv12", "bayer_rggb8"])
    def test_where_a_lens_folds_and_shows_nothing(self, encoding):
        image = frame(noise(640, 480), encoding)
        box = Letterbox.fit(640, 480, 96, 72)
        folding = Lens((300.0, 300.0, 320.0, 240.0), (-0.35, *[0.0] * 7))
        grid = remap_grid(box, folding, (100.0, 100.0, 320.0, 240.0))
        assert (grid < -1e5).any() and (grid > 0).any()
        plan = plan_frame(image, box, grid)
        shown = check_bits(image, plan, InputFormat(96, 72))
        assert np.abs(shown[0, 0, 0].astype(int) - 114).max() <= 1

    @given(
        st.sampled_from(ENCODINGS),
        st.tuples(st.integers(1, 45), st.integers(1, 45)),
        st.tuples(st.integers(1, 140), st.integers(1, 20)),
        st.integers(0, 9),
        st.sampled_from(OUTPUTS),
        st.none() | st.tuples(st.floats(-0.6, 0.6), st.floats(-0.3, 0.3), st.booleans()),
        st.integers(0, 2**32 - 1),
    )
    @settings(max_examples=200)
    def test_of_anything(self, encoding, source, size, padding, settings, distortion, seed):
        name = ALIASES.get(encoding, encoding)
        if BYTES_PER_PIXEL[name] < 3 and name not in ("mono8", "8uc1"):
            source = (2 * source[0], 2 * source[1])
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
        check_bits(image, plan, output_of(*size, *settings))


@pytest.mark.parametrize("shift", [0, 1, 4, 8])
@pytest.mark.parametrize("settings", OUTPUTS, ids=lambda o: "-".join(map(str, o[:3])))
def test_all_of_the_input_is_written_and_nothing_around_it(settings, shift):
    image = frame(noise(320, 180), "yuyv")
    input_format = output_of(130, 74, *settings)
    plan = plan_for(image, 130, 74)
    shift = shift // np.dtype(input_format.dtype).itemsize * np.dtype(input_format.dtype).itemsize
    cell = FrameCell(np.frombuffer(image.data, np.uint8).ctypes.data, 7)
    ticket = ctypes.c_uint64()
    constants = [np.ascontiguousarray(array) for array in constants_of(plan, input_format)]
    results = []
    for before in (0, 255):
        memory = np.full(input_format.nbytes + 64 + shift, 0xA5, np.uint8)
        first = -memory.ctypes.data % 16 + 16 + shift
        inside = slice(first, first + input_format.nbytes)
        memory[inside] = before
        address = memory.ctypes.data + first
        addresses = [array.ctypes.data for array in constants]
        told = ctypes.addressof(cell), ctypes.addressof(ticket)
        job = build_preprocess_job(plan, input_format, *told, address, addresses)
        kernels_on_host.load("preprocess").preprocess(
            ctypes.byref(job), *grid_of(input_format)[:2], 0
        )
        assert ticket.value == 7
        results.append(memory[inside].copy())
        memory[inside] = 0xA5
        assert np.all(memory == 0xA5)
    np.testing.assert_array_equal(*results)


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
        found = preprocess_oracle.preprocess(
            np.frombuffer(image.data, np.uint8), plan, InputFormat(*size)
        )[0]
        difference = np.abs(found.astype(int) - cpu)
        yuv = encoding[:2] in ("yu", "uy", "nv")
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
        image = frame(scene(640, 480), "nv12")
        box = Letterbox.fit(640, 480, 416, 256)
        found = lens_named(lens)
        grid = remap_grid(box, found, found.rectified_matrix(640, 480))
        plan = plan_frame(image, box, grid)
        for plane in plan.planes:
            scale = np.array([plane.width, plane.height]) / (640, 480)
            position = ((grid + 0.5) * scale - 0.5).astype(np.float32)
            xy, fraction = cv2.convertMaps(position[:, :, 0], position[:, :, 1], cv2.CV_16SC2)
            np.testing.assert_array_equal(plane.xy, xy)
            np.testing.assert_array_equal(plane.fraction, fraction)


@pytest.mark.parametrize(
    ("dtype", "scale", "bias", "pixel", "value"),
    [
        ("uint8", 1.0, 0.0, 255, 255),
        ("int8", 1.0, -128.0, 0, -128),
        ("int8", 1.0, 0.0, 200, 127),
        ("int8", 0.5, 0.0, 5, 2),  # 2.5, to even
        ("int8", 0.5, 0.0, 7, 4),  # 3.5, to even
        ("uint8", -1.0, 0.0, 9, 0),
        ("float16", 1 / 255, 0.0, 51, np.float16(0.2)),
        ("float32", 1 / 255, -0.5, 255, 0.5),
    ],
)
def test_values_are_scaled_rounded_and_limited(dtype, scale, bias, pixel, value):
    table = InputFormat(8, 8, dtype, scale=(scale,) * 3, bias=(bias,) * 3).table()
    assert table.shape == (3, 256)
    assert table[1, pixel] == value


def test_channels_are_scaled_by_their_own_numbers_in_the_outputs_order():
    image = frame(np.full((32, 32, 3), (10, 20, 30), np.uint8), "bgr8")
    input_format = InputFormat(16, 16, "float32", "NCHW", "RGB", (1.0, 2.0, 3.0), (0.5, 0.0, -0.5))
    found = check_bits(image, plan_for(image, 16, 16), input_format)
    assert found[0, :, 8, 8].tolist() == [30.5, 40.0, 29.5]


def test_what_contradicts_itself_or_is_too_large_is_rejected():
    box = Letterbox.fit(4, 4, 8, 8)
    with pytest.raises(FrameRejected, match="16 bytes are fewer than 4 rows of 12"):
        plan_frame(view(4, 4, "bgr8", 12, bytes(16)), box, None)
    huge = ImageView(0, "camera", 32768, 21846, "bgr8", 98304, range(1 << 32))
    with pytest.raises(FrameRejected, match="is too large"):
        plan_frame(huge, box, None)
    with pytest.raises(FrameRejected, match="is too large"):
        plan_frame(view(32768, 2, "mono8", 32768, bytes(65536)), box, np.zeros((4, 8, 2)))


def test_without_a_compiler_it_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(kernels_on_host.CompilerMissing, match="'no-such-compiler'.*install g"):
        kernels_on_host.load("preprocess")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(kernels_on_host.CompilerMissing, match="false .* fails"):
        kernels_on_host.load("preprocess")
    assert not list(tmp_path.rglob("*.so")) and not list(tmp_path.rglob("*.part"))
