"""Decoded frames as NV12: pixels, colours and ranges."""

from fractions import Fraction

import av
import numpy as np
import pytest

from perception_nodes.core.frame import ImageView
from perception_nodes.video.ffmpeg import write_nv12
from perception_nodes.video.packet_decoder import VideoDecoder


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "rgb24", "gray"])
@pytest.mark.parametrize("size", [(64, 48), (66, 50)])
def test_nv12_is_what_ffmpeg_makes_of_a_frame(pixels, size):
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
    out = np.zeros((size[1] * 3 // 2, size[0]), np.uint8)
    write_nv12(frame, out)
    expected = frame.reformat(format="yuv420p").reformat(format="nv12").to_ndarray()
    np.testing.assert_array_equal(out, expected)


LUMA_OF_RED_AND_BLUE = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}
LUMA_OF_RED_AND_BLUE |= {7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""The matrices of BT.709, BT.601, SMPTE 240M and BT.2020, by FFmpeg's number."""


@pytest.mark.parametrize("matrix", LUMA_OF_RED_AND_BLUE)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 180, 20)])
def test_colours_of_either_matrix_are_those_of_nv12(matrix, full_range, rgb):
    """The pictures are made, and the NV12 is read, by the formulas of the standards."""
    spans = (255, 255, 255) if full_range else (219, 224, 224)
    frame = av.VideoFrame(64, 48, "yuv420p")
    values = ycbcr(rgb, *LUMA_OF_RED_AND_BLUE[matrix])
    offsets = (0 if full_range else 16, 128, 128)
    for plane, value, span, offset in zip(frame.planes, values, spans, offsets, strict=True):
        plane.update(bytes([min(round(offset + span * value), 255)]) * plane.buffer_size)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qp": "1", "tune": "zerolatency"}
    frame.colorspace = encoder.colorspace = matrix
    frame.color_range = encoder.color_range = 1 + full_range
    data = b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode()]))
    view = VideoDecoder().decode(ImageView(0, "", 64, 48, "h264", 0, memoryview(data)))
    pixels = np.frombuffer(view.data, np.uint8)
    chroma = pixels[64 * 48 :].reshape(-1, 2)
    found = [(pixels[: 64 * 48].mean() - 16) / 219, *(chroma.mean(0) - 128) / 224]
    np.testing.assert_allclose(found, ycbcr(rgb, *LUMA_OF_RED_AND_BLUE[5]), atol=3 / 255)


def ycbcr(rgb, red, blue):
    """Y in 0 to 1, and Cb and Cr in -0.5 to 0.5, where luma has these parts of red and blue."""
    r, g, b = np.array(rgb) / 255
    y = red * r + (1 - red - blue) * g + blue * b
    return y, (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
