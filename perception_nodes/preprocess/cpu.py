"""The preprocessor on the CPU: OpenCV writes the network's input straight into the slot."""

from collections import deque
from contextlib import nullcontext

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import CameraInfo, FrameHeader, FrameRejected, ImageView
from perception_nodes.core.geometry import PADDING_VALUE, Points, Resize
from perception_nodes.preprocess.compressed import SLOW_PIXELS, decompressed, read_header
from perception_nodes.preprocess.encodings import (
    Samples,
    demosaic,
    planes_of,
    planes_to_bgr,
    significant_bits,
    to_8_bits,
    unpacked,
)
from perception_nodes.preprocess.formats import PACKED, check_frame
from perception_nodes.preprocess.placement import Placement, Placer

BRIGHTER_FRAMES = 5
"""So many frames that need more bits show a brighter scene; fewer may be disturbed."""
RECENT_FRAMES = 30
"""They are counted among so many frames, since lamps and exposures alternate."""


class Preprocessor:
    """Undistorts and letterboxes frames to a network input of width x height pixels.

    Maps are computed when a calibration comes, and at a frame of another size or encoding than the
    one before. After that a frame costs one scaling pass.

    Attributes:
        placer: places the camera's frames in the input.
        sample_bits: significant bits of the frames so far, 0 before the first.
        in_full: whether the next frame, if it is a JPEG, is decoded in its full size.
    """

    def __init__(
        self,
        width: int,
        height: int,
        undistort: bool,
        resize: Resize = "letterbox",
        padding: int = PADDING_VALUE,
        sample_bits: int = 0,
    ) -> None:
        """Create a preprocessor.

        Args:
            width: width of the network's input, pixels.
            height: height of the network's input, pixels.
            undistort: whether frames are rectified when a calibration is known.
            resize: where a frame lies in the input.
            padding: grey of the letterbox's border.
            sample_bits: significant bits of frames with 16 bits a sample; 0: the most that
                `significant_bits` has found in the first frame, or in `BRIGHTER_FRAMES` of the
                last `RECENT_FRAMES`.
        """
        self._padding = padding
        self._given_bits = self.sample_bits = sample_bits
        self._needed: deque[int] = deque(maxlen=RECENT_FRAMES)
        self.in_full = False
        self.placer = Placer(width, height, undistort, resize)
        self._placement = self.placer.place(width, height)
        self._grid: Points | None = None
        self._maps: dict[tuple[int, int], tuple[NDArray[np.int16], NDArray[np.uint16]]] = {}

    def calibrate(self, info: CameraInfo) -> None:
        """Use a calibration from the next frame on.

        The maps for frames of the calibration's size are computed now, so that no frame has to wait
        for them. Those for other sizes and for subsampled planes are computed as a frame comes.

        Raises:
            UnknownLens: as `Placer.calibrate`.
        """
        self.placer.calibrate(info)
        if not info.width or not info.height:
            return
        placement = self.placer.place(info.width, info.height)
        if placement is not self._placement and placement.lens is not None:
            with self.placer.preparing():
                self._adopt(placement)
                self._make_maps(info.width, info.height)

    def write(self, image: ImageView, out: NDArray[np.uint8], header: FrameHeader) -> ImageView:
        """Fill a slot with a frame.

        Args:
            image: the frame as it came.
            out: uint8 [height, width, 3], the slot's pixels; receives BGR.
            header: the slot's header; receives size, letterbox, lens and number of copies.

        Returns:
            The frame uncompressed: where it was a JPEG, perhaps in a smaller size; see `in_full`.

        Raises:
            FrameRejected: the frame cannot be read.
        """
        width, height = image.width, image.height
        if image.file_type:
            width, height, is_grey = read_header(image)
            box = self.placer.letterbox(width, height)
            pixels = width * height
            # A large JPEG takes twice as long in full: it stays small, and is not looked at again.
            in_full = self.in_full and 2 * pixels <= SLOW_PIXELS["jpeg"]
            least_px = (width, height) if in_full else (box.inner_width, box.inner_height)
            is_slow = pixels > SLOW_PIXELS[image.file_type]
            with self.placer.preparing() if is_slow else nullcontext():
                image = decompressed(image, is_grey, least_px)
        check_frame(image)  # a bad frame must not change the placement
        placement = self.placer.place(width, height)
        has_maps = placement is self._placement or placement.lens is None
        with nullcontext() if has_maps else self.placer.preparing():
            placement.describe(header, self.scale(image, placement, out))
        return image

    def scale(self, image: ImageView, placement: Placement, out: NDArray[np.uint8]) -> int:
        """Write an uncompressed frame with a given placement.

        Args:
            image: the frame.
            placement: where it goes; maps are kept while this is the same object.
            out: uint8 [height, width, 3]; receives BGR.

        Returns:
            Number of full-frame copies of pixels made so far.

        Raises:
            FrameRejected: the frame cannot be read.
        """
        if image.encoding in PACKED:
            image = unpacked(image)
        planes = planes_of(image)
        if placement is not self._placement:
            self._adopt(placement)
        if not self._given_bits:
            self._learn_bits(significant_bits(image.encoding, planes))
        if image.encoding.startswith("bayer") and self._placement.letterbox.scale_x > 0.5:
            # The planes of a Bayer mosaic have half its size, which would cost resolution here.
            image = demosaic(image)
            planes = planes_of(image)
        try:
            self._scale_into(planes, image, out)
        except cv2.error as error:
            size = f"{placement.source_width}x{placement.source_height}"
            raise FrameRejected(
                f"{image.encoding} of {size} cannot be scaled: {error.err}"
            ) from error
        return image.copies

    def _adopt(self, placement: Placement) -> None:
        self._placement, self._grid = placement, placement.grid()
        self._maps.clear()

    def _learn_bits(self, needed: int) -> None:
        self._needed.append(needed)
        if self.sample_bits <= 8:  # the first frame of 16 bits a sample
            self.sample_bits = needed
        elif needed > self.sample_bits:
            # Darker frames must not change the brightness of the picture, nor a disturbed one.
            brightest = sorted(self._needed)[-BRIGHTER_FRAMES:]
            self.sample_bits = max(self.sample_bits, brightest[0])

    def _scale_into(self, planes: list[Samples], image: ImageView, out: NDArray[np.uint8]) -> None:
        box = self._placement.letterbox
        right, bottom = box.pad_x + box.inner_width, box.pad_y + box.inner_height
        out[: box.pad_y] = self._padding
        out[bottom:] = self._padding
        out[:, : box.pad_x] = self._padding
        out[:, right:] = self._padding
        inner = out[box.pad_y : bottom, box.pad_x : right]
        if image.encoding in ("bgr8", "8uc3"):
            self._scale(planes[0], self._padding, inner)
        else:
            is_yuv = len(planes) > 1 and not image.encoding.startswith("bayer")
            chroma = 128 if is_yuv else self._padding
            greys = self._padding, chroma, chroma
            scaled = [self._scale(*one) for one in zip(planes, greys, strict=False)]
            planes_to_bgr(image.encoding, [to_8_bits(p, self.sample_bits) for p in scaled], inner)

    def _scale(self, plane: Samples, grey: int, out: NDArray[np.uint8] | None = None) -> Samples:
        """A plane in the size of the picture with a border of this grey, in `out` if given."""
        size = (self._placement.letterbox.inner_width, self._placement.letterbox.inner_height)
        if self._grid is None:
            return np.asarray(cv2.resize(plane, size, dst=out, interpolation=cv2.INTER_LINEAR))
        height, width = plane.shape[:2]
        maps = self._maps.get((width, height)) or self._make_maps(width, height)
        if plane.dtype == np.uint16:
            grey = round(grey * ((1 << self.sample_bits) - 1) / 255)
        rectified = cv2.remap(
            plane,
            *maps,
            interpolation=cv2.INTER_LINEAR,
            dst=out,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(grey, grey, grey, grey),
        )
        return np.asarray(rectified)

    def _make_maps(
        self, plane_width: int, plane_height: int
    ) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
        """Fixed-point maps for a plane of this size that covers the whole source."""
        assert self._grid is not None
        place = self._placement
        shares = plane_width / place.source_width, plane_height / place.source_height
        x, y = (
            ((self._grid[:, :, axis] + 0.5) * share - 0.5).astype(np.float32)
            for axis, share in enumerate(shares)
        )
        xy, fraction = cv2.convertMaps(x, y, cv2.CV_16SC2)
        maps = np.asarray(xy, np.int16), np.asarray(fraction, np.uint16)
        self._maps[plane_width, plane_height] = maps
        return maps
