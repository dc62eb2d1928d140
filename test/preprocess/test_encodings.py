"""Each encoding against OpenCV's full-size conversion, followed by the same scaling."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import DEEP_ENCODINGS, ENCODINGS, frame, scene, view

from perception_nodes.core.frame import FrameHeader, FrameRecord, FrameRejected
from perception_nodes.core.geometry import Letterbox
from perception_nodes.preprocess.cpu import BRIGHTER_FRAMES, RECENT_FRAMES, Preprocessor
from perception_nodes.preprocess.encodings import planes_of
from perception_nodes.preprocess.formats import ALIASES, BYTES_PER_PIXEL, PACKED

WIDTH, HEIGHT = 416, 256
EXACT = {"bgr8", "rgb8", "8uc3", "bgra8", "8uc4", "rgba8", "mono8", "8uc1"}


def opencv(image, bgr):
    """The frame as full-size BGR, by OpenCV's own conversions."""
    data = np.frombuffer(image.data, np.uint8).reshape(-1, image.step)
    encoding = ALIASES.get(image.encoding, image.encoding)
    if encoding.startswith("mono") and encoding.endswith("p"):
        return cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    height, width = image.height, image.width
    # The picture that a mosaic was taken from is a better judge than OpenCV's.
    if encoding in ("bgr8", "8uc3") or encoding.startswith("bayer"):
        return bgr
    plain = {"rgb8": "RGB", "bgra8": "BGRA", "rgba8": "RGBA", "mono8": "GRAY", "8uc1": "GRAY"}
    yuv = {"yuyv": "YUY2"}.get(encoding, encoding.upper())
    name = f"{plain[encoding]}2BGR" if encoding in plain else f"YUV2BGR_{yuv}"
    code, channels = getattr(cv2, f"COLOR_{name}"), BYTES_PER_PIXEL[encoding]
    rows = np.ascontiguousarray(data[:, : width * channels])
    if encoding == "i420":
        chroma = data[height:].reshape(height, -1)[:, : width // 2]
        rows = np.vstack([rows[:height], chroma.reshape(height // 2, width)])
    shape = (rows.shape[0], width) if channels == 1 else (height, width, channels)
    return cv2.cvtColor(rows.reshape(shape), code)


def expected(image, bgr):
    box = Letterbox.fit(*bgr.shape[1::-1], WIDTH, HEIGHT)
    out = np.full((HEIGHT, WIDTH, 3), 114, np.uint8)
    size = box.inner_width, box.inner_height
    inner = cv2.resize(opencv(image, bgr), size, interpolation=cv2.INTER_LINEAR)
    out[box.pad_y : box.pad_y + box.inner_height, box.pad_x : box.pad_x + box.inner_width] = inner
    return out


def processed(image):
    out, header = np.zeros((HEIGHT, WIDTH, 3), np.uint8), FrameHeader()
    Preprocessor(WIDTH, HEIGHT, undistort=False).write(image, out, header)
    return out, header


@pytest.mark.parametrize("padding", [0, 24], ids=["packed", "padded"])
@pytest.mark.parametrize("size", [(640, 480), (1280, 720)], ids=["0.53", "0.33"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_shows_what_opencv_shows(encoding, size, padding):
    bgr = scene(*size)
    image = frame(bgr, encoding, padding)
    found, _ = processed(image)
    difference = np.abs(found.astype(int) - expected(image, bgr))
    if encoding in EXACT:
        # Choosing channels before or after scaling gives the same numbers.
        assert difference.max() == 0
    elif encoding.startswith("bayer"):
        # The colours of a Bayer cell are half a pixel apart, and at the edge of the picture there
        # is nothing to interpolate from.
        assert difference[16:-16, 16:-16].max() <= 6
        assert difference.mean() < 1.5
    else:
        # Chroma is interpolated here, repeated by OpenCV; each rounds once more than the other.
        assert difference.max() <= 5
        assert difference.mean() < 1.0


def plain_oracle(image, bits):
    """A deep frame without OpenCV's 16-bit code: divided to 8 bits first, then as that is shown."""
    family = {"16uc1": "mono", "16uc3": "bgr", "16uc4": "bgra"}.get(image.encoding)
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    samples = rows[:, 0::2] + 256.0 * rows[:, 1::2]
    shown = np.minimum(np.rint(255 * samples / (2**bits - 1)), 255).astype(np.uint8)
    name = f"{family or image.encoding[:-2]}8"
    return view(image.width, image.height, name, image.step // 2, shown.tobytes())


@pytest.mark.parametrize("size", [(640, 120), (1280, 240)], ids=["0.65", "0.33"])
@pytest.mark.parametrize("encoding", DEEP_ENCODINGS)
def test_samples_of_more_than_8_bits_are_scaled_to_8(encoding, size):
    most = 16 if encoding.startswith("16uc") else int(encoding[-2:])
    for bits in (bits for bits in (10, 12, 14, 16) if bits <= most):
        image = frame(scene(*size), encoding, padding=24, bits=bits)
        found, header = processed(image)
        difference = np.abs(found.astype(int) - processed(plain_oracle(image, bits))[0])
        # Scaled with 16 bits and rounded once, against rounded to 8 bits before.
        assert difference.max() <= (2 if "bayer" in encoding else 1)
        assert header.copies == (1 if "bayer" in encoding and size[0] == 640 else 0)


def shown(frames, sample_bits=0):
    """How bright grey frames appear: each of a brightness, with so many outliers of 65535."""
    processor = Preprocessor(WIDTH, HEIGHT, undistort=False, sample_bits=sample_bits)
    out, found = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
    for brightness, outliers in frames:
        pixels = np.full((512, 832), brightness, "<u2")
        pixels[::4, ::4][0, :outliers] = 65535
        processor.write(view(832, 512, "mono16", 1664, pixels.tobytes()), out, FrameHeader())
        found.append(int(out[128, 208, 0]))
    return found


def test_the_brightness_of_a_picture_does_not_change_when_the_scene_gets_dark():
    found = shown((one, 0) for one in (900, *[4095] * BRIGHTER_FRAMES, 900))
    assert found[0::BRIGHTER_FRAMES] == [224, 255] and found[-1] == 56  # of 10, 12 and 12 bits


def test_a_disturbed_frame_does_not_darken_the_pictures_that_follow():
    rare = [2048] * (RECENT_FRAMES // (BRIGHTER_FRAMES - 1))
    frames = (*[*rare, 65535] * 10, *[2048, 65535] * BRIGHTER_FRAMES, 2048)
    found = shown((one, 0) for one in frames)
    assert found[: 10 * len(rare) + 10] == [*[128] * len(rare), 255] * 10
    assert found[-1] == 8  # where many alternate with darker ones they are the scene


def test_an_outlier_does_not_darken_the_picture():
    """One in a thousand samples; more of them are the scene."""
    outliers = (0, *[26] * BRIGHTER_FRAMES, 0, *[27] * BRIGHTER_FRAMES, 0)
    found = shown((2048, one) for one in outliers)
    assert found[:-2] == [128] * (2 * BRIGHTER_FRAMES + 1) and found[-2:] == [8, 8]


def test_the_number_of_significant_bits_can_be_given():
    assert shown([(900, 0)], sample_bits=12) == [56]


def test_the_first_frame_of_more_than_8_bits_shows_how_many():
    processor = Preprocessor(WIDTH, HEIGHT, undistort=False)
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    processor.write(view(832, 512, "mono8", 832, bytes(512 * 832)), out, FrameHeader())
    deep = np.full((512, 832), 2048, "<u2").tobytes()
    processor.write(view(832, 512, "mono16", 1664, deep), out, FrameHeader())
    assert out[128, 208, 0] == 128


def test_an_opaque_alpha_channel_does_not_darken_the_picture():
    pixels = np.full((512, 832, 4), 65535, "<u2")
    pixels[:, :, :3] = 2048
    image = view(832, 512, "bgra16", 8 * 832, pixels.tobytes())
    assert processed(image)[0][128, 208].tolist() == [128] * 3


@pytest.mark.parametrize("colour", [(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize(
    "encoding", sorted(set(ENCODINGS) - {"mono8", "8uc1", "mono10p", "mono12p"})
)
def test_pure_colours_keep_their_names(encoding, colour):
    found, _ = processed(frame(np.full((512, 832, 3), colour, np.uint8), encoding))
    assert np.abs(found[100, 200].astype(int) - colour).max() <= 4


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_full_frame_is_copied_but_packed_ones_and_planes_are_views_of_it(encoding):
    image = frame(scene(1280, 960), encoding)
    pixels = np.frombuffer(image.data, np.uint8)
    is_packed = encoding in PACKED
    assert is_packed or all(np.shares_memory(plane, pixels) for plane in planes_of(image))
    assert processed(image)[1].copies == is_packed


def test_a_small_bayer_frame_is_copied_for_its_resolution():
    assert processed(frame(scene(640, 480), "bayer_rggb8"))[1].copies == 1


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (view(4, 4, "32fc1", 16, bytes(64)), "'32fc1' is not supported"),
        (view(4, 4, "mono16", 9, bytes(36)), "step 9 is not even"),
        (view(4, 3, "bayer_rggb12", 8, bytes(99)), "4x3 is no multiple of 2x2"),
        (view(0, 4, "bgr8", 12, bytes(48)), "0x4 holds no pixels"),
        (view(4, 4, "bgr8", 11, bytes(48)), "step 11 is less than the 12"),
        (view(4, 4, "bgr8", 12, bytes(47)), "47 bytes are fewer than 4 rows of 12"),
        (view(4, 4, "nv12", 4, bytes(23)), "23 bytes are fewer than 6 rows of 4"),
        (view(3, 4, "nv12", 3, bytes(99)), "3x4 is no multiple of 2x2"),
        (view(3, 4, "uyvy", 6, bytes(99)), "3x4 is no multiple of 2x1"),
        (view(6, 4, "mono10p", 9, bytes(99)), "6x4 is no multiple of 4x1"),
        (view(65535, 65535, "bgr8", 196605, bytes(99)), "99 bytes are fewer"),
    ],
)
def test_a_frame_that_contradicts_itself_is_rejected_with_the_reason(image, reason):
    with pytest.raises(FrameRejected, match=reason):
        planes_of(image)


def test_the_refusal_of_an_encoding_names_the_known_ones():
    with pytest.raises(FrameRejected, match="known are bgr8, rgb8.*nv12.*jpeg, png") as refused:
        planes_of(view(4, 4, "x" * 31, 12, bytes(99)))
    assert len(str(refused.value)) < FrameRecord.reason.size


def test_a_yuv_frame_of_odd_height_and_a_mono_one_of_odd_size_are_fine():
    planes_of(view(4, 3, "yuyv", 8, bytes(24)))
    planes_of(view(3, 3, "mono8", 3, bytes(9)))


SIZES = st.integers(0, 40) | st.sampled_from([40_000, 70_000, 2**31, 2**32 - 1])


@given(
    st.sampled_from([*ENCODINGS, *DEEP_ENCODINGS, "jpeg", "png", "BGR8", "x"]),
    SIZES,
    SIZES,
    st.none() | st.integers(0, 200),
    st.none() | st.binary(max_size=3000),
)
@settings(max_examples=500)
def test_nothing_but_a_rejection_escapes(encoding, width, height, step, data):
    step = 4 * width if step is None else step
    if data is None:
        data = bytes(2 * step * height if step * height < 1_500_000 else 100)
    try:
        processed(view(width, height, encoding, step, data))
    except FrameRejected as error:
        assert "\n" not in str(error)
