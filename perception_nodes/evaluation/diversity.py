"""Frames that differ, out of many that are alike: greedy farthest-point selection.

A drive has long stretches of the same road. Each next frame taken is the one that is least like any
already taken (Gonzalez 1985, k-center), by a small description of colours and edges over the
picture. It ends where only near duplicates are left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.geometry import PADDING_VALUE
from perception_nodes.evaluation import DataError
from perception_nodes.evaluation.frames import FrameSource

THUMB_WIDTH, THUMB_HEIGHT = 64, 40
CELLS_X, CELLS_Y = 8, 5
ORIENTATIONS = 6
NEAR_DUPLICATE = 0.04
"""Distance below which two frames are the same picture. Noise of 10 grey levels, JPEG of quality
30 and 5 % of exposure stay within it; frames of different drives are 0.1 to 0.5 apart."""
BLANK_CONTRAST = 4.0
"""Grey levels of standard deviation below which nothing is to be seen: a covered or dark lens."""
MIN_FRAMES = 16
"""Fewer do not show what values a network meets."""
SHEET_COLUMNS, SHEET_TILE_WIDTH = 8, 208


@dataclass(frozen=True)
class Diversity:
    """How well so many frames stand for all.

    Attributes:
        radius: distance of the frame that is least like any chosen one; smaller is better.
        spread: distance of the two chosen frames that are most alike; larger is better.
        near_duplicates: chosen frames with an earlier chosen one that is the same picture.
    """

    radius: float
    spread: float
    near_duplicates: int


@dataclass(frozen=True)
class ChosenFrames:
    """Frames to calibrate on.

    Attributes:
        names: where each comes from.
        frames: uint8 [h, w, 3] BGR each, letterboxed.
        candidates: frames that they were chosen from.
        achieved: by the selection.
        every_nth: by as many frames at equal steps.
        notes: what a user should know, a line each.
    """

    names: list[str]
    frames: list[NDArray[np.uint8]]
    candidates: int
    achieved: Diversity
    every_nth: Diversity
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {
            "frames": self.names,
            "candidates": self.candidates,
            "diversity": self.achieved.__dict__,
            "diversity_of_every_nth": self.every_nth.__dict__,
            "notes": self.notes,
        }


def choose_frames(
    bags: Sequence[Path],
    folders: Sequence[Path],
    count: int,
    size_px: tuple[int, int],
    progress: Callable[[int, int], None] | None = None,
) -> ChosenFrames:
    """Choose frames of drives and image folders.

    The frames are read twice, so that only the chosen ones have to be in memory.

    Args:
        bags: recorded drives.
        folders: folders of images.
        count: frames wanted; fewer come where the rest are near duplicates.
        size_px: width and height of the network's input.
        progress: called with frames done and frames in all.

    Raises:
        BagError, DataError: a place cannot be read, or too few frames differ.
    """
    if not bags and not folders:
        raise DataError(
            "no frames to choose from; name a drive with --bag or a folder with --images"
        )
    source = FrameSource(bags, folders, *size_px)
    total, blank, names, described = source.count(), 0, [], []
    for done, (name, pixels) in enumerate(source.frames(), start=1):
        if contrast(pixels) < BLANK_CONTRAST:
            blank += 1
        else:
            names.append(name)
            described.append(describe(pixels))
        if progress is not None:
            progress(done, total)
    rows = np.array(described, np.float32).reshape(len(described), -1)
    chosen = farthest_points(rows, count)
    if len(chosen) < min(count, MIN_FRAMES):
        raise DataError(
            f"{total} frames, {blank} of them blank or dark, only {len(chosen)} that differ: at "
            f"least {min(count, MIN_FRAMES)} are needed; add drives at other places and times"
        )
    nth = np.linspace(0, len(rows) - 1, len(chosen)).round().astype(int).tolist()
    achieved, plain = diversity(rows, chosen), diversity(rows, nth)
    notes = [
        f"{len(chosen)} of {len(rows)} frames: every frame is within {achieved.radius:.3f} of a "
        f"chosen one (every nth frame: {plain.radius:.3f}), the two most alike are "
        f"{achieved.spread:.3f} apart (every nth: {plain.spread:.3f}, with "
        f"{plain.near_duplicates} near duplicates)",
        *source.notes,
    ]
    if blank:
        notes.append(f"{blank} of {total} frames are blank or dark and left out")
    if len(chosen) < count:
        notes.append(f"{count} frames were wanted, only {len(chosen)} differ")
    wanted = {names[index] for index in chosen}
    kept = {name: pixels.copy() for name, pixels in source.frames() if name in wanted}
    order = [names[index] for index in chosen]
    return ChosenFrames(order, [kept[name] for name in order], len(rows), achieved, plain, notes)


def describe(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours and edges over the picture.

    Args:
        pixels: uint8 [h, w, 3] BGR.

    Returns:
        float32 [n]: mean colour of each cell, and in each cell how much edge runs which way. Their
        Euclidean distance is the root mean square difference of colours, 1 being black against
        white, and of edges.
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


def contrast(pixels: NDArray[np.uint8]) -> float:
    """Standard deviation of a frame's brightness in grey levels, its grey border left out."""
    grey = pixels.mean(axis=2)
    shown = grey[(pixels != PADDING_VALUE).any(axis=2)]
    return float(shown.std()) if shown.size else 0.0


def farthest_points(rows: NDArray[np.float32], count: int) -> list[int]:
    """Choose rows that are far apart.

    Args:
        rows: float32 [n, d], descriptions.
        count: how many to choose at most.

    Returns:
        Indices in the order of choice; the first is the most usual row. No two are nearer than
        `NEAR_DUPLICATE`.
    """
    if not len(rows):
        return []
    chosen = [int(_distances(rows, rows.mean(axis=0)).argmin())]
    nearest = _distances(rows, rows[chosen[0]])
    while len(chosen) < count:
        farthest = int(nearest.argmax())
        if nearest[farthest] < NEAR_DUPLICATE:
            break
        chosen.append(farthest)
        nearest = np.minimum(nearest, _distances(rows, rows[farthest]))
    return chosen


def diversity(rows: NDArray[np.float32], chosen: Sequence[int]) -> Diversity:
    """How well the chosen rows, at least one, stand for all."""
    picked = rows[list(chosen)]
    nearest = np.min([_distances(rows, row) for row in picked], axis=0)
    # Of each but the first, the distance to the nearest one before it.
    before = [float(_distances(picked[:i], picked[i]).min()) for i in range(1, len(picked))]
    return Diversity(
        round(float(nearest.max()), 4),
        round(min(before, default=0.0), 4),
        sum(distance < NEAR_DUPLICATE for distance in before),
    )


def contact_sheet(chosen: ChosenFrames) -> bytes:
    """All chosen frames on one picture, JPEG, in the order of choice."""
    height, width = chosen.frames[0].shape[:2]
    tile = (SHEET_TILE_WIDTH, SHEET_TILE_WIDTH * height // width)
    tiles = [cv2.resize(f, tile, interpolation=cv2.INTER_AREA) for f in chosen.frames]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % SHEET_COLUMNS)
    rows = [np.hstack(tiles[i : i + SHEET_COLUMNS]) for i in range(0, len(tiles), SHEET_COLUMNS)]
    return bytes(cv2.imencode(".jpg", np.vstack(rows))[1])


def _distances(rows: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = np.linalg.norm(rows - row, axis=1)
    return distances
