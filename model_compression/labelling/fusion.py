"""Boxes of several voices merged into one for each object, with what each voice says of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ensemble_boxes.ensemble_boxes_wbf import weighted_boxes_fusion
from numpy.typing import NDArray

from model_compression.labelling.boxes import GROUP_NAMES, GROUP_OF, TWO_WHEELER, Boxes, overlaps
from model_compression.labelling.recipe import Labeller
from model_compression.labels import CLASSES

SAME_IOU = 0.55
"""Boxes of one group that overlap by more are of one object."""
SLACK = 0.05
"""A box may overlap the mean of its object by so much less."""
RIDERS = (GROUP_NAMES.index("person"), GROUP_NAMES.index(TWO_WHEELER))
LEAST_RIDDEN = 0.3
"""Score of a two-wheeler that is believed to be there."""
RIDDEN, RISES = 0.5, 0.25
"""A box of rider and two-wheeler covers so much of the latter, and rises above it by so much of its
height."""
INSIDE = 0.8
"""Share of an object from which on a box of rider and two-wheeler speaks for it."""


@dataclass(frozen=True)
class Objects:
    """Possible objects of one group on a frame.

    Attributes:
        corners: float64 [n, 4], left, top, right, bottom in pixels.
        evidence: float64 [n, voices], the best score that each voice gives; 0 for none.
        kinds: float64 [n, 8], the sum of the voices' best scores for each class.
    """

    corners: NDArray[np.float64]
    evidence: NDArray[np.float64]
    kinds: NDArray[np.float64]


def fuse(
    heard: Sequence[Boxes], voices: Sequence[Labeller], size_px: tuple[int, int]
) -> dict[str, Objects]:
    """Merge what voices found, by group.

    Args:
        heard: by voice, its boxes.
        voices: by voice, how its boxes are taken.
        size_px: width and height of the frame.
    """
    heard = [one[one.scores >= voice.least_score] for one, voice in zip(heard, voices, strict=True)]
    heard, joined = split_riders(heard, [voice.joins_riders for voice in voices])
    weights = [voice.weight for voice in voices]
    found = {}
    for number, group in enumerate(GROUP_NAMES):
        own = [one[GROUP_OF[one.names] == number] for one in heard]
        found[group] = _fuse_group(own, weights, size_px)
        if number in RIDERS:
            for voice, boxes in enumerate(joined):
                inside = covered(found[group].corners, boxes.corners) >= INSIDE
                spoken = np.where(inside, boxes.scores, 0).max(axis=1, initial=0)
                heard_of = found[group].evidence[:, voice]
                np.maximum(heard_of, spoken, out=heard_of)
    return found


def _fuse_group(
    heard: Sequence[Boxes], weights: Sequence[float], size_px: tuple[int, int]
) -> Objects:
    """Merge the boxes of one group; a box speaks for the object that it overlaps most."""
    size = np.array(size_px * 2, np.float64)
    corners, *_ = weighted_boxes_fusion(
        [np.clip(one.corners / size, 0, 1) for one in heard],
        [one.scores for one in heard],
        [np.zeros(len(one)) for one in heard],
        weights=weights,
        iou_thr=SAME_IOU,
    )
    corners = corners.reshape(-1, 4) * size
    evidence, kinds = np.zeros((len(corners), len(heard))), np.zeros((len(corners), len(CLASSES)))
    for voice, boxes in enumerate(heard):
        iou = overlaps(corners, boxes.corners)
        speaks = (iou >= SAME_IOU - SLACK) & (iou == iou.max(axis=0, initial=0))
        support = np.where(speaks, boxes.scores, 0)
        evidence[:, voice] = support.max(axis=1, initial=0)
        for kind in set(boxes.names.tolist()) & set(range(len(CLASSES))):
            kinds[:, kind] += support[:, boxes.names == kind].max(axis=1)
    return Objects(corners, evidence, kinds)


def split_riders(
    heard: Sequence[Boxes], joins_riders: Sequence[bool]
) -> tuple[list[Boxes], list[Boxes]]:
    """Part the boxes of each voice from those that cover a rider together with the two-wheeler.

    COCO boxes the two apart. A voice that does so, too, shows where the two-wheeler alone is: a box
    that covers it and rises above it is of both.
    """
    apart = [one for one, joins in zip(heard, joins_riders, strict=True) if not joins]
    machines = Boxes.joined(apart)
    is_machine = GROUP_OF[machines.names] == GROUP_NAMES.index(TWO_WHEELER)
    machines = machines[is_machine & (machines.scores >= LEAST_RIDDEN)]
    tops, heights = machines.corners[:, 1], machines.corners[:, 3] - machines.corners[:, 1]
    alone, both = [], []
    for boxes, joins in zip(heard, joins_riders, strict=True):
        over = boxes.corners[:, 1] < (tops - RISES * heights)[:, None]
        of_both = (over & (covered(machines.corners, boxes.corners) >= RIDDEN)).any(axis=0)
        of_both &= np.isin(GROUP_OF[boxes.names], RIDERS) & joins
        alone.append(boxes[~of_both])
        both.append(boxes[of_both])
    return alone, both


def covered(inner: NDArray, outer: NDArray) -> NDArray[np.float64]:
    """Share of each inner box that each outer one covers, float64 [inner, outer]."""
    low = np.maximum(inner[:, None, :2], outer[None, :, :2])
    high = np.minimum(inner[:, None, 2:], outer[None, :, 2:])
    areas = (inner[:, 2:] - inner[:, :2]).prod(axis=1)[:, None]
    return np.clip(high - low, 0, None).prod(axis=2) / np.maximum(areas, 1e-9)
