"""Head tensors to boxes, one class for each kind of head, and non-maximum suppression (NMS).

`LevelsDecoder` is for raw heads like that of YOLOv8, `CellsDecoder` for networks that compute boxes
and scores themselves. A model says which of them it needs; the pipeline only sees a `Decoder`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import MAX_DETECTIONS, Detections
from perception_nodes.core.geometry import intersections_and_unions

Levels = Sequence[NDArray[np.float32]]
"""An array of the network's output for each level."""


class AbsurdOutput(ValueError):
    """The network's output cannot be right: a value is not a number, or is absurdly large."""


ABSURD_LOGIT = 1000.0
"""No intact network gives such a logit: 20 already means a probability of 1 - 2e-9."""
ABSURD_PIXELS = 1e6
"""No intact network gives such a coordinate of a box."""


@dataclass(frozen=True)
class DecodeSettings:
    """Thresholds of the decoder.

    Attributes:
        score_threshold: objects with a lower score are not reported; in (0, 1).
        iou_threshold: if two boxes of one class have a larger IoU, the weaker one is dropped.
        across_classes: the same for two boxes of any classes: a bus is then no car too.
    """

    score_threshold: float = 0.25
    iou_threshold: float = 0.6
    across_classes: bool = False

    @property
    def logit_threshold(self) -> float:
        """The score threshold as a logit."""
        return float(np.log(self.score_threshold / (1 - self.score_threshold)))


class Decoder(Protocol):
    """Turns the output of one model into objects."""

    def decode(self, boxes: Levels, classes: Levels) -> Detections:
        """Objects in the network's input.

        Args:
            boxes: the head's tensors of boxes; what they hold is up to the head.
            classes: its tensors of classes, whose second axis numbers the classes.

        Returns:
            Detections in input pixels, best score first, at most `MAX_DETECTIONS`.

        Raises:
            AbsurdOutput: the tensors cannot be those of an intact network.
        """


class CellsDecoder:
    """Decodes a head whose boxes and scores the network has computed itself."""

    def __init__(self, suppressed: bool, settings: DecodeSettings) -> None:
        """Create a decoder.

        Args:
            suppressed: whether the network reports an object only once, instead of once for each
                cell that sees it; its boxes are then not suppressed.
            settings: thresholds.
        """
        self._settings = settings
        self._suppress = not suppressed or settings.across_classes

    def decode(self, boxes: Levels, classes: Levels) -> Detections:
        """Objects in the network's input.

        Args:
            boxes: one tensor, float32 [1, 4, n]: two corners of each cell's box in input pixels,
                x y x y.
            classes: one tensor, float32 [1, c, n]: probability of each class.

        Returns:
            Detections in input pixels, best score first, at most `MAX_DETECTIONS`. A cell is one
            object, of its best class.

        Raises:
            AbsurdOutput: a probability, or a side of an object's box, is not possible.
        """
        corners, scores = boxes[0][0], classes[0][0]
        if not _is_within(scores, -0.001, 1.001):
            raise AbsurdOutput(
                "class scores are not probabilities from 0 to 1, or are those of an object whose "
                "class the model does not name: import it with all names"
            )
        best = scores.max(axis=0)
        cells = np.flatnonzero(best > self._settings.score_threshold)
        cells = cells[np.argsort(-best[cells], kind="stable")]
        xyxy = corners[:, cells].T
        if not _is_within(xyxy, -ABSURD_PIXELS, ABSURD_PIXELS):
            raise AbsurdOutput("the box of an object is not within a million pixels")
        # A network that predicts each side on its own can cross the sides of a thin object.
        first, second = xyxy[:, :2], xyxy[:, 2:]
        xyxy = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
        labels = scores[:, cells].argmax(axis=0)
        keep = nms(xyxy, labels, self._settings) if self._suppress else np.arange(len(cells))
        more, keep = len(keep) > MAX_DETECTIONS, keep[:MAX_DETECTIONS]
        return Detections(xyxy[keep], np.minimum(best[cells[keep]], 1), labels[keep], more)


class LevelsDecoder:
    """Decodes a raw head like that of YOLOv8; the cell centres are computed once.

    It is anchor-free, with a tensor of box logits and one of class logits at each level. The
    distance from a cell's centre to a side of the box, in strides, is the expectation of a softmax
    over `reg_max` bins (Li et al. 2020, Generalized Focal Loss).
    """

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
        self._strides = tuple(strides)
        # Centres of the cells of all levels, one after the other.
        centres = []
        for stride in strides:
            x, y = np.meshgrid(np.arange(width // stride) + 0.5, np.arange(height // stride) + 0.5)
            centres.append(np.stack([x.ravel(), y.ravel()] * 2, axis=1).astype(np.float32))
        self._centres = np.concatenate(centres)
        sizes = [len(level) for level in centres]
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes
        self._scales = np.repeat(np.array(strides, np.float32), sizes)[:, None]

    def decode(self, boxes: Levels, classes: Levels) -> Detections:
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
        best = np.empty(len(self._centres), np.float32)
        flat = [level.reshape(level.shape[1], -1) for level in classes]
        bounds = zip(flat, self._starts, self._ends, self._strides, strict=True)
        for level, start, end, stride in bounds:
            np.maximum.reduce(level, axis=0, out=best[start:end])
            if not (best[start:end].max() < ABSURD_LOGIT and level.min() > -ABSURD_LOGIT):
                raise AbsurdOutput(f"class logits at stride {stride} are not numbers below 1000")
        cells = (best > self._logit_threshold).nonzero()[0]
        side_logits, labels = self._gathered(cells, boxes, flat)
        if not _is_within(side_logits, -ABSURD_LOGIT, ABSURD_LOGIT):
            raise AbsurdOutput("box logits of an object are not numbers below 1000")
        weights = np.exp(side_logits - side_logits.max(axis=2, keepdims=True))
        distance = np.einsum("b,nsb->ns", self._bins, weights) / weights.sum(axis=2)
        distance[:, :2] *= -1
        xyxy = (self._centres[cells] + distance) * self._scales[cells]
        # A stable sort takes the first of equal logits, as the GPU kernel does.
        logits: NDArray[np.float32] = best[cells]
        order = (-logits).argsort(kind="stable")
        logits, labels, xyxy = logits[order], labels[order], xyxy[order]
        keep = nms(xyxy, labels, self._settings)
        more, keep = len(keep) > MAX_DETECTIONS, keep[:MAX_DETECTIONS]
        scores = np.divide(1, 1 + np.exp(-logits[keep]), dtype=np.float32)
        return Detections(xyxy[keep], scores, labels[keep], more)

    def _gathered(
        self, cells: NDArray[np.int64], boxes: Levels, classes: Levels
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Box logits [n, 4, reg_max] and labels [n] of cells, whose numbers ascend."""
        side_logits = np.empty((len(cells), 4 * len(self._bins)), np.float32)
        labels = np.empty(len(cells), np.int64)
        first = 0
        for level, last in enumerate(np.searchsorted(cells, self._ends).tolist()):
            if last > first:
                own = cells[first:last] - self._starts[level]
                side_logits[first:last] = boxes[level].reshape(side_logits.shape[1], -1).T[own]
                classes[level][:, own].argmax(axis=0, out=labels[first:last])
                first = last
        return side_logits.reshape(-1, 4, len(self._bins)), labels


def _is_within(values: NDArray[np.float32], least: float, most: float) -> bool:
    # Two passes without a temporary array; a comparison with NaN is false.
    return not values.size or bool(values.max() < most and values.min() > least)


BLOCK = 100
"""Number of boxes compared with each other at once; more would fill the caches."""


def nms(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], settings: DecodeSettings
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression (NMS) within each class, or across them.

    Args:
        boxes: float32 [n, 4], x1 y1 x2 y2, best first.
        labels: int64 [n].
        settings: a box is dropped if its IoU with a kept box is larger than their threshold.

    Returns:
        Indices of the kept boxes, in order. If more than `MAX_DETECTIONS` are kept, the last ones
        may be missing.
    """
    kept: list[int] = []
    for start in range(0, len(boxes), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(boxes)))
        if kept:
            block = block[~_rivals(boxes, labels, block, np.array(kept), settings).any(axis=1)]
        rivals = _rivals(boxes, labels, block, block, settings)
        rows = np.packbits(rivals, axis=1, bitorder="little")
        dropped = 0  # a bit for each box of the block
        for place, index in enumerate(block.tolist()):
            if not dropped >> place & 1:
                kept.append(index)
                dropped |= int.from_bytes(rows[place].tobytes(), "little")
        if len(kept) > MAX_DETECTIONS:
            break
    return np.array(kept, np.int64)


def _rivals(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    some: NDArray[np.int64],
    others: NDArray[np.int64],
    settings: DecodeSettings,
) -> NDArray[np.bool_]:
    """Whether a box and another are the same object, for every pair of two sets, bool [n, m]."""
    shared, union = intersections_and_unions(boxes[some], boxes[others])
    same: NDArray[np.bool_] = shared > settings.iou_threshold * union
    if not settings.across_classes:
        same &= labels[some, None] == labels[None, others]
    return same
