"""Head tensors to boxes, in plain NumPy."""

import cv2
import numpy as np

from compression.contract import REG_MAX, STRIDES


def decode(outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Turn raw head outputs of one frame into boxes and scores.

    ``outputs`` are the three box maps (float32 [1, 64, h, w]) and the three class maps (float32
    [1, c, h, w]). Returns corners in input pixels (float32 [n, 4]) and scores (float32 [n, c]).
    """
    all_corners, all_scores = [], []
    for stride, box, classes in zip(STRIDES, outputs[:3], outputs[3:], strict=True):
        height, width = box.shape[2:]
        logits = box.reshape(4, REG_MAX, height * width)
        bins = np.exp(logits - logits.max(axis=1, keepdims=True))
        sides = np.einsum("sbn,b->ns", bins / bins.sum(axis=1, keepdims=True), np.arange(REG_MAX))
        y, x = np.mgrid[:height, :width] + 0.5
        centre = np.stack([x.ravel(), y.ravel()], axis=1)
        all_corners.append(
            stride * np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1)
        )
        all_scores.append(1 / (1 + np.exp(-classes[0].reshape(len(classes[0]), -1).T)))
    corners, scores = np.concatenate(all_corners), np.concatenate(all_scores)
    return corners.astype(np.float32), scores.astype(np.float32)


def suppress(
    corners: np.ndarray,
    scores: np.ndarray,
    min_score: float,
    max_iou: float,
    max_detections: int = 300,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep the best box of each object, class by class.

    Returns corners (float32 [k, 4]), classes (int [k]) and scores (float32 [k]), best first.
    """
    anchor, classes = np.nonzero(scores > min_score)
    boxes, best = corners[anchor], scores[anchor, classes]
    sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(
        sizes.tolist(), best.tolist(), classes.tolist(), min_score, max_iou
    )
    kept = np.array(kept, int).reshape(-1)
    kept = kept[np.argsort(-best[kept], kind="stable")][:max_detections]
    return boxes[kept], classes[kept], best[kept]
