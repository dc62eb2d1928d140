"""Labels of a frame: what voices and people say of it, decided for each possible object."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model_compression.labelling.boxes import (
    GROUP_NAMES,
    GROUPS,
    TWO_WHEELER,
    VEHICLE,
    overlaps,
    suppressed_rows,
)
from model_compression.labelling.calibration import Calibration
from model_compression.labelling.frames import Frame
from model_compression.labelling.fusion import INSIDE, Objects, covered
from model_compression.labelling.recipe import ImageSet, Recipe
from model_compression.labels import CLASSES, Labels

SAME_OBJECT_IOU = 0.55
"""Of two probable objects of a group that overlap by more, the more probable one stays."""
PEOPLES_IOU = 0.4
"""A box that overlaps one of people's by more is of the same object."""
SURE_KIND = 0.6
"""Share of the voices' scores that the likeliest kind has where it is believed."""
USUAL = {VEHICLE: "car", TWO_WHEELER: "motorcycle"}
"""The kind of which most objects of a group are."""
RIDDEN = 0.9
"""Least probability of a two-wheeler where people say that one is ridden."""
LEAST_HEIGHT_PX = 4.0
NESTED = 0.85
"""Share of a box from which on it may be a part of a more probable object of its group."""
GIANT, SURE = 0.5, 0.5
"""What covers a larger share of a frame, and is less probable, is the own vehicle or nothing."""


def likeliest(group: str, kinds: NDArray[np.float64]) -> str:
    """The class of a group that most votes, float64 [8], are for; the usual one without any."""
    votes = {name: kinds[CLASSES.index(name)] for name in GROUPS[group]}
    return max(votes, key=votes.__getitem__) if any(votes.values()) else USUAL.get(group, group)


def is_sure(group: str, kinds: NDArray[np.float64]) -> bool:
    """Whether votes, float64 [8], are mostly for one class of a group."""
    votes = [kinds[CLASSES.index(name)] for name in GROUPS[group]]
    return len(votes) == 1 or max(votes) > 0 and max(votes) >= SURE_KIND * sum(votes)


@dataclass
class Draft:
    """Labels in the making: rows of objects and of ignored boxes."""

    objects: list[tuple[NDArray, str, float]] = field(default_factory=list)
    ignored: list[tuple[NDArray, tuple[str, ...]]] = field(default_factory=list)

    def teach(self, box: NDArray, group: str, probability: float, kinds: NDArray) -> None:
        """Add an object; where its kind is unsure, its place is ignored for the other kinds."""
        names = GROUPS[group]
        best = likeliest(group, kinds)
        self.objects.append((box, best, probability))
        if not is_sure(group, kinds):
            self.ignore(box, tuple(name for name in names if name != best))

    def ignore(self, box: NDArray, names: tuple[str, ...]) -> None:
        """Add a box in which nothing is known of some classes."""
        if names:
            self.ignored.append((box, names))

    def labels(self, frame: Frame, size_px: tuple[int, int]) -> Labels:
        """The labels of the frame."""
        return Labels(
            frame.image,
            frame.index,
            frame.set_name,
            size_px,
            _stacked([box for box, _, _ in self.objects]),
            np.array([CLASSES.index(name) for _, name, _ in self.objects], np.int64),
            np.array([probability for _, _, probability in self.objects], np.float32),
            _stacked([box for box, _ in self.ignored]),
            np.array(
                [[name in names for name in CLASSES] for _, names in self.ignored], bool
            ).reshape(-1, len(CLASSES)),
        )


@dataclass(frozen=True)
class Probable:
    """Possible objects of one group with their probabilities, the most probable first.

    Attributes:
        corners: float64 [n, 4], in pixels.
        probabilities: float64 [n].
        kinds: float64 [n, 8], see `Objects`.
    """

    corners: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    kinds: NDArray[np.float64]


def probable(objects: Objects, calibration: Calibration, size_px: tuple[int, int]) -> Probable:
    """Give possible objects on a frame probabilities; of those that overlap the best stays."""
    width, height = (objects.corners[:, 2:] - objects.corners[:, :2]).T
    found = calibration.probability(objects.evidence, height / size_px[1])
    found[(width * height > GIANT * size_px[0] * size_px[1]) & (found < SURE)] = 0
    rows = suppressed_rows(objects.corners, found, SAME_OBJECT_IOU)
    return Probable(objects.corners[rows], found[rows], objects.kinds[rows])


def decide(
    frame: Frame,
    size_px: tuple[int, int],
    found: Mapping[str, Probable],
    people: NDArray[np.float64],
    images: ImageSet,
    recipe: Recipe,
) -> Labels:
    """Decide what is taught on a frame, and where nothing is.

    Args:
        frame: to label.
        size_px: its width and height.
        found: possible objects by group.
        people: float64 [n, 5], people's labels: the set's class id, and corners in pixels.
        images: its set.
        recipe: thresholds.
    """
    draft = Draft()
    for row in people:
        for group in images.crowd.get(int(row[0]), ()):
            draft.ignore(row[1:], GROUPS[group])
    for group in GROUP_NAMES:
        own = [row for row in people if images.people.get(int(row[0])) in (group, *GROUPS[group])]
        _decide_group(draft, group, found[group], own, people, images, recipe)
    return draft.labels(frame, size_px)


def _decide_group(
    draft: Draft,
    group: str,
    found: Probable,
    own: list[NDArray[np.float64]],
    people: NDArray[np.float64],
    images: ImageSet,
    recipe: Recipe,
) -> None:
    theirs = np.array(own).reshape(-1, 5)[:, 1:]
    iou = overlaps(found.corners, theirs)
    for row, (_, *box) in enumerate(own):
        named = images.people[int(own[row][0])]
        kinds = np.array([name == named for name in CLASSES], float)
        if named == group and len(found.corners) and iou[:, row].max() >= PEOPLES_IOU:
            kinds = found.kinds[iou[:, row].argmax()]
        draft.teach(np.array(box), group, 1.0, kinds)
    ridden = people[np.isin(people[:, 0], list(images.ridden))][:, 1:]
    within = covered(found.corners, ridden) >= INSIDE
    rides = group == TWO_WHEELER and len(ridden)
    if rides:
        seen = (found.probabilities >= recipe.ignored[group]) & found.kinds.any(axis=1)
        for box in ridden[~(within & seen[:, None]).any(axis=0)]:
            draft.ignore(box, (*GROUPS["person"], *GROUPS[TWO_WHEELER]))
    nested = np.triu(covered(found.corners, found.corners).T, 1).max(axis=0, initial=0)
    for row, box in enumerate(found.corners):
        p = float(found.probabilities[row])
        if p < recipe.ignored[group] or iou[row].max(initial=0) >= PEOPLES_IOU:
            continue
        if box[3] - box[1] < LEAST_HEIGHT_PX:
            draft.ignore(box, GROUPS[group])
        elif rides and within[row].any() and found.kinds[row].any():
            draft.teach(box, group, max(p, RIDDEN), found.kinds[row])
        elif group in images.groups and not images.partial:
            draft.ignore(box, GROUPS[group])
        elif group == TWO_WHEELER and not found.kinds[row].any():
            # Only voices that box riders, too, have seen it: where the two-wheeler ends is unknown.
            draft.ignore(box, (*GROUPS["person"], *GROUPS[TWO_WHEELER]))
        elif p >= recipe.taught[group] and nested[row] < NESTED:
            draft.teach(box, group, p, found.kinds[row])
        else:
            draft.ignore(box, GROUPS[group])


def _stacked(boxes: list[NDArray]) -> NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)
