"""The objects of one runtime beside those of another."""

import numpy as np

from perception_nodes.backends.contract import BackendSettings, open_model
from perception_nodes.core.geometry import pairwise_iou

THRESHOLD = 0.25
BORDERLINE = 0.05
"""An object whose score is this close to the threshold may be missing in another runtime."""


def heads_of(name, model, images):
    with open_model(name, model, BackendSettings(threads=1)) as backend:
        every = map(backend.infer, images)
        return [[tensor.copy() for tensor in (*one.boxes, *one.classes)] for one in every]


def partners(decoder, ours, theirs):
    """IoU and score difference of each sure object's counterpart; (0, score) if it has none."""
    levels = len(ours) // 2
    found, others = (decoder.decode(heads[:levels], heads[levels:]) for heads in (ours, theirs))
    for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True):
        if score >= THRESHOLD + BORDERLINE:
            iou = pairwise_iou(box[None], others.boxes)[0] * (others.classes == label)
            iou = np.append(iou, 0)
            best = int(iou.argmax())
            yield iou[best], abs(score - np.append(others.scores, 0)[best])


def mutual_partners(decoder, ours, theirs):
    """`partners` of the objects of several images in both directions: IoUs, differences."""
    pairs = [
        pair
        for a, b in zip(ours, theirs, strict=True)
        for pair in (*partners(decoder, a, b), *partners(decoder, b, a))
    ]
    assert pairs, "the sample frames show no object"
    return np.array(pairs).T
