"""The objects of a frame, from its whole and from second looks at parts of it.

A look shows small objects better than the whole frame does, and of large ones only fragments. So
the whole has authority over what is large, and a look has none over what its border may have cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import MAX_DETECTIONS, Detections
from perception_nodes.core.geometry import intersections_and_unions

Region = tuple[int, int]
"""Left and top of a look, in pixels of the source; its size is that of the network's input."""
ALIGNED_PX = 4
"""Regions begin at multiples of this, since colours and packed samples come in groups of pixels."""
VEHICLES = frozenset(
    "car,automobile,bus,coach,truck,lorry,van,minibus,minivan,pickup,vehicle,ambulance".split(",")
)
"""Names of classes that are taken for each other, above all at two scales."""


@dataclass(frozen=True)
class MergeSettings:
    """How objects at two scales become one.

    Attributes:
        kinds: by class, a number that classes share whose objects may be taken for each other.
        iou_threshold: two boxes of a kind with a larger IoU are one object.
        inside: a box of a look is a fragment if more than this part of it lies in a large object.
        large: part of the input's height; a higher object of the whole is large.
        trusted: least score of such an object.
        border_px: a box that ends nearer to a border of its look may be cut by it.
    """

    kinds: tuple[int, ...]
    iou_threshold: float = 0.5
    inside: float = 0.7
    large: float = 1 / 3
    trusted: float = 0.25
    border_px: float = 3.0


def merge_settings(classes: Sequence[str]) -> MergeSettings:
    """The settings for a model with these names of classes."""
    first = next((i for i, name in enumerate(classes) if name in VEHICLES), 0)
    return MergeSettings(tuple(first if n in VEHICLES else i for i, n in enumerate(classes)))


def merge(
    whole: Detections,
    looks: Sequence[tuple[Region, Detections]],
    input_px: tuple[int, int],
    source_px: tuple[int, int],
    settings: MergeSettings,
) -> Detections:
    """Join what was found in a frame and in looks at it.

    Args:
        whole: objects of the whole frame; all boxes are in pixels of the source.
        looks: regions, and the objects that were found in each.
        input_px: width and height of the network's input, and so of each region.
        source_px: width and height of the source.
        settings: thresholds.

    Returns:
        The objects, best score first, at most `MAX_DETECTIONS`. An object that both show is that
        with the better score.
    """
    kinds, parts = np.array(settings.kinds), [whole]
    for region, found in looks:
        dropped = _cut(found.boxes, region, input_px, source_px, settings.border_px)
        kept = ~(dropped | fragments(found, whole, input_px, settings))
        parts.append(Detections(found.boxes[kept], found.scores[kept], found.classes[kept]))
    columns = zip(*((part.boxes, part.scores, part.classes) for part in parts), strict=True)
    boxes, scores, classes = map(np.concatenate, columns)
    origins = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.argsort(-scores, kind="stable")
    boxes, scores, classes, origins = boxes[order], scores[order], classes[order], origins[order]
    shared, union = intersections_and_unions(boxes, boxes)
    same = (shared > settings.iou_threshold * union) & (origins[:, None] != origins)
    same &= kinds[classes][:, None] == kinds[classes]
    kept = np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        if kept[index]:
            kept[index + 1 :] &= ~same[index, index + 1 :]
    rows = np.flatnonzero(kept)
    more = len(rows) > MAX_DETECTIONS or any(part.more for part in parts)
    rows = rows[:MAX_DETECTIONS]
    return Detections(boxes[rows], scores[rows], classes[rows], more)


def fragments(
    found: Detections, whole: Detections, input_px: tuple[int, int], settings: MergeSettings
) -> NDArray[np.bool_]:
    """Which boxes lie in the box of another, large object of their kind; see `merge`."""
    kinds, sizes = np.array(settings.kinds), whole.boxes[:, 2:] - whole.boxes[:, :2]
    large = (whole.scores >= settings.trusted) & (sizes[:, 1] > settings.large * input_px[1])
    areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)[:, None]
    shared, _ = intersections_and_unions(found.boxes, whole.boxes[large])
    within = (shared > settings.inside * areas) & (areas != np.prod(sizes[large], axis=1))
    within &= kinds[found.classes][:, None] == kinds[whole.classes[large]]
    are: NDArray[np.bool_] = np.logical_or.reduce(within, axis=1)
    return are


def _cut(
    boxes: NDArray[np.float32],
    region: Region,
    input_px: tuple[int, int],
    source_px: tuple[int, int],
    border_px: float,
) -> NDArray[np.bool_]:
    """Which boxes end at a border of their region that is none of the source."""
    first, last = np.array(region), np.add(region, input_px)
    cut = (boxes[:, :2] < first + border_px) & (first > 0)
    cut |= (boxes[:, 2:] > last - border_px) & (last + ALIGNED_PX <= source_px)
    return cut[:, 0] | cut[:, 1]
