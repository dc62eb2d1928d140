"""Regions of frames at the resolution of their source."""

import cv2
import numpy as np
import pytest
from pictures import DEEP_ENCODINGS, ENCODINGS, compressed, frame, noise, scene
from test_cpu import BARREL, FISHEYE, jpeg, preprocessor

from perception_nodes.core.frame import FrameFlag, FrameHeader, FrameRejected, is_region_of
from perception_nodes.core.geometry import BoxesToSource, Lens, lens_of
from perception_nodes.preprocess.placement import Placement
from perception_nodes.preprocess.regions import Regions, cropped, is_in_full

SIZE = WIDTH, HEIGHT = 64, 32
GREY = 99


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", [*ENCODINGS, *DEEP_ENCODINGS])
def test_a_region_is_what_a_camera_of_that_size_would_send(encoding, padding):
    bits = 10 if encoding in DEEP_ENCODINGS else 0
    bgr = noise(48, 40)
    found = cropped(frame(bgr, encoding, padding, bits), 12, 8, 16, 20)
    wanted = frame(bgr[8:28, 12:28], encoding, 0, bits)
    assert (found.width, found.height, found.step) == (16, 20, wanted.step)
    assert bytes(found.data) == bytes(wanted.data)


@pytest.mark.parametrize(
    ("source", "region", "begins"),
    [
        ((160, 120), (0, 0), (0, 0)),
        ((160, 120), (55, 41), (52, 40)),
        ((160, 120), (96, 88), (96, 88)),
        ((161, 121), (500, 500), (96, 88)),
        ((160, 120), (-9, -9), (0, 0)),
        ((160, 20), (55, -6), (52, -6)),
        ((40, 120), (-12, 41), (-12, 40)),
    ],
)
def test_the_header_is_the_exact_way_back(source, region, begins):
    bgr, header = noise(*source), FrameHeader()
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    Regions(*SIZE, GREY).write(frame(bgr, "bgr8"), FrameHeader(), region, 8, out, header)
    assert (header.source_width, header.source_height) == source
    assert (-header.pad_x, -header.pad_y) == begins
    beside = [
        (max(-one, 0), max(own + one - all_, 0))
        for one, own, all_ in zip(begins, SIZE, source, strict=True)
    ]
    padded = np.pad(bgr, (*beside[::-1], (0, 0)), constant_values=GREY)
    left, top = (max(one, 0) for one in begins)
    np.testing.assert_array_equal(out, padded[top : top + HEIGHT, left : left + WIDTH])
    back = BoxesToSource(header, None)(np.array([[20, 10, 30, 15]], np.float32))[0]
    np.testing.assert_array_equal(back[:2], np.array(begins) + (20, 10))
    np.testing.assert_array_equal(back[2:], np.array(begins) + (30, 15))


def test_samples_of_more_bits_are_as_bright_as_in_the_whole_frame():
    grey = np.full((120, 160, 3), 200, np.uint8)
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    regions = Regions(*SIZE, GREY)
    for bits in (12, 10):
        image = frame(grey, "mono16", bits=bits)
        regions.write(image, FrameHeader(), (8, 8), bits, out, FrameHeader())
        assert (out == 200).all()


@pytest.mark.parametrize("region", [(288, 224), (0, 0), (576, 100), (300, 448)])
@pytest.mark.parametrize("info", [BARREL, FISHEYE], ids=["barrel", "fisheye"])
@pytest.mark.parametrize("encoding", ["bgr8", "nv12", "yuyv", "bayer_rggb8", "mono10p", "rgb16"])
def test_a_rectified_region_is_what_opencv_makes_of_the_whole(encoding, info, region):
    bgr = scene(640, 480)
    if encoding.startswith("mono"):
        bgr = np.dstack([cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)] * 3)
    processor, whole, header = preprocessor(info), FrameHeader(sequence=7), FrameHeader()
    image = frame(bgr, encoding, bits=12 * (encoding == "rgb16"))
    processor.write(image, np.zeros((256, 416, 3), np.uint8), whole)
    out, grey = np.zeros((HEIGHT, WIDTH, 3), np.uint8), 114
    Regions(*SIZE, grey).write(image, whole, region, processor.sample_bits, out, header)
    whole.width, whole.height = SIZE  # of a network that is as large as the region
    assert is_region_of(header, out.nbytes, whole)
    assert (-header.pad_x, -header.pad_y) == region

    fx, fy, cx, cy = header.rectified_matrix
    seen = np.array([[fx, 0, cx - region[0]], [0, fy, cy - region[1]], [0, 0, 1]])
    undistorting = cv2.fisheye if info is FISHEYE else cv2
    lens = np.reshape(info.matrix, (3, 3)), np.array(info.distortion)
    maps = undistorting.initUndistortRectifyMap(*lens, np.eye(3), seen, SIZE, cv2.CV_32FC1)
    wanted = cv2.remap(bgr, *maps, cv2.INTER_LINEAR, borderValue=(grey,) * 3)
    inside = (maps[0] > 2) & (maps[0] < 637) & (maps[1] > 2) & (maps[1] < 477)
    assert inside.mean() > 0.7
    np.testing.assert_allclose(out[inside].astype(int), wanted[inside], atol=5)
    beside = (maps[0] < -2) | (maps[0] > 642) | (maps[1] < -2) | (maps[1] > 482)
    assert (np.abs(out[beside].astype(int) - grey) <= 1).all()

    # It shows what lies in the region, in the resolution of the source, and boxes come back there.
    edges = np.array([maps[0][16, [0, -1]] - region[0], maps[1][[0, -1], 32] - region[1]])
    np.testing.assert_allclose(edges, [[0, 63], [0, 31]], atol=4)
    point = np.array([[40.5, 20.5, 40.5, 20.5]], np.float32)
    back = BoxesToSource(header, lens_of(header))(point)[0]
    expected = np.array([maps[0][20, 40], maps[1][20, 40]] * 2) + 0.5
    np.testing.assert_allclose(back, expected, atol=0.01)


def test_where_a_lens_shows_nothing_there_is_no_region():
    whole, out = FrameHeader(), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    lens = Lens((100.0, 100.0, 319.5, 239.5), (-0.3, *[0.0] * 7))  # it turns back at 70 pixels
    Placement.fit((640, 480), SIZE, lens).describe(whole, 0)
    with pytest.raises(FrameRejected, match="the lens shows nothing at 0, 224"):
        image = frame(noise(640, 480), "bgr8")
        Regions(*SIZE, GREY).write(image, whole, (0, 224), 8, out, FrameHeader())


@pytest.mark.parametrize("in_full", [False, True])
def test_a_jpeg_is_decoded_in_full_where_that_is_asked_for(in_full):
    processor, header, out = preprocessor(), FrameHeader(), np.zeros((256, 416, 3), np.uint8)
    processor.in_full = in_full
    decoded = processor.write(compressed("jpeg", jpeg(noise(1280, 960))), out, header)
    assert is_in_full(decoded, header) == in_full


def test_a_region_of_a_size_that_the_encoding_does_not_have_is_refused():
    out = np.zeros((HEIGHT, 63, 3), np.uint8)
    with pytest.raises(FrameRejected, match="no multiple of 2x2"):
        Regions(63, HEIGHT, GREY).write(
            frame(noise(160, 120), "nv12"), FrameHeader(), (8, 8), 8, out, FrameHeader()
        )


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({}, True),
        ({"sequence": 8}, False),
        ({"incarnation": 8}, False),
        ({"source_width": 641}, False),
        ({"picture": 31}, False),
        ({"scale_y": 0.5}, False),
        ({"pad_x": np.nan}, False),
        ({"pad_y": -1e6}, False),
        ({"rectified_matrix": (9, 0, 0, 0)}, False),
        ({"camera_matrix": (9, 9, 0, np.nan)}, False),
    ],
)
def test_a_damaged_or_older_region_is_not_taken_for_one_of_the_frame(change, is_one):
    facts = {"sequence": 7, "flags": FrameFlag.RECTIFIED, "source_width": 640, "source_height": 480}
    size = {"width": WIDTH, "height": HEIGHT}
    whole = FrameHeader(**facts, **size, scale_x=0.1, scale_y=0.1)
    lens = {"camera_matrix": (9, 9, 0, 0), "rectified_matrix": (9, 9, 0, 0)}
    placed = {"scale_x": 1, "scale_y": 1, "pad_x": -576, "pad_y": -448} | lens
    region = FrameHeader(**(facts | size | placed | change))
    assert is_region_of(region, 3 * WIDTH * HEIGHT, whole) == is_one
    assert not is_region_of(region, 1, whole)
