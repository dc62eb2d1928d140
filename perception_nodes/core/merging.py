"""The objects of a frame, from its whole and from second looks at parts of it.

A look shows small objects better than the whole frame does, and of large ones only fragments. So
the whole has authority over what is large, and a look has none over what its border may have cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import MAX_DETECTIONS, Detections, FrameHeader
from perception_nodes.core.geometry import intersections_and_unions

Region = tuple[int, int]
"""Left and top of a look, in pixels of the source; its size is that of the network's input."""
ALIGNED_PX = 4
"""Regions begin at multiples of this, since colours and packed samples come in groups of pixels."""
BORDER_PX = 3.0
"""A box that ends nearer than this to a border of its look may be cut by it."""
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
    """

    kinds: tuple[int, ...]
    iou_threshold: float = 0.5
    inside: float = 0.7
    large: float = 1 / 3
    trusted: float = 0.25


def merge_settings(classes: Sequence[str]) -> MergeSettings:
    """The settings for a model with these names of classes."""
    first = next((i for i, name in enumerate(classes) if name in VEHICLES), 0)
    return MergeSettings(tuple(first if n in VEHICLES else i for i, n in enumerate(classes)))


def uncut(found: Detections, header: FrameHeader) -> Detections:
    """The objects of a look that end at no border of its region, unless it is one of the source.

    Args:
        found: boxes in pixels of the network's input.
        header: that of the region's slot; in the whole frame no object is cut.
    """
    scales, pads = (header.scale_x, header.scale_y), (header.pad_x, header.pad_y)
    size, source_px = (header.width, header.height), (header.source_width, header.source_height)
    first, last = -np.divide(pads, scales), np.subtract(size, pads) / scales
    cut = (found.boxes[:, :2] < BORDER_PX) & (first > 0)
    cut |= (found.boxes[:, 2:] > np.subtract(size, BORDER_PX)) & (last + ALIGNED_PX <= source_px)
    return _of(found, ~(cut[:, 0] | cut[:, 1]))


def merge(
    whole: Detections,
    looks: Sequence[Detections],
    input_px: tuple[int, int],
    settings: MergeSettings,
) -> Detections:
    """Join what was found in a frame and in looks at it.

    Args:
        whole: objects of the whole frame; all boxes are in pixels of the source.
        looks: the objects that were found in each, by `uncut`.
        input_px: width and height of the network's input.
        settings: thresholds.

    Returns:
        The objects, best score first, at most `MAX_DETECTIONS`. An object that both show is that
        with the better score.
    """
    kinds, parts = np.array(settings.kinds), [whole]
    for found in looks:
        parts.append(_of(found, ~fragments(found, whole, input_px, settings)))
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


def _of(found: Detections, kept: NDArray[np.bool_]) -> Detections:
    """The objects that are kept."""
    boxes, scores, classes = found.boxes[kept], found.scores[kept], found.classes[kept]
    return replace(found, boxes=boxes, scores=scores, classes=classes)
