"""Detections matched with labels by pycocotools, and average precision as COCO defines it.

Matching takes most of the time, and needs one image at a time. So it is done once. The average
precision, over all images or over a bootstrap sample of them, is computed from its result.
"""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.errors import PerceptionError

IOU_LEVELS = 10
"""IoU thresholds from 0.50 to 0.95."""
MAX_DETECTIONS = 100
"""Largest number of detections of a class on an image; the best ones count."""
HEIGHT_BANDS_PX = {
    "<16": (0.0, 16.0 - 1e-6),
    "16-32": (16.0, 32.0 - 1e-6),
    "32-64": (32.0, 64.0 - 1e-6),
    ">=64": (64.0, 1e5),
}
"""Object heights in pixels of the network's input, which decide whether an object can be detected.
pycocotools includes both ends of a band."""
ALL_HEIGHTS = "all"
_RECALLS = np.linspace(0, 1, 101)


class EvaluationNotInstalled(PerceptionError):
    """pycocotools is missing; the text says how to install it."""


def require_pycocotools() -> None:
    """Check that pycocotools is installed, before hours of work begin.

    Raises:
        EvaluationNotInstalled: it is missing.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise EvaluationNotInstalled(
            "evaluation needs pycocotools, which is not installed; install it with: pip install "
            "pycocotools"
        )


@dataclass(frozen=True)
class Objects:
    """Objects on one image, labelled or detected.

    Attributes:
        boxes: float64 [n, 4], x1 y1 x2 y2 in pixels of the image.
        classes: int64 [n].
        heights_px: float64 [n], heights in pixels of the network's input.
        scores: float64 [n]; 1 for every labelled object.
        crowd: bool [n], whether it is neither right nor wrong to detect a labelled object.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    heights_px: NDArray[np.float64]
    scores: NDArray[np.float64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class on all images, best first, and which of them are right.

    Attributes:
        images: int64 [n], the image of each detection.
        scores: float64 [n].
        right: bool [t, n], whether it matches a labelled object, at each IoU threshold.
        wrong: bool [t, n], whether it matches none; a detection that is neither right nor wrong
            matches an ignored object.
        objects: int64 [images], number of labelled objects on each image that count.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    objects: NDArray[np.int64]

    def average_precision(self, weights: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Average precision at each IoU threshold.

        Args:
            weights: int64 [images], how often each image counts.

        Returns:
            float64 [t], or None if no object counts.
        """
        total = int(self.objects @ weights)
        if total == 0:
            return None
        times = weights[self.images]
        averages = np.zeros(len(self.right))
        for level, (right, wrong) in enumerate(zip(self.right, self.wrong, strict=True)):
            rights, wrongs = np.cumsum(times * right), np.cumsum(times * wrong)
            # Precision rises only with a right detection, so the envelope needs no others.
            steps = np.flatnonzero(right & (times > 0))
            precision = rights[steps] / (rights[steps] + wrongs[steps])
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            places = np.searchsorted(rights[steps] / total, _RECALLS, side="left")
            averages[level] = envelope[places[places < len(steps)]].sum() / len(_RECALLS)
        return averages

    def counts(self, level: int) -> tuple[int, int, int]:
        """Right and wrong detections and labelled objects at an IoU threshold."""
        return int(self.right[level].sum()), int(self.wrong[level].sum()), int(self.objects.sum())


def match(
    truth: Sequence[Objects], found: Sequence[Objects], classes: int
) -> dict[str, list[ClassMatches]]:
    """Match the detections on each image with the labels, at IoU 0.50, 0.55 ... 0.95.

    Args:
        truth: labelled objects of each image.
        found: detections on each image.
        classes: number of classes.

    Returns:
        Matches by class, for `ALL_HEIGHTS` and for each of `HEIGHT_BANDS_PX`.
    """
    from pycocotools.cocoeval import COCOeval

    bands = {ALL_HEIGHTS: (0.0, 1e5), **HEIGHT_BANDS_PX}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_as_coco(truth, classes), _as_coco(found, classes), "bbox")
        evaluation.params.areaRng = [list(band) for band in bands.values()]
        evaluation.params.areaRngLbl = list(bands)
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    # The order of evalImgs is by class, then by band, then by image.
    images, rest = len(truth), iter(evaluation.evalImgs)
    matches: dict[str, list[ClassMatches]] = {name: [] for name in bands}
    for _ in range(classes):
        for name in bands:
            matches[name].append(_class_matches([next(rest) for _ in range(images)]))
    return matches


def _class_matches(by_image: list[dict[str, Any] | None]) -> ClassMatches:
    """Join the results of COCOeval for each image, which are None for an image without objects."""
    images, scores = [np.empty(0, np.int64)], [np.empty(0)]
    right, wrong = [np.empty((IOU_LEVELS, 0), bool)], [np.empty((IOU_LEVELS, 0), bool)]
    objects = np.zeros(len(by_image), np.int64)
    for image, result in enumerate(by_image):
        if result is None:
            continue
        objects[image] = np.count_nonzero(np.asarray(result["gtIgnore"]) == 0)
        matched = np.asarray(result["dtMatches"]) > 0
        counts = ~np.asarray(result["dtIgnore"], bool)
        images.append(np.full(len(result["dtScores"]), image, np.int64))
        scores.append(np.asarray(result["dtScores"], float))
        right.append(matched & counts)
        wrong.append(~matched & counts)
    ranking = np.concatenate(scores)
    order = np.argsort(-ranking, kind="stable")
    return ClassMatches(
        np.concatenate(images)[order],
        ranking[order],
        np.concatenate(right, axis=1)[:, order],
        np.concatenate(wrong, axis=1)[:, order],
        objects,
    )


def _as_coco(images: Sequence[Objects], classes: int) -> Any:
    """Objects for pycocotools; their `area`, by which it sorts them into bands, is the height."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for image, objects in enumerate(images):
        corners, sizes = objects.boxes[:, :2], objects.boxes[:, 2:] - objects.boxes[:, :2]
        boxes, crowd = np.hstack([corners, sizes]), objects.crowd.astype(int)
        columns = (boxes, objects.classes, objects.heights_px, objects.scores, crowd)
        for values in zip(*(column.tolist() for column in columns), strict=True):
            names = ("bbox", "category_id", "area", "score", "iscrowd")
            one = dict(zip(names, values, strict=True))
            annotations.append({"id": len(annotations) + 1, "image_id": image, **one})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": index, "name": str(index)} for index in range(classes)],
    }
    coco.createIndex()
    return coco
