"""H.264 as browsers and Foxglove play it, encoded by FFmpeg through PyAV."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.video.ffmpeg import pyav

QUALITY = {"preset": "veryfast", "crf": "21", "bf": "0"}
"""Without B frames: with them the file's length leaves out a gap before the last picture."""
STREAMED = {"preset": "veryfast", "crf": "18", "tune": "zerolatency"}
KEY_EVERY = 30
US = Fraction(1, 1_000_000)
PACKET_TICK = Fraction(1, 1000)


class VideoFile:
    """An `.mp4` file whose pictures have the size of the first one, and times of their own."""

    def __init__(self, path: Path) -> None:
        """Nothing is written before the first picture; `path` appears when it is complete."""
        self._path = path
        self._partial = path.with_name(f".{path.name}.part")
        self._container: Any = None
        self._stream: Any = None

    def write(self, picture: NDArray[np.uint8], at_ns: int) -> None:
        """Append a picture.

        Args:
            picture: uint8 [h, w, 3] BGR of even sizes; scaled if its size differs.
            at_ns: when it is shown, at least a microsecond after the picture before.
        """
        av = pyav()
        height, width = picture.shape[:2]
        if self._container is None:
            # With the index in front a browser plays it while it is being loaded.
            how = {"movflags": "faststart"}
            self._container = av.open(str(self._partial), "w", format="mp4", options=how)
            self._stream = self._container.add_stream("libx264", options=QUALITY)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = US
        size = (self._stream.width, self._stream.height)
        if (width, height) != size:
            picture = cv2.resize(picture, size).astype(np.uint8, copy=False)
        frame = av.VideoFrame.from_ndarray(picture, "bgr24")
        frame.pts = at_ns // 1000
        self._container.mux(self._stream.encode(frame))

    def close(self, complete: bool) -> None:
        """Rename the file, or remove it if it is not complete."""
        if self._container is None:
            return
        if complete:
            self._container.mux(self._stream.encode())
        self._container.close()
        if complete:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


class VideoPackets:
    """A stream of packets, each of which is one picture; the same bytes every time."""

    def __init__(self) -> None:
        """Begin without any picture."""
        self._encoder: Any = None

    def encode(self, picture: NDArray[np.uint8]) -> bytes:
        """The packet of a picture, uint8 [h, w, 3] BGR of even sizes.

        The first one, each `KEY_EVERY`th, and one of another size are key frames.
        """
        av = pyav()
        height, width = picture.shape[:2]
        encoder = self._encoder
        if encoder is None or (encoder.width, encoder.height) != (width, height):
            encoder = self._encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.gop_size = PACKET_TICK, KEY_EVERY
            encoder.thread_count, encoder.options = 1, STREAMED
            self._count = 0
        frame = av.VideoFrame.from_ndarray(picture, "bgr24")
        frame.pts = self._count = self._count + 1
        return b"".join(bytes(packet) for packet in encoder.encode(frame))
