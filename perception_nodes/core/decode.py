"""Head tensors to boxes: distribution-focal-loss decoding and class-aware suppression.

The head is that of YOLOv8: anchor-free, with a tensor of box logits and one of class logits at each
level. The distance from a cell's centre to a side of the box, in strides, is the expectation of a
softmax over `reg_max` bins (Li et al. 2020, Generalized Focal Loss).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import MAX_DETECTIONS, Detections


class AbsurdOutput(ValueError):
    """The network's output cannot be right: a logit is not a number, or is absurdly large."""


ABSURD_LOGIT = 1000.0
"""No intact network comes near it: a logit of 20 already means a probability of 1 - 2e-9."""


@dataclass(frozen=True)
class DecodeSettings:
    """Thresholds of the decoder.

    Attributes:
        score_threshold: objects with a lower score are not reported; in (0, 1).
        iou_threshold: if two boxes of one class have a larger IoU, the weaker one is dropped.
        max_candidates: number of boxes, best first, that enter suppression. It bounds the cost
            when a network finds objects everywhere.
    """

    score_threshold: float = 0.25
    iou_threshold: float = 0.6
    max_candidates: int = 300

    @property
    def logit_threshold(self) -> float:
        """The score threshold as a logit."""
        return float(np.log(self.score_threshold / (1 - self.score_threshold)))


class Decoder:
    """Decodes the head of one model; the cell centres are computed once."""

    def __init__(
        self,
        width: int,
        height: int,
        strides: Sequence[int],
        reg_max: int,
        settings: DecodeSettings,
    ) -> None:
        self._settings = settings
        self._logit_threshold = settings.logit_threshold
        self._bins = np.arange(reg_max, dtype=np.float32)
        self._reg_max = reg_max
        self._strides = tuple(strides)
        self._centres = []
        for stride in strides:
            x, y = np.meshgrid(np.arange(width // stride) + 0.5, np.arange(height // stride) + 0.5)
            self._centres.append(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32))

    def decode(
        self, boxes: Sequence[NDArray[np.float32]], classes: Sequence[NDArray[np.float32]]
    ) -> Detections:
        """Objects in the network's input.

        Args:
            boxes: one tensor for each level, float32 [1, 4 * reg_max, h, w]: logits of the
                distances to the left, top, right and bottom side.
            classes: one tensor for each level, float32 [1, n, h, w]: class logits.

        Returns:
            Detections in input pixels, best score first, at most `MAX_DETECTIONS`.

        Raises:
            AbsurdOutput: a class logit, or a box logit of an object, is not a number, or is not
                within ±`ABSURD_LOGIT`.
        """
        levels = [
            self._candidates(level, box, logits)
            for level, (box, logits) in enumerate(zip(boxes, classes, strict=True))
        ]
        # From here on all levels together: with so few numbers, the calls are what costs time.
        side_logits = np.concatenate([level[0] for level in levels], axis=2)
        logits = np.concatenate([level[1] for level in levels])
        labels = np.concatenate([level[2] for level in levels])
        centres = np.concatenate([level[3] for level in levels])
        strides = np.repeat(self._strides, [len(level[1]) for level in levels])
        order = np.argsort(-logits, kind="stable")[: self._settings.max_candidates]
        side_logits, logits, labels = side_logits[:, :, order], logits[order], labels[order]
        if not _is_sane(side_logits):
            raise AbsurdOutput("box logits of an object are not numbers below 1000")
        weights = np.exp(side_logits - side_logits.max(axis=1, keepdims=True))
        distance = np.einsum("b,sbn->ns", self._bins, weights) / weights.sum(axis=1).T
        corners = np.concatenate(
            [centres[order] - distance[:, :2], centres[order] + distance[:, 2:]], axis=1
        )
        xyxy = corners * strides[order, None].astype(np.float32)
        keep = suppress(xyxy, labels, self._settings.iou_threshold)[:MAX_DETECTIONS]
        scores = 1 / (1 + np.exp(-logits[keep]))
        return Detections(xyxy[keep], scores, labels[keep])

    def _candidates(
        self, level: int, box: NDArray[np.float32], logits: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Side logits, class logit, class and centre of a level's cells above the threshold."""
        flat = logits.reshape(logits.shape[1], -1)
        if not _is_sane(flat):
            raise AbsurdOutput(
                f"class logits at stride {self._strides[level]} are not numbers below 1000"
            )
        best = flat.max(axis=0)
        cells = np.flatnonzero(best > self._logit_threshold)
        limit = self._settings.max_candidates
        if len(cells) > limit:
            # A stable sort takes the first of equal logits, as the GPU kernel does.
            cells = np.sort(cells[np.argsort(-best[cells], kind="stable")[:limit]])
        side_logits = box.reshape(4, self._reg_max, -1)[:, :, cells]
        return side_logits, best[cells], flat[:, cells].argmax(axis=0), self._centres[level][cells]


def _is_sane(logits: NDArray[np.float32]) -> bool:
    # Two passes without a temporary array; a comparison with NaN is false.
    return not logits.size or bool(logits.max() < ABSURD_LOGIT and logits.min() > -ABSURD_LOGIT)


def suppress(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression within each class.

    Args:
        boxes: float32 [n, 4], x1 y1 x2 y2, best first.
        labels: int64 [n].
        iou_threshold: a box is dropped if its IoU with a kept box of its class is larger.

    Returns:
        Indices of the kept boxes, in order.
    """
    count = len(boxes)
    if count == 0:
        return np.empty(0, np.int64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    union = area[:, None] + area[None, :] - intersection
    rivals = (intersection > iou_threshold * union) & (labels[:, None] == labels[None, :])
    alive = np.ones(count, bool)
    kept = []
    for index in range(count):
        if alive[index]:
            kept.append(index)
            alive[index + 1 :] &= ~rivals[index, index + 1 :]
    return np.array(kept, np.int64)
