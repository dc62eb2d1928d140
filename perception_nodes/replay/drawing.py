"""The pictures of a frame: plain, and with its objects drawn in."""

from collections.abc import Callable
from typing import NamedTuple

import simplejpeg

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.drives.bag import RawFrame
from perception_nodes.report.annotate import Picture, PictureMaker, blank, draw
from perception_nodes.report.recording import FrameDetections, ReportedFrame

JPEG_QUALITY = 85
Read = Callable[[bytes], ImageView]
"""Reads the picture of a frame's message, see `Drive.read`."""


class Drawn(NamedTuple):
    """The pictures of a frame.

    Attributes:
        plain, annotated: as JPEG.
        picture: the annotated one, uint8 [h, w, 3] BGR; None if another process drew it.
        size_px: width and height of both.
        scale: picture pixels per source pixel.
        grey_level: mean of the plain one, 0 to 255; None if the frame cannot be read.
    """

    plain: bytes
    annotated: bytes
    picture: Picture | None
    size_px: tuple[int, int]
    scale: float
    grey_level: float | None


class Drawer:
    """Draws the frames of a drive.

    Attributes:
        size_px: width and height of the last picture, which one of a frame that cannot be read has.
    """

    def __init__(self, read: Read, sample_bits: int) -> None:
        """Prepare.

        Args:
            read: as `Drive.read`.
            sample_bits: of the network's input, so that the pictures show what the model saw; see
                `Preprocessor`.
        """
        self._read, self._maker = read, PictureMaker(sample_bits=sample_bits)
        self.size_px = (640, 360)

    def drawn(
        self, frame: RawFrame, report: ReportedFrame | None, found: FrameDetections | None
    ) -> Drawn:
        """The pictures of a frame; of one that cannot be read, grey ones of the last one's size."""
        grey_level, scale = None, 1.0
        try:
            picture, scale = self._maker.of(self._read(frame.data))
            grey_level = round(float(picture[::8, ::8].mean()), 1)
        except FrameRejected as error:
            picture = blank(*self.size_px, f"frame {frame.index}: {error}")
        self.size_px = (picture.shape[1], picture.shape[0])
        plain = jpeg(picture)
        draw(picture, scale, found, report)
        return Drawn(plain, jpeg(picture), picture, self.size_px, scale, grey_level)


def jpeg(picture: Picture) -> bytes:
    """A picture as JPEG."""
    return bytes(simplejpeg.encode_jpeg(picture, JPEG_QUALITY, "BGR", "420"))
