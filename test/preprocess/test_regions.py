"""Regions of frames at the resolution of their source."""

import numpy as np
import pytest
from pictures import DEEP_ENCODINGS, ENCODINGS, compressed, frame, noise
from test_cpu import BARREL, jpeg, png, preprocessor

from perception_nodes.core.frame import FrameHeader, FrameRejected, is_region_of
from perception_nodes.core.geometry import BoxesToSource
from perception_nodes.preprocess.regions import Regions, can_be_cropped, cropped

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
    Regions(*SIZE, GREY).write(frame(bgr, "bgr8"), region, 8, out, header)
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
        regions.write(frame(grey, "mono16", bits=bits), (8, 8), bits, out, FrameHeader())
        assert (out == 200).all()


@pytest.mark.parametrize(
    ("image", "calibration", "possible"),
    [
        (frame(noise(640, 480), "nv12"), None, True),
        (frame(noise(640, 480), "nv12"), BARREL, False),
        (compressed("png", png(noise(640, 480))), None, True),
        (compressed("jpeg", jpeg(noise(1280, 960))), None, False),
        (compressed("jpeg", jpeg(noise(400, 250))), None, True),
    ],
    ids=["raw", "rectified", "png", "jpeg in a smaller scale", "jpeg"],
)
def test_regions_are_made_of_all_pixels_or_not_at_all(image, calibration, possible):
    processor, header = preprocessor(), FrameHeader()
    if calibration:
        processor.calibrate(calibration)
    decoded = processor.write(image, np.zeros((256, 416, 3), np.uint8), header)
    assert can_be_cropped(decoded, header) == possible


def test_a_region_of_a_size_that_the_encoding_does_not_have_is_refused():
    out = np.zeros((HEIGHT, 63, 3), np.uint8)
    with pytest.raises(FrameRejected, match="no multiple of 2x2"):
        Regions(63, HEIGHT, GREY).write(
            frame(noise(160, 120), "nv12"), (8, 8), 8, out, FrameHeader()
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
    ],
)
def test_a_damaged_or_older_region_is_not_taken_for_one_of_the_frame(change, is_one):
    facts = {"sequence": 7, "source_width": 640, "source_height": 480}
    size = {"width": WIDTH, "height": HEIGHT}
    whole = FrameHeader(**facts, **size, scale_x=0.1, scale_y=0.1)
    placed = {"scale_x": 1, "scale_y": 1, "pad_x": -576, "pad_y": -448}
    region = FrameHeader(**(facts | size | placed | change))
    assert is_region_of(region, 3 * WIDTH * HEIGHT, whole) == is_one
    assert not is_region_of(region, 1, whole)
