"""The preprocessor: in place, letterboxed, rectified, and never surprised by its input."""

import struct
from contextlib import contextmanager, suppress
from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import ENCODINGS, compressed, frame, scene, view

from perception_nodes.core.frame import CameraInfo, FrameFlag, FrameHeader, FrameRejected, ImageView
from perception_nodes.core.geometry import BoxesToSource, Letterbox, lens_of
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.formats import BAYER
from perception_nodes.preprocess.lens import UnknownLens, lens_from
from perception_nodes.preprocess.placement import Placement
from perception_nodes.preprocess.regions import Regions

WIDTH, HEIGHT = 416, 256
MATRIX = (400.0, 0.0, 319.5, 0.0, 400.0, 239.5, 0.0, 0.0, 1.0)
BARREL = CameraInfo(640, 480, "plumb_bob", (-0.3, 0.08, 0.001, -0.0005, 0.0), MATRIX)
FISHEYE = CameraInfo(640, 480, "equidistant", (0.03, -0.006, 0.001, -0.0005), MATRIX)


def preprocessor(info=None, undistort=True):
    made = Preprocessor(WIDTH, HEIGHT, undistort)
    if info is not None:
        made.calibrate(info)
    return made


def write(image, processor=None):
    out, header = np.zeros((HEIGHT, WIDTH, 3), np.uint8), FrameHeader()
    (processor or preprocessor()).write(image, out, header)
    return out, header


def jpeg(bgr, **options):
    options = {"colorspace": "BGR", "quality": 95, **options}
    return simplejpeg.encode_jpeg(np.ascontiguousarray(bgr), **options)


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize("info", [None, BARREL, FISHEYE], ids=["plain", "barrel", "fisheye"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_writes_all_of_the_given_buffer_and_nothing_around_it(encoding, info):
    canary, size = 64, HEIGHT * WIDTH * 3
    memory = np.full(size + 2 * canary, 0xA5, np.uint8)
    results = []
    for before in (0, 255):
        memory[canary:-canary] = before
        out = memory[canary:-canary].reshape(HEIGHT, WIDTH, 3)
        assert np.shares_memory(out, memory)
        preprocessor(info).write(frame(scene(640, 480), encoding), out, FrameHeader())
        results.append(out.copy())
    # No byte of the old content is left: every byte was written.
    np.testing.assert_array_equal(*results)
    assert np.all(memory[:canary] == 0xA5)
    assert np.all(memory[-canary:] == 0xA5)


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["bgr8", "mono8", "rgb8"]))
@settings(max_examples=100)
def test_does_so_for_any_shape(width, height, encoding):
    processor = Preprocessor(20, 12, undistort=False)
    bgr = np.full((height, width, 3), 200, np.uint8)
    out = np.zeros((12, 20, 3), np.uint8)
    processor.write(frame(bgr, encoding), out, FrameHeader())
    assert set(np.unique(out)) <= {200, 114}
    assert 200 in out


@pytest.mark.parametrize("size", [(1280, 720), (480, 640)])
def test_borders_are_grey(size):
    out, _ = write(frame(np.zeros((size[1], size[0], 3), np.uint8), "bgr8"))
    box = Letterbox.fit(*size, WIDTH, HEIGHT)
    rows = slice(box.pad_y, box.pad_y + box.inner_height)
    inner = out[rows, box.pad_x : box.pad_x + box.inner_width]
    assert not inner.any()
    inner[:] = 114
    assert (out == 114).all()


def test_the_header_describes_the_way_back():
    header = FrameHeader(flags=FrameFlag.CLOCK_SUSPECT)
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    preprocessor().write(frame(scene(1280, 720), "bgr8"), out, header)
    box = Letterbox.fit(1280, 720, WIDTH, HEIGHT)
    assert (header.source_width, header.source_height) == (1280, 720)
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    assert (header.scale_x, header.scale_y) == (box.scale_x, box.scale_y)
    assert (header.pad_x, header.pad_y) == (box.pad_x, box.pad_y)
    assert header.flags == FrameFlag.CLOCK_SUSPECT, "as it was set before"


def test_a_new_size_or_encoding_is_read_from_that_frame_on():
    processor = preprocessor(BARREL)
    sizes = [(size, "bgr8") for size in ((640, 480), (1280, 720), (480, 640))]
    for size, encoding in [*sizes, *(((640, 480), encoding) for encoding in ENCODINGS)]:
        image, fresh = frame(scene(*size), encoding), preprocessor(BARREL)
        found, header = write(image, processor)
        np.testing.assert_array_equal(found, write(image, fresh)[0])
        assert (header.source_width, header.source_height) == size


def test_a_new_calibration_is_used_from_that_frame_on():
    processor, image = preprocessor(), frame(scene(640, 480), "bgr8")
    plain, _ = write(image, processor)
    processor.calibrate(BARREL)
    barrel, header = write(image, processor)
    assert header.flags == FrameFlag.RECTIFIED
    processor.calibrate(FISHEYE)
    fisheye, header = write(image, processor)
    assert header.flags == FrameFlag.RECTIFIED | FrameFlag.FISHEYE
    processor.calibrate(CameraInfo(640, 480, "plumb_bob", (), MATRIX))
    again, header = write(image, processor)
    assert header.flags == 0
    np.testing.assert_array_equal(again, plain)
    assert np.abs(barrel.astype(int) - plain).max() > 20
    assert not np.array_equal(barrel, fisheye)


def test_a_rejected_frame_leaves_the_next_one_untouched():
    processor, image = preprocessor(BARREL), frame(scene(640, 480), "bgr8")
    expected, _ = write(image, processor)
    for bad in (view(640, 480, "bgr8", 1920, bytes(9)), compressed("jpeg", b"\xff\xd8\xff")):
        with pytest.raises(FrameRejected):
            write(bad, processor)
    np.testing.assert_array_equal(write(image, processor)[0], expected)


@pytest.mark.parametrize("info", [BARREL, FISHEYE], ids=["barrel", "fisheye"])
@pytest.mark.parametrize("encoding", ["bgr8", "nv12", "yuyv", "bayer_rggb8"])
def test_a_mark_in_the_source_is_where_the_header_says(encoding, info):
    bgr = np.full((480, 640, 3), 30, np.uint8)
    cv2.circle(bgr, (180, 130), 8, (240, 240, 240), -1)
    bgr = cv2.GaussianBlur(bgr, (0, 0), 3)  # an edge within a pixel would alias
    out, header = write(frame(bgr, encoding), preprocessor(info))
    # The rectified picture ends before the border, in grey, which is darker than the mark.
    bright = np.clip(out[:, :, 1].astype(float) - 120, 0, None)
    rows, columns = np.indices(bright.shape)
    x = (bright * (columns + 0.5)).sum() / bright.sum()
    y = (bright * (rows + 0.5)).sum() / bright.sum()
    box = np.array([[x - 0.05, y - 0.05, x + 0.05, y + 0.05]], np.float32)
    back = BoxesToSource(header, lens_of(header))(box)[0].reshape(2, 2).mean(axis=0)
    np.testing.assert_allclose(back, [180.5, 130.5], atol=0.3)


def test_the_border_of_a_rectified_picture_is_grey_in_every_encoding():
    """A pincushion lens leaves the corners of the rectified picture empty."""
    info = CameraInfo(640, 480, "plumb_bob", (0.25, 0.1, 0, 0, 0), MATRIX)
    white = np.full((480, 640, 3), 250, np.uint8)
    for encoding in (*ENCODINGS, "mono16", "rgb16", "bayer_rggb12"):
        bits = 0 if encoding in ENCODINGS else 12
        out, header = write(frame(white, encoding, bits=bits), preprocessor(info))
        box = Letterbox.fit(640, 480, WIDTH, HEIGHT)
        assert np.all(np.abs(out[box.pad_y + 2, box.pad_x + 2].astype(int) - 114) <= 1), encoding
        assert np.all(out[HEIGHT // 2, WIDTH // 2] > 240), encoding


def test_is_left_alone_where_rectifying_is_off():
    processor = preprocessor(BARREL, undistort=False)
    assert write(frame(scene(640, 480), "bgr8"), processor)[1].flags == 0


def test_a_calibration_for_another_size_is_not_used():
    processor = preprocessor(BARREL)
    assert write(frame(scene(1280, 960), "bgr8"), processor)[1].flags == 0
    assert processor.placer.is_fault
    sizes = "the calibration is of 640x480, and frames are 1280x960"
    assert processor.placer.unfit == f"frames are not rectified: {sizes}"
    write(frame(scene(640, 480), "bgr8"), processor)
    assert processor.placer.unfit == ""


@pytest.mark.parametrize("info", [BARREL, FISHEYE])
@given(
    st.tuples(*[st.integers(0, 200)] * 2),
    st.tuples(*[st.integers(40, 280)] * 2),
    st.tuples(*[st.integers(1, 4)] * 2),
)
def test_a_calibration_of_the_sensor_fits_a_part_of_it_binned(info, corner, size, bins):
    """Each pixel of the image has the ray of the middle of the pixels that it is made of."""
    info = replace(info, binning=bins, region=(*corner, *size))
    image = info.for_images(size[0] // bins[0], size[1] // bins[1])
    of_image, of_sensor = lens_from(image), lens_from(info)
    pixels = np.array([[0, 0], [image.width - 1, 0], [image.width // 2, image.height - 1]])
    middles = corner + pixels * bins + (np.array(bins) - 1) / 2
    found, expected = of_image.undistort(pixels), of_sensor.undistort(middles)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert info.for_images(641, 480) is None


@pytest.mark.parametrize(
    ("degrees", "region", "is_used"),
    [
        (110, (0, 0, 0, 0), True),
        (160, (0, 0, 0, 0), False),
        (185, (0, 0, 0, 0), False),
        (120, (0, 0, 160, 480), True),  # a part of the image has a middle of its own
        (120, (480, 0, 160, 160), True),
    ],
)
def test_a_lens_so_wide_that_objects_would_vanish_is_left_as_it_is(degrees, region, is_used):
    focal = 320 / np.radians(degrees / 2)
    matrix = (focal, 0.0, 319.5, 0.0, focal, 239.5, 0.0, 0.0, 1.0)
    info = CameraInfo(640, 480, "equidistant", (1e-9, 0, 0, 0), matrix, region=region)
    processor = preprocessor(info)
    size = region[2:] if any(region) else (640, 480)
    header = write(frame(scene(*size), "bgr8"), processor)[1]
    assert bool(header.flags & FrameFlag.RECTIFIED) == is_used
    assert not processor.placer.is_fault
    assert ("middle would shrink" in processor.placer.unfit) == (not is_used)


def test_a_calibration_of_what_is_published_is_used_as_it_is():
    """Some drivers state the sensor's binning or region beside it."""
    for info in (replace(BARREL, binning=(2, 2)), replace(BARREL, region=(0, 240, 320, 480))):
        assert info.for_images(640, 480) == BARREL
    assert replace(BARREL, region=(0, 240, 320, 480)).for_images(320, 480) is None
    assert replace(BARREL, binning=(2, 2)).for_images(320, 240).matrix[:3] == (200.0, 0.0, 159.5)


def test_a_calibration_that_has_nothing_to_rectify_fits_every_size():
    for matrix, distortion in ((MATRIX, (0.0,) * 5), (MATRIX, ()), ((0.0,) * 9, (0.0,) * 5)):
        info = CameraInfo(0, 0, "plumb_bob" if distortion else "", distortion, matrix)
        assert lens_from(info) is None
        processor = preprocessor(info)
        write(frame(scene(640, 480), "bgr8"), processor)
        assert processor.placer.unfit == ""


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (CameraInfo(640, 480, "mirror", (0.1,), MATRIX), "'mirror' is not supported"),
        (CameraInfo(640, 480, "plumb_bob", (0.1,), (0.0,) * 9), "intrinsics are unusable"),
        (CameraInfo(640, 480, "plumb_bob", (float("nan"),), MATRIX), "unusable"),
        (CameraInfo(640, 480, "plumb_bob", (0.1, *[0.0] * 8, 0.1), MATRIX), "thin-prism"),
        (CameraInfo(640, 480, "equidistant", (0.1, 0, 0, 0, 0.1), MATRIX), "four"),
        (CameraInfo(640, 480, "plumb_bob", (-1e9,), MATRIX), "cannot be rectified"),
    ],
)
def test_an_unusable_calibration_is_refused_and_frames_go_on_without_it(info, reason):
    processor = preprocessor()
    with pytest.raises(UnknownLens, match=reason):
        processor.calibrate(info)
    out, header = write(frame(scene(640, 480), "bgr8"), processor)
    assert header.flags == 0
    assert reason in processor.placer.unfit
    np.testing.assert_array_equal(out, write(frame(scene(640, 480), "bgr8"))[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    st.lists(st.floats(width=32), max_size=14).map(tuple),
    st.lists(st.floats(width=32), min_size=9, max_size=9).map(tuple),
    st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "x"]),
    st.sampled_from([(1, 1), (2, 1), (64, 48)]),
)
@settings(max_examples=200)
def test_no_calibration_breaks_a_frame(distortion, matrix, model, size):
    processor = Preprocessor(32, 32, undistort=True)
    try:
        processor.calibrate(CameraInfo(*size, model, distortion, matrix))
    except UnknownLens as error:
        assert "\n" not in str(error)
    out, header = np.zeros((32, 32, 3), np.uint8), FrameHeader()
    processor.write(frame(scene(*size), "bgr8"), out, header)
    back = BoxesToSource(header, lens_of(header))(np.array([[8, 8, 24, 24]], np.float32))
    assert np.isfinite(back).all()
    with suppress(FrameRejected):
        region = out[:16, :16], FrameHeader()
        Regions(16, 16, 0).write(frame(scene(*size), "bgr8"), header, (40, 8), 8, *region)
        back = BoxesToSource(region[1], lens_of(region[1]))(np.array([[8, 8, 9, 9]], np.float32))
        assert np.isfinite(back).all()


def test_what_takes_long_is_prepared_in_the_context_for_it():
    processor, prepared = preprocessor(), []

    @contextmanager
    def preparing():
        prepared.append(True)
        yield

    processor.placer.preparing = preparing
    small = compressed("jpeg", jpeg(scene(320, 240)))
    large = compressed("jpeg", jpeg(scene(640, 480)))
    for image in (large, small):
        write(image, processor)
        assert not prepared, "without a calibration nothing takes long"
    processor.calibrate(replace(BARREL, width=320, height=240))
    assert len(prepared) == 2, "the lens and its maps, before the frame, which would be late"
    for image, expected in ((small, 2), (small, 2), (large, 3), (large, 3), (small, 5), (small, 5)):
        write(image, processor)
        assert len(prepared) == expected  # the calibration does not fit the large ones


@pytest.mark.parametrize("is_rectified", [False, True])
@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1920, 1080), (200, 100)])
def test_a_jpeg_decoded_at_a_smaller_scale_shows_the_same(size, is_rectified):
    bgr, processor, (width, height) = scene(*size), preprocessor(), size
    if is_rectified:
        matrix = (width / 1.6, 0, width / 2, 0, width / 1.6, height / 2, 0, 0, 1)
        processor.calibrate(CameraInfo(*size, "plumb_bob", BARREL.distortion, matrix))
    found, header = write(compressed("jpeg", jpeg(bgr)), processor)
    expected, _ = write(frame(bgr, "bgr8"), processor)
    assert (header.source_width, header.source_height) == size
    assert header.copies == 1
    assert header.flags == (FrameFlag.RECTIFIED if is_rectified else 0)
    # The edge of the picture against the grey border is not where it was.
    inside = np.s_[40:-40, 60:-60] if is_rectified else np.s_[:]
    difference = np.abs(found.astype(int) - expected)[inside]
    # JPEG's own loss at quality 95, and its scaling by averages instead of samples.
    assert difference.mean() < 1.5
    assert difference.max() <= 12


@pytest.mark.parametrize(
    ("kind", "file", "difference"),
    [
        ("png", lambda bgr: png(bgr), 0),
        ("png", lambda bgr: png(bgr.astype(np.uint16) << 8), 1),
        ("png", lambda bgr: png(np.round(bgr / 255 * 4095).astype(np.uint16)), 1),
        ("png", lambda bgr: png(np.dstack([bgr, np.full(bgr.shape[:2], 9, np.uint8)])), 0),
        ("bayer_rggb8; png", lambda bgr: png(bgr), 0),
        ("jpeg", lambda bgr: jpeg(bgr, quality=100) + bytes(512), 9),
        ("bayer_rggb8; jpeg", lambda bgr: jpeg(bgr, quality=100), 9),
    ],
    ids=["png", "16 bits", "12 bits", "alpha", "no mosaic", "jpeg with a tail", "jpeg, no mosaic"],
)
def test_a_file_shows_its_pixels(kind, file, difference):
    """A file in colour is no mosaic, whatever its name."""
    bgr = scene(640, 480)
    found, header = write(compressed(kind, file(bgr)))
    assert np.abs(found.astype(int) - write(frame(bgr, "bgr8"))[0]).max() <= difference
    assert header.copies == 1


def test_a_grey_jpeg_is_a_picture_too():
    grey = np.full((480, 640, 1), 90, np.uint8)
    out, _ = write(compressed("jpeg", jpeg(grey, colorspace="GRAY")))
    assert np.abs(out[128, 208].astype(int) - 90).max() <= 1


@pytest.mark.parametrize("size", [(640, 480), (1280, 960)], ids=["0.53", "0.27"])
@pytest.mark.parametrize("encoding", BAYER)
def test_a_mosaic_in_a_grey_file_is_shown_like_its_pixels(encoding, size):
    image = frame(scene(*size), f"{encoding}8")
    mosaic = np.frombuffer(image.data, np.uint8).reshape(*size[::-1], 1)
    expected = write(image)[0].astype(int)
    found, header = write(compressed(f"{encoding}8; png", png(mosaic)))
    np.testing.assert_array_equal(found, expected)
    assert (header.source_width, header.source_height) == size
    # A JPEG of 16 bits does not exist: its samples are what image_transport cut to 8.
    for bits in (8, 16):
        file = jpeg(mosaic, colorspace="GRAY", quality=100)
        found, _ = write(compressed(f"{encoding}{bits}; jpeg", file))
        assert np.abs(found - expected).max() <= 6


def test_a_deep_mosaic_in_a_png_is_scaled_to_8_bits():
    image = frame(scene(640, 480), "bayer_grbg16", bits=12)
    mosaic = np.frombuffer(image.data, np.uint16).reshape(480, 640)
    found, _ = write(compressed("bayer_grbg16; png", png(mosaic)))
    np.testing.assert_array_equal(found, write(image)[0])


def test_a_mosaic_of_unknown_colours_is_refused():
    grey = png(np.zeros((48, 64), np.uint8))
    with pytest.raises(FrameRejected, match="'bayer_rgbw8' is not supported"):
        write(compressed("bayer_rgbw8; png", grey))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_file_cut_off_anywhere_is_rejected(kind):
    bgr = scene(64, 48)
    data = jpeg(bgr) if kind == "jpeg" else png(bgr)
    processor = preprocessor()
    for length in [*range(0, len(data) - 1, 17), len(data) - 1]:
        with pytest.raises(FrameRejected, match=kind):
            write(compressed(kind, data[:length]), processor)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_forged_size_costs_nothing(kind):
    bgr = scene(64, 48)
    if kind == "jpeg":
        data = bytearray(jpeg(bgr))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 65500, 65500)
    else:
        data = bytearray(png(bgr))
        data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    with pytest.raises(FrameRejected, match="is not plausible for a camera"):
        write(compressed(kind, bytes(data)))


def test_a_png_that_would_hold_up_all_others_is_refused_and_a_slow_one_is_announced():
    announced = []

    @contextmanager
    def preparing():
        announced.append("begins")
        yield
        announced.append("ends")

    processor = preprocessor()
    write(compressed("png", png(scene(64, 48))), processor)
    processor.placer.preparing = preparing
    write(compressed("png", png(scene(64, 48))), processor)
    assert not announced
    write(compressed("png", png(scene(1280, 1024))), processor)
    assert announced == ["begins", "ends"]
    with pytest.raises(FrameRejected, match="4000x3000 takes too long to decode"):
        write(compressed("png", png(scene(4000, 3000))), processor)


def test_other_content_than_its_name_says_is_rejected():
    with pytest.raises(FrameRejected, match="jpeg"):
        write(compressed("jpeg", png(scene(64, 48))))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@given(data=st.data())
@settings(max_examples=150)
def test_damage_is_rejected_or_harmless(kind, data):
    bgr = scene(64, 48)
    file = bytearray(jpeg(bgr) if kind == "jpeg" else png(bgr))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(3, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        write(compressed(kind, bytes(file)))
    except FrameRejected as error:
        assert "\n" not in str(error)


def test_a_stretched_frame_and_a_border_of_another_grey():
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    view, out = ImageView.of_pixels(picture), np.empty((32, 64, 3), np.uint8)
    header = FrameHeader()
    Preprocessor(64, 32, undistort=False, resize="stretch").write(view, out, header)
    np.testing.assert_array_equal(out, cv2.resize(picture, (64, 32)))
    assert (header.scale_x, header.scale_y) == (64 / 40, 32 / 30)
    assert Placement.of(header) == Placement.fit((40, 30), (64, 32), None, "stretch")
    Preprocessor(64, 32, undistort=False, padding=0).write(view, out, header)
    assert not out[:, :10].any() and not out[:, 54:].any() and out[:, 20].any()
