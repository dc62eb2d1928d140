"""Fit the probabilities of objects on the sets of a recipe that people labelled."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_compression.errors import CompressionError
from model_compression.labelling.boxes import GROUP_NAMES, GROUPS, TWO_WHEELER, overlaps
from model_compression.labelling.calibration import Calibration, fit
from model_compression.labelling.fusion import INSIDE, Objects, covered
from model_compression.labelling.recipe import ImageSet, Recipe
from perception_nodes.system.files import write_whole

RIGHT_IOU = 0.5
LEAST_HEIGHT_PX = 8.0
"""Objects below this are labelled too seldom to learn from."""


def right_objects(
    objects: Objects, group: str, people: NDArray[np.float64], images: ImageSet
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which possible objects of a frame people have labelled, and which may be judged at all.

    Args:
        objects: of one group.
        group: its name.
        people: float64 [n, 5], people's labels: the set's class id, and corners in pixels.
        images: what the ids mean.

    Returns:
        Both bool [n]. An object in a crowd, or in a box of a two-wheeler with its rider, is judged
        only if it is right; a two-wheeler in the latter is right.
    """
    ids = people[:, 0].astype(int)
    own = np.array([images.people.get(one) in (group, *GROUPS[group]) for one in ids], bool)
    ridden = np.isin(ids, list(images.ridden))
    vague = np.array([group in images.crowd.get(one, ()) for one in ids], bool)
    if group in ("person", TWO_WHEELER):
        vague |= ridden
    right = np.zeros(len(objects.corners), bool)
    iou = overlaps(objects.corners, people[own, 1:])
    if group == TWO_WHEELER:
        inside = covered(objects.corners, people[ridden, 1:]) >= INSIDE
        iou = np.hstack([iou, inside * 1.0])
    for row in np.argsort(-objects.evidence.mean(axis=1), kind="stable"):
        if iou.shape[1] and iou[row].max() >= RIGHT_IOU:
            right[row] = True
            iou[:, iou[row].argmax()] = 0  # people's box is taken
    heights = objects.corners[:, 3] - objects.corners[:, 1]
    unclear = (covered(objects.corners, people[vague, 1:]) >= RIGHT_IOU).any(axis=1)
    return right, (right | ~unclear) & (heights >= LEAST_HEIGHT_PX)


class Samples:
    """Possible objects of one group, from the frames that people labelled."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray, NDArray, NDArray]] = []

    def add(
        self, objects: Objects, right: NDArray[np.bool_], judged: NDArray[np.bool_], height_px: int
    ) -> None:
        """Add those of a frame."""
        heights = (objects.corners[:, 3] - objects.corners[:, 1]) / height_px
        self._parts.append((objects.evidence[judged], heights[judged], right[judged]))

    def calibration(self, trust: Sequence[float]) -> Calibration:
        """Fit what has been added, given how far each voice is trusted from the start."""
        evidence, heights, right = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return fit(evidence, heights, right, np.array(trust))


def write_calibrations(calibrations: Mapping[str, Calibration], recipe: Recipe, path: Path) -> None:
    """Write calibrations, with the voices that they are for."""
    values = {
        "voices": [str(voice) for voice in recipe.voices],
        "weights": {
            group: [round(float(one), 4) for one in calibration.weights]
            for group, calibration in calibrations.items()
        },
    }
    write_whole(path, json.dumps(values, indent=1) + "\n")


def read_calibrations(path: Path, recipe: Recipe) -> dict[str, Calibration]:
    """Read calibrations.

    Raises:
        CompressionError: they cannot be read, or are for other voices than the recipe's.
    """
    voices = [str(voice) for voice in recipe.voices]
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["voices"] != voices:
            raise CompressionError(
                f"{path} is for the voices {', '.join(values['voices'])}, and the recipe has "
                f"{', '.join(voices)}; calibrate again"
            )
        return {group: Calibration(np.array(values["weights"][group])) for group in GROUP_NAMES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompressionError(f"{path} cannot be read ({error!r}); calibrate again") from None
