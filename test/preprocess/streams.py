"""Video streams for the tests: pictures that tell which one they are, encoded one a packet."""

from fractions import Fraction
from functools import cache

import av
import cv2
import numpy as np

KEY_EVERY = 8
ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "tune": "zerolatency"}),
    # Variable-length codes instead of arithmetic ones: damage shows in other ways.
    "h264 cavlc": ("libx264", {"preset": "ultrafast", "tune": "zerolatency"}),
    # As encoders in hardware do: nothing tells a decoder that frames are in order.
    "h264 plain": ("libx264", {"preset": "fast", "bf": "0", "x264-params": "keyint=8:ref=3"}),
    "h265": (
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0:keyint=8"},
    ),
    "h264 with B-frames": ("libx264", {"preset": "fast", "bf": "2"}),
}


def pictures(frames, size=(96, 64)):
    """A texture that moves, uint8 [h, w, 3] BGR."""
    small = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    texture = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    return [np.roll(texture, 3 * index, axis=1) for index in range(frames)]


@cache
def packets(kind, frames=20, size=(96, 64)):
    """The packets of a stream; each `KEY_EVERY`th is a key frame."""
    name, options = ENCODERS[kind]
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = *size, "yuv420p"
    encoder.time_base, encoder.gop_size, encoder.options = Fraction(1, 20), KEY_EVERY, options
    encoder.thread_count = 1
    made = []
    for index, picture in enumerate(pictures(frames, size)):
        frame = av.VideoFrame.from_ndarray(picture, "bgr24")
        frame.pts = index
        made += encoder.encode(frame)
    return [bytes(packet) for packet in [*made, *encoder.encode(None)]]
