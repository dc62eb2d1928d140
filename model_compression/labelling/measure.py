"""How good labels are: average precision on frames that people labelled and nobody learns from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_compression.labelling.boxes import GROUP_NAMES
from model_compression.labelling.calibration import Calibration
from model_compression.labelling.frames import Frame
from model_compression.labelling.fusion import Objects
from model_compression.labelling.labeller import Probable, probable
from model_compression.labelling.recipe import Recipe
from perception_nodes.evaluation.datasets import read_set
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.evaluation.matching import ALL_HEIGHTS, match
from perception_nodes.evaluation.matching import Objects as Matched

DESCRIPTIONS = Path(__file__).parents[1] / "datasets"
LEAST_HEIGHT_PX = 8.0
"""Of what is found: labelled objects below 10 px do not count."""


def judged_sets(data: Path) -> list[LabelledSet]:
    """The sets of roads that are held back, `datasets/road-*.yaml`."""
    return [read_set(path, data) for path in sorted(DESCRIPTIONS.glob("road-*.yaml"))]


class Measurement:
    """Compares the possible objects of a set's frames with people's labels."""

    def __init__(
        self, images: LabelledSet, calibrations: Mapping[str, Calibration], recipe: Recipe
    ) -> None:
        """Remember what to compare with.

        Args:
            images: the set; classes that are no group are left out.
            calibrations: by group.
            recipe: from which probability on an object would be taught.
        """
        self._set, self._calibrations, self._recipe = images, calibrations, recipe
        self._truth: list[Matched] = []
        self._found: list[Matched] = []
        self._labels = {image.path.stem: image for image in images.images}

    def frames(self, data: Path) -> list[Frame]:
        """The set's frames."""
        name = self._set.name.replace("/", "_")
        paths = [image.path for image in self._set.images]
        return [Frame(name, one.stem, one.relative_to(data).as_posix()) for one in paths]

    def add(self, frame: Frame, size_px: tuple[int, int], objects: Mapping[str, Objects]) -> None:
        """Add what was seen on a frame."""
        found = [
            probable(objects[group], self._calibrations[group], size_px) for group in GROUP_NAMES
        ]
        self._found.append(_matched(found))
        self._truth.append(_labelled(self._labels[frame.name], self._set, size_px))

    def report(self) -> str:
        """A table of average precision at IoU 0.5, by group, of all objects and by height."""
        labelled = [i for i, group in enumerate(GROUP_NAMES) if group in self._set.classes]
        matches = match(self._truth, self._found, len(GROUP_NAMES))
        once = np.ones(len(self._truth), np.int64)
        lines = [f"| {self._set.name} | objects | {' | '.join(matches)} | recall | false a frame |"]
        lines.append("|---" * (len(matches) + 4) + "|")
        for number in labelled:
            cells = []
            for band in matches.values():
                precisions = band[number].average_precision(once)
                cells.append("" if precisions is None else f"{precisions[0]:.3f}")
            whole = matches[ALL_HEIGHTS][number]
            taught = whole.scores >= self._recipe.taught[GROUP_NAMES[number]]
            count = int(whole.objects.sum())
            recall = (whole.right[0] & taught).sum() / max(count, 1)
            false = (whole.wrong[0] & taught).sum() / len(once)
            lines.append(
                f"| {GROUP_NAMES[number]} | {count} | {' | '.join(cells)} | {recall:.3f} | "
                f"{false:.2f} |"
            )
        return "\n".join(lines)


def _matched(found: Sequence[Probable]) -> Matched:
    corners = np.concatenate([one.corners for one in found])
    heights = corners[:, 3] - corners[:, 1]
    groups = np.repeat(np.arange(len(found)), [len(one.corners) for one in found])
    scores = np.concatenate([one.probabilities for one in found])
    high = heights >= LEAST_HEIGHT_PX
    crowd = np.zeros(int(high.sum()), bool)
    return Matched(corners[high], groups[high], heights[high], scores[high], crowd)


def _labelled(image: LabelledImage, images: LabelledSet, size_px: tuple[int, int]) -> Matched:
    boxes = image.boxes * np.array(size_px * 2)
    rows: list[tuple[NDArray[np.float64], int, bool]] = []
    for box, label in zip(boxes, image.classes, strict=True):
        name = images.classes[label]
        low = box[3] - box[1] < images.min_height_px
        if name in images.ignored:
            rows += [(box, number, True) for number in range(len(GROUP_NAMES))]
        elif name in GROUP_NAMES:
            rows.append((box, GROUP_NAMES.index(name), bool(low)))
    corners = np.array([box for box, _, _ in rows]).reshape(-1, 4)
    return Matched(
        corners,
        np.array([group for _, group, _ in rows], np.int64),
        corners[:, 3] - corners[:, 1],
        np.ones(len(rows)),
        np.array([crowd for _, _, crowd in rows], bool),
    )
