"""Videos for the tests: files and packets whose pictures tell which one they are."""

import struct
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


SIZE = 64, 48
FRAMES, PERIOD_MS = 40, 40
OPEN_GROUPS = "open-gop=1:keyint=10:bframes=2:scenecut=0"
COLOURS = np.random.default_rng(0).integers(0, 256, (SIZE[1], 16, 3), np.uint8)


def write_video(
    path, frames=FRAMES, times_ms=(), *, period_ms=PERIOD_MS, codec="libx264",
    pixels="yuv420p", size=SIZE, muxer=None, **options,
):  # fmt: skip
    """A file whose frames have the same colours at the left; the rest is each time 4 brighter.

    Behind 50 frames it begins with the darkest again.
    """
    with av.open(str(path), "w", options=muxer or {}) as container:
        options = {"sc_threshold": "0", **options}  # no other key frames than those asked for
        stream = container.add_stream(codec, rate=1000 // period_ms, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(len(times_ms) or frames):
            grey = np.full((size[1], size[0], 3), 40 + 4 * index % 200, np.uint8)
            grey[:, :16] = COLOURS
            frame = av.VideoFrame.from_ndarray(grey, "rgb24")
            if times_ms:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def place(path, number):
    """Where the packet of this number begins and ends in its file."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
    return packet.pos, packet.pos + packet.size


def hurt(path, number, share=0.5):
    """Overwrite the end of a packet; returns the file."""
    begin, end = place(path, number)
    data, size = bytearray(path.read_bytes()), round(share * (end - begin))
    data[end - size : end] = bytes(size)
    path.write_bytes(data)
    return path


ORIENTATIONS = {
    (1, 0, 0, 1): "top left",
    (0, 1, -1, 0): "top right",
    (-1, 0, 0, -1): "bottom right",
    (0, -1, 1, 0): "bottom left",
    # The others are mirrored.
    (-1, 0, 0, 1): "top right",
    (1, 0, 0, -1): "bottom left",
    (0, 1, 1, 0): "top left",
    (0, -1, -1, 0): "bottom right",
}
"""Where the upper left corner of a stored picture is shown, by a, b, c and d of the track's matrix
(ISO/IEC 14496-12, 8.3.2)."""
MATRIX_AT = 4 + 4 + 20 + 8 + 8
"""From the type of the track's header, in version 0."""


def write_oriented(path, matrix):
    """A video that is to be shown by a matrix, bright in the upper left of its stored pictures."""
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    picture[: SIZE[1] // 2, : SIZE[0] // 2] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=50)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + MATRIX_AT
    a, b, c, d = (65536 * value for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def bright_corner(luma):
    """The corner in which a picture is bright."""
    height, width = luma.shape
    quarters = luma.reshape(2, height // 2, 2, width // 2).mean((1, 3))
    row, column = np.unravel_index(quarters.argmax(), (2, 2))
    return f"{('top', 'bottom')[row]} {('left', 'right')[column]}"
