"""Where a camera's image lies in the network's input, and the lens that it is rectified from."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from perception_nodes.core.frame import CameraInfo, FrameFlag, FrameHeader
from perception_nodes.core.geometry import Lens, Letterbox, Points, Resize, lens_of, remap_grid
from perception_nodes.preprocess.lens import UnknownLens, WideLens, lens_from, lens_of_images

NOT_RECTIFIED = 0.0, 0.0, 0.0, 0.0


@dataclass(frozen=True)
class Placement:
    """How images of one size and calibration become the network's input.

    Attributes:
        letterbox: place of the image in the input.
        source_width, source_height: size of the camera's image in pixels.
        lens: lens that the image is rectified from, None if it is not rectified.
        rectified: fx, fy, cx, cy of the rectified image, pixels; 0 if it is not rectified.
    """

    letterbox: Letterbox
    source_width: int
    source_height: int
    lens: Lens | None = None
    rectified: tuple[float, float, float, float] = NOT_RECTIFIED

    @classmethod
    def fit(
        cls,
        source: tuple[int, int],
        size: tuple[int, int],
        lens: Lens | None = None,
        resize: Resize = "letterbox",
    ) -> "Placement":
        """Place images of one size (width, height) in an input of another.

        Args:
            source: size of the images.
            size: size of the input.
            lens: what the images are rectified from, None if they are not.
            resize: where they lie in the input.
        """
        rectified = lens.rectified_matrix(*source) if lens else NOT_RECTIFIED
        return cls(Letterbox.fit(*source, *size, resize), *source, lens, rectified)

    @classmethod
    def of(cls, header: FrameHeader) -> "Placement":
        """The placement that `describe` has written into a slot's header."""
        source = header.source_width, header.source_height
        inner = round(header.scale_x * source[0]), round(header.scale_y * source[1])
        pads = round(header.pad_x), round(header.pad_y)
        scales = header.scale_x, header.scale_y
        letterbox = Letterbox(header.width, header.height, *inner, *pads, *scales)
        lens = lens_of(header)
        fx, fy, cx, cy = header.rectified_matrix if lens else NOT_RECTIFIED
        return cls(letterbox, *source, lens, (fx, fy, cx, cy))

    def grid(self) -> Points | None:
        """Source position of each pixel of the scaled image, see `remap_grid`, or None."""
        if self.lens is None:
            return None
        return remap_grid(self.letterbox, self.lens, self.rectified)

    def describe(self, header: FrameHeader, copies: int) -> None:
        """Write the placement into a slot's header, and the number of copies of pixels so far."""
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
    """Places one camera's frames by their size and its calibration.

    Attributes:
        preparing: context in which a lens is examined and its maps are computed, for tens of
            milliseconds.
        unfit: why frames are not rectified although a calibration is known; empty if they are.
        is_fault: whether that is a fault.
    """

    def __init__(
        self, width: int, height: int, undistort: bool, resize: Resize = "letterbox"
    ) -> None:
        """Create a placer.

        Args:
            width: width of the network's input, pixels.
            height: height of the network's input, pixels.
            undistort: whether frames are rectified when a calibration is known.
            resize: where a frame lies in the input.
        """
        self._size = (width, height)
        self._resize: Resize = resize
        self._undistort = undistort
        self.preparing: Callable[[], AbstractContextManager[None]] = nullcontext
        self.unfit, self.is_fault = "", False
        self._info: CameraInfo | None = None
        self._placement: Placement | None = None
        self._source = (0, 0)

    def calibrate(self, info: CameraInfo) -> None:
        """Use a calibration from the next frame on.

        Raises:
            UnknownLens: the model is not supported or its numbers are unusable; frames are then
                placed without it.
        """
        if info == self._info:
            return
        self._info, self._placement = info, None
        if self._undistort:
            lens_from(info)

    def letterbox(self, width: int, height: int) -> Letterbox:
        """The place of a frame of this size in the input."""
        return Letterbox.fit(width, height, *self._size, self._resize)

    def place(self, width: int, height: int) -> Placement:
        """The placement of a frame of this size; the same object until something changes."""
        if self._placement is None or self._source != (width, height):
            self._source, lens, self.unfit, self.is_fault = (width, height), None, "", False
            if self._info is not None and self._undistort:
                with self.preparing():
                    try:
                        lens = lens_of_images(self._info, width, height)
                    except UnknownLens as error:
                        self.unfit = f"frames are not rectified: {error}"
                        self.is_fault = not isinstance(error, WideLens)
            self._placement = Placement.fit(self._source, self._size, lens, self._resize)
        return self._placement
