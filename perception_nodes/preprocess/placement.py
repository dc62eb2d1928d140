"""Where a camera's image lies in the network's input, and with which lens it got there."""

from dataclasses import dataclass

from perception_nodes.core.frame import CameraInfo, FrameFlag, FrameHeader
from perception_nodes.core.geometry import Lens, Letterbox, Points, lens_of, remap_grid
from perception_nodes.preprocess.lens import UnknownLens, lens_from


@dataclass(frozen=True)
class Placement:
    """How one size of image with one calibration becomes the network's input.

    Attributes:
        letterbox: its place in the input.
        source_width, source_height: of the camera's image.
        lens: that it is rectified from, None where it is not.
        rectified: fx, fy, cx, cy of the rectified image.
    """

    letterbox: Letterbox
    source_width: int
    source_height: int
    lens: Lens | None = None
    rectified: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @classmethod
    def fit(
        cls, source: tuple[int, int], size: tuple[int, int], info: CameraInfo | None
    ) -> "Placement":
        """Place images of a size (width, height) in an input of another.

        Args:
            source: of the images.
            size: of the input.
            info: the camera's calibration where the images are to be rectified. One for another
                size, or an unusable one (`lens_from` says which), is left: it would bend the
                picture.
        """
        letterbox = Letterbox.fit(*source, *size)
        if info is None or source != (info.width, info.height):
            return cls(letterbox, *source)
        try:
            lens = lens_from(info)
        except UnknownLens:
            return cls(letterbox, *source)
        if lens is None:
            return cls(letterbox, *source)
        return cls(letterbox, *source, lens, lens.rectified_matrix(*source))

    @classmethod
    def of(cls, header: FrameHeader) -> "Placement":
        """What `describe` has written into a slot's header."""
        source = header.source_width, header.source_height
        letterbox = Letterbox.fit(*source, header.width, header.height)
        lens = lens_of(header)
        if lens is None:
            return cls(letterbox, *source)
        fx, fy, cx, cy = header.rectified_matrix
        return cls(letterbox, *source, lens, (fx, fy, cx, cy))

    def grid(self) -> Points | None:
        """Source position of each pixel of the scaled image (`remap_grid`); None without a lens."""
        if self.lens is None:
            return None
        return remap_grid(self.letterbox, self.lens, self.rectified)

    def describe(self, header: FrameHeader, copies: int) -> None:
        """Write it into a slot's header, with the copies of pixels made so far."""
        box = self.letterbox
        header.scale_x, header.scale_y = box.scale_x, box.scale_y
        header.pad_x, header.pad_y = box.pad_x, box.pad_y
        header.source_width, header.source_height = self.source_width, self.source_height
        header.width, header.height = box.width, box.height
        header.copies = copies
        if self.lens is not None:
            header.flags |= FrameFlag.RECTIFIED | (FrameFlag.FISHEYE if self.lens.fisheye else 0)
            header.camera_matrix[:] = self.lens.matrix
            header.distortion[:] = self.lens.distortion
            header.rectified_matrix[:] = self.rectified


class Placer:
    """Places one camera's frames by their size and its calibration."""

    def __init__(self, width: int, height: int, undistort: bool) -> None:
        """Nothing is known of the camera yet.

        Args:
            width: of the network's input, pixels.
            height: the same.
            undistort: whether frames are rectified where a calibration is known.
        """
        self._size = (width, height)
        self._undistort = undistort
        self._info: CameraInfo | None = None
        self._placement: Placement | None = None

    def calibrate(self, info: CameraInfo) -> None:
        """Use a calibration from the next frame on.

        Raises:
            UnknownLens: the model is not known or its numbers are unusable; frames are then placed
                without it.
        """
        if info == self._info:
            return
        self._info, self._placement = info, None
        if self._undistort:
            lens_from(info)

    def place(self, width: int, height: int) -> Placement:
        """Place a frame of that size; the same object as long as nothing has changed."""
        placement = self._placement
        if placement is None or (placement.source_width, placement.source_height) != (
            width,
            height,
        ):
            info = self._info if self._undistort else None
            placement = self._placement = Placement.fit((width, height), self._size, info)
        return placement
