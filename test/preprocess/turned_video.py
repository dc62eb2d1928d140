"""A video that says how its camera was held: the matrix of its track, ISO/IEC 14496-12, 8.3.2."""

import struct

import av
import numpy as np

TURNS = {0: "left", 90: "top", 180: "right", 270: "bottom"}
"""Clockwise degrees that turn it upright, and the edge at which it is bright then."""
MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
MATRIX_AT = 4 + 4 + 20 + 8 + 8
"""From the type of the track's header, in version 0."""


def write_turned(path, degrees, size=(64, 48)):
    """A video, bright at the left edge of its stored pictures, that is to be turned clockwise."""
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[:, : size[0] // 4] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=50)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + MATRIX_AT
    a, b, c, d = (65536 * value for value in MATRICES[degrees])
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return str(path)


def bright_edge(luma):
    """The edge at which a picture is bright."""
    height, width = luma.shape
    edges = {
        "left": luma[:, : width // 8],
        "top": luma[: height // 8],
        "right": luma[:, -width // 8 :],
        "bottom": luma[-height // 8 :],
    }
    return max(edges, key=lambda name: edges[name].mean())
