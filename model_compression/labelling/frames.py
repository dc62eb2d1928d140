"""Frames of a set of images or of a video, by the names of their label files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_compression.errors import CompressionError
from model_compression.frames import read_image
from model_compression.labels import SUFFIX, read_video_frame

VIDEO = ".mp4"
SIMILAR = 8.0
"""Mean difference of grey levels below which a frame of a video repeats the last one taken."""


@dataclass(frozen=True)
class Frame:
    """One frame to label.

    Attributes:
        set_name: of its set.
        name: of its label file.
        image: image or video file, relative to the folder of the data.
        index: number of the video's frame; None for an image.
    """

    set_name: str
    name: str
    image: str
    index: int | None = None

    def pixels(self, data: Path) -> NDArray[np.uint8]:
        """Read it, uint8 [height, width, 3] BGR."""
        path = data / self.image
        return read_image(path) if self.index is None else read_video_frame(path, self.index)

    def file(self, folder: Path) -> Path:
        """Its label file in the folder of all labels."""
        return folder / self.set_name / f"{self.name}{SUFFIX}"


def frames_of(data: Path, set_name: str, images: str) -> list[Frame]:
    """List the frames of a set; of a video those that differ.

    Args:
        data: folder of the data.
        set_name: of the set.
        images: a glob below the data, or one video file.

    Raises:
        CompressionError: there are none, or two have the same name.
    """
    paths = sorted(path for path in data.glob(images) if path.is_file())
    if not paths:
        raise CompressionError(
            f"set {set_name}: no file matches {images} in {data}; correct `images`, or take the "
            "set out"
        )
    if paths[0].suffix == VIDEO:
        image = paths[0].relative_to(data).as_posix()
        return [
            Frame(set_name, f"{paths[0].stem}_{index:05d}", image, index)
            for index in _differing(paths[0])
        ]
    named: dict[str, Path] = {}
    for path in paths:
        if (other := named.setdefault(path.stem, path)) != path:
            raise CompressionError(
                f"set {set_name}: {other} and {path} would share a label file; rename one"
            )
    return [
        Frame(set_name, name, path.relative_to(data).as_posix()) for name, path in named.items()
    ]


def _differing(path: Path) -> Iterator[int]:
    video, last, index = cv2.VideoCapture(str(path)), None, 0
    while (shown := video.read())[0]:
        grey = cv2.cvtColor(shown[1], cv2.COLOR_BGR2GRAY)
        thumbnail = cv2.resize(grey, (32, 20), interpolation=cv2.INTER_AREA).astype(np.float32)
        if last is None or np.abs(thumbnail - last).mean() >= SIMILAR:
            last = thumbnail
            yield index
        index += 1
