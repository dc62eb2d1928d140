"""Detections of given boxes."""

import numpy as np

from perception_nodes.core.frame import Detections


def detected(boxes, scores=0.9, classes=0):
    """Objects, of which all may have one score or class."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.full(len(boxes), scores, np.float32)
    return Detections(boxes, scores, np.full(len(boxes), classes, np.int64))
