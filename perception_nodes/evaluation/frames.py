"""Frames from drives, folders of images and sets, letterboxed to the input of a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameHeader, FrameRejected, ImageView
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.rectification import RecordedCalibration
from perception_nodes.evaluation.datasets import check_images, list_images
from perception_nodes.evaluation.labels import LabelledImage
from perception_nodes.networks.model import InputSpec


@dataclass
class FrameSource:
    """Frames from drives, folders and sets, one after the other; they can be read several times.

    Attributes:
        bags: recorded drives.
        folders: folders of images.
        image: the network's input.
        images: images of sets, whose files are known to be whole.
        notes: damage and unusable frames that were met in reading.
    """

    bags: Sequence[Path]
    folders: Sequence[Path]
    image: InputSpec
    images: Sequence[LabelledImage] = ()
    notes: list[str] = field(default_factory=list)

    def count(self) -> int:
        """Number of frames that the drives state, the folders hold and the sets name.

        Raises:
            BagError, DataError: a drive or folder has no frames, or an image file is damaged.
        """
        total = len(self.images)
        for bag in self.bags:
            with open_drive(bag) as drive:
                total += drive.frame_count
        for folder in self.folders:
            files = list_images(folder)
            check_images(files)
            total += len(files)
        return total

    def frames(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Origin and pixels of each frame, uint8 [height, width, 3] BGR.

        The pixels are overwritten by the next frame. A frame that cannot be read is left out and
        noted.
        """
        pixels = np.empty((self.image.height, self.image.width, 3), np.uint8)
        for bag in self.bags:
            yield from self._of_drive(bag, pixels)
        preprocessor = self.image.preprocessor()
        for name, image in self._images():
            preprocessor.write(ImageView.of_pixels(image.pixels()), pixels, FrameHeader())
            yield name, pixels

    def _images(self) -> Iterator[tuple[str, LabelledImage]]:
        for folder in self.folders:
            for path in list_images(folder):
                name = f"{_set_name(folder)}/{path.relative_to(folder)}"
                yield name, LabelledImage.without_objects(path)
        for image in self.images:
            yield str(image.path), image

    def _of_drive(
        self, bag: Path, pixels: NDArray[np.uint8]
    ) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        preprocessor = self.image.preprocessor(undistort=True)
        rejected = 0
        with open_drive(bag) as drive:
            calibration = RecordedCalibration(preprocessor)
            for frame in drive.frames():
                calibration.follow(frame)
                try:
                    preprocessor.write(drive.read(frame.data), pixels, FrameHeader())
                except FrameRejected as error:
                    rejected += 1
                    reason = error
                    continue
                calibration.check(frame.index)
                yield f"{bag.name}:{frame.index}", pixels
            for warning in (*(f"{bag}: {note}" for note in calibration.notes()), *drive.warnings):
                self._note(warning)
        if rejected:
            self._note(f"{bag}: {rejected} frames cannot be read and are left out: {reason}")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _set_name(folder: Path) -> str:
    """The name of a folder: `highway/images/train`, since `train` would not show the set."""
    parts = folder.absolute().parts
    if "images" in parts[2:]:
        first = len(parts) - 2 - parts[::-1].index("images")
        return "/".join(parts[first:])
    return folder.name
