"""Selection of frames that differ, from many similar ones: greedy farthest points.

A drive has long stretches of the same road. Each frame chosen is the one that differs most from all
frames already chosen (Gonzalez 1985, k-center), measured by a small description of the colours and
edges over the picture. The selection ends when only near duplicates are left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.evaluation.labels import DataError
from perception_nodes.networks.model import InputSpec

THUMB_WIDTH, THUMB_HEIGHT = 64, 40
CELLS_X, CELLS_Y = 8, 5
ORIENTATIONS = 6
NEAR_DUPLICATE = 0.04
"""Distance below which two frames are the same picture. Noise of 10 grey levels, JPEG of quality
30 and 5 % of exposure stay within it; frames of different drives are 0.1 to 0.5 apart."""
BLANK_CONTRAST = 4.0
"""Standard deviation in grey levels below which a frame shows nothing: a covered or dark lens."""
MIN_FRAMES = 16
"""Fewer frames do not show the range of values in a network."""


Frames = Sequence[tuple[str, NDArray[np.uint8]]]
"""Frames at the size of a network's input, uint8 [height, width, 3] BGR, each with its origin."""


@dataclass(frozen=True)
class CalibrationFrames:
    """Frames to calibrate on.

    Attributes:
        frames: the chosen frames, letterboxed.
        candidates: number of frames that they were chosen from.
        radius: largest distance of a frame from the nearest chosen one; smaller is better.
        spread: smallest distance of two chosen frames; larger is better.
        notes: what a user should know, one line each.
    """

    frames: Frames
    candidates: int
    radius: float
    spread: float
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """All facts except the pixels, for JSON."""
        return {
            "frames": [name for name, _ in self.frames],
            "candidates": self.candidates,
            "diversity": {"radius": self.radius, "spread": self.spread},
            "notes": self.notes,
        }


def choose_frames(
    bags: Sequence[Path],
    folders: Sequence[Path],
    count: int,
    image: InputSpec,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationFrames:
    """Choose frames from drives and folders of images.

    The frames are read twice, so that only the chosen ones have to be in memory.

    Args:
        bags: recorded drives.
        folders: folders of images.
        count: number of frames to choose; fewer are chosen if the rest are near duplicates.
        image: the network's input.
        progress: called with the number of frames done and the number of all frames.

    Raises:
        BagError, DataError: a drive or folder cannot be read, or too few frames differ.
    """
    if not bags and not folders:
        needed = "name a drive with --bag or a folder with --images"
        raise DataError(f"no frames to choose from; {needed}")
    source = FrameSource(bags, folders, image)
    total, blank, names, places, described = source.count(), 0, [], [], []
    for done, (name, pixels) in enumerate(source.frames(), start=1):
        if contrast(pixels, image.padding) < BLANK_CONTRAST:
            blank += 1
        else:
            names.append(name)
            places.append(done)
            described.append(describe(pixels))
        if progress is not None:
            progress(done, total)
    rows = np.array(described, np.float32)
    chosen, radius, spread = farthest_points(rows, count)
    if len(chosen) < min(count, MIN_FRAMES):
        raise DataError(
            f"{total} frames, {blank} of them blank or dark, only {len(chosen)} that differ: at "
            f"least {min(count, MIN_FRAMES)} are needed; add drives at other places and times"
        )
    notes = [
        f"{len(chosen)} of {len(rows)} frames: every frame is within {radius:.3f} of a chosen one, "
        f"the two most alike are {spread:.3f} apart",
        *source.notes,
    ]
    if blank:
        notes.append(f"{blank} of {total} frames are blank or dark and left out")
    if len(chosen) < count:
        notes.append(f"{count} frames were wanted, only {len(chosen)} differ")
    # Compare by place: two folders or drives may have the same name.
    wanted = {places[index] for index in chosen}
    read = enumerate(source.frames(), start=1)
    kept = {place: pixels.copy() for place, (_, pixels) in read if place in wanted}
    frames = [(names[index], kept[places[index]]) for index in chosen]
    return CalibrationFrames(frames, len(rows), radius, spread, notes)


def describe(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe the colours and edges over a picture.

    Args:
        pixels: uint8 [h, w, 3] BGR.

    Returns:
        float32 [n]: the mean colour of each cell, and the strength of its edges in each direction.
        The Euclidean distance of two descriptions is the root mean square difference of their
        colours, which is 1 between black and white, and of their edges.
    """
    small = cv2.resize(pixels, (THUMB_WIDTH, THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
    colours = cv2.resize(small, (CELLS_X, CELLS_Y), interpolation=cv2.INTER_AREA) / 255
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    x, y = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    turn = (np.arctan2(y, x) % np.pi) / np.pi * ORIENTATIONS
    way = np.minimum(turn.astype(int), ORIENTATIONS - 1)
    planes = np.where(np.arange(ORIENTATIONS)[:, None, None] == way, np.hypot(x, y), 0)
    edges = planes.reshape(
        ORIENTATIONS, CELLS_Y, THUMB_HEIGHT // CELLS_Y, CELLS_X, THUMB_WIDTH // CELLS_X
    ).mean(axis=(2, 4))
    parts = [part.ravel() / np.sqrt(part.size) for part in (colours, edges)]
    return np.concatenate(parts).astype(np.float32)


def contrast(pixels: NDArray[np.uint8], padding: int) -> float:
    """Standard deviation of a frame's brightness in grey levels, without its border."""
    shown = pixels.mean(axis=2)[(pixels != padding).any(axis=2)]
    return float(shown.std()) if shown.size else 0.0


def farthest_points(rows: NDArray[np.float32], count: int) -> tuple[list[int], float, float]:
    """Choose rows that are far apart.

    Args:
        rows: float32 [n, d], descriptions.
        count: largest number of rows to choose.

    Returns:
        Indices in the order of choice; the first is the row nearest to the mean. No two rows are
        nearer to each other than `NEAR_DUPLICATE`. Then radius and spread; see `CalibrationFrames`.
    """
    if not len(rows):
        return [], 0.0, 0.0
    chosen, spread = [int(_distances(rows, rows.mean(axis=0)).argmin())], 0.0
    nearest = _distances(rows, rows[chosen[0]])
    while len(chosen) < count:
        farthest = int(nearest.argmax())
        if nearest[farthest] < NEAR_DUPLICATE:
            break
        chosen.append(farthest)
        spread = float(nearest[farthest])  # each row chosen is nearer than the one before
        nearest = np.minimum(nearest, _distances(rows, rows[farthest]))
    return chosen, round(float(nearest.max()), 4), round(spread, 4)


def _distances(rows: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = np.linalg.norm(rows - row, axis=1)
    return distances
