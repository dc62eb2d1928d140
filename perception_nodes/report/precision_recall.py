"""Precision against recall of the boxes that a model reports."""

from collections.abc import Mapping, Sequence

import numpy as np

from perception_nodes.report.annotate import class_colour
from perception_nodes.report.chart import Axis, Chart

MIN_OBJECTS = 10
"""A curve of fewer objects says nothing."""
HEIGHT_PX = 340
Reported = Mapping[str, tuple[int, Sequence[tuple[float, bool]]]]
"""By class: number of labelled objects; score of each box that counts, and whether it is right."""


def precision_recall(reported: Reported) -> Chart:
    """Precision and recall of each class, at each score from the lowest given one upward."""
    recalls, precisions = (Axis(n, (0, 1), percent=True) for n in ("recall", "precision"))
    chart = Chart(recalls, precisions, HEIGHT_PX)
    for name, (objects, boxes) in reported.items():
        rights = np.cumsum([is_right for _, is_right in sorted(boxes, key=lambda box: -box[0])])
        if objects < MIN_OBJECTS or not len(rights) or not rights[-1]:
            continue
        # One point for each right box, so that no recall comes twice.
        last = np.searchsorted(rights, np.arange(1, rights[-1] + 1))
        x, y = rights[last] / objects, rights[last] / (last + 1)
        label = f"{name} ({objects})"
        chart.add(x.round(4).tolist(), y.round(4).tolist(), label, class_colour(name), "line")
    return chart
