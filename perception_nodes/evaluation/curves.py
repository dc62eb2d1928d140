"""Precision against recall, and what is taken for what, of the boxes that a model reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception_nodes.evaluation.mistakes import MISTAKES, BoxKind, Examined
from perception_nodes.report.annotate import class_colour
from perception_nodes.report.chart import Axis, Chart

NOTHING = "nothing"
MIN_OBJECTS = 10
"""A curve of fewer objects says nothing."""
HEIGHT_PX = 340


def precision_recall(sets: Sequence[Examined]) -> Chart:
    """Precision and recall at each score from the run time's upward, by class.

    A box is right from an IoU of 0.5. Classes of one name are one, over all sets.
    """
    share = (0.0, 1.0)
    recalls, precisions = (Axis(name, share, percent=True) for name in ("recall", "precision"))
    chart = Chart(recalls, precisions, HEIGHT_PX)
    for name in dict.fromkeys(name for one in sets for name in one.classes):
        scores, right, objects = [], [], 0
        for one in (one for one in sets if name in one.classes):
            index = one.classes.index(name)
            for image in one.images:
                objects += int(((image.truth.classes == index) & ~image.truth.crowd).sum())
                found = zip(image.kinds, image.found.classes, image.found.scores, strict=True)
                for kind, label, score in found:
                    if label == index and kind in (BoxKind.RIGHT, *MISTAKES):
                        scores.append(score)
                        right.append(kind is BoxKind.RIGHT)
        if objects < MIN_OBJECTS or not any(right):
            continue
        rights = np.cumsum(np.array(right)[np.argsort(-np.array(scores), kind="stable")])
        # One point for each right box, so that no recall comes twice.
        last = np.searchsorted(rights, np.arange(1, rights[-1] + 1))
        recall, precision = rights[last] / objects, rights[last] / (last + 1)
        label = f"{name} ({objects})"
        x, y = recall.round(4).tolist(), precision.round(4).tolist()
        chart.add(x, y, label, class_colour(name), "line")
    return chart


def confusion(examined: Examined) -> tuple[list[str], list[list[Any]]]:
    """What labelled objects were reported as.

    Returns:
        Names of the columns, which are what was reported, and a row for each labelled class. The
        last column counts objects that were not reported, the last row boxes on nothing.
    """
    names = [*examined.classes, NOTHING]
    counts = np.zeros((len(names), len(names)), int)
    for one in examined.images:
        truth = one.truth.classes
        found_as_other = np.zeros(len(truth), bool)
        for kind, label, row in zip(one.kinds, one.found.classes, one.objects, strict=True):
            if kind in (BoxKind.RIGHT, BoxKind.OTHER_CLASS):
                counts[truth[row], label] += 1
                found_as_other[row] |= kind is BoxKind.OTHER_CLASS
            elif kind in (BoxKind.NOTHING, BoxKind.MISPLACED, BoxKind.TWICE):
                counts[-1, label] += 1
        for label in truth[one.missed & ~found_as_other]:
            counts[label, -1] += 1
    rows = [[name, *map(int, row)] for name, row in zip(names, counts, strict=True)]
    return names, rows
