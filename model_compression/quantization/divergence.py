"""How far a detector's outputs are from another's, in what detections are made of."""

import numpy as np
from numpy.typing import NDArray

Heads = list[NDArray[np.float32]]
CLASS_WEIGHT, BOX_WEIGHT = 0.5, 1.5


def divergence(reference: Heads, heads: Heads) -> float:
    """Compare two answers to one frame.

    The Kullback-Leibler divergence from the reference: of every class score, and of the
    distributions that a box's sides are read from, the latter weighted by how surely the reference
    sees an object there. Plain differences of tensors would count the empty road most. The weights
    are those of the detection loss.

    Args:
        reference: the box maps, a level each, float32 [1, 4 * reg_max, h, w], and after them the
            class maps, float32 [1, classes, h, w], of the float network.
        heads: the same of the other.

    Returns:
        The divergence in nats, per object that the reference sees (the sum of its best scores).
    """
    levels = len(reference) // 2
    class_part = box_part = objects = 0.0
    for level in range(levels):
        p, q = (_flat(answer[levels + level]) for answer in (reference, heads))
        log_p, log_q = _log_sigmoid(p), _log_sigmoid(q)
        log_not_p, log_not_q = _log_sigmoid(-p), _log_sigmoid(-q)
        score = np.exp(log_p)
        class_part += float(
            (score * (log_p - log_q) + np.exp(log_not_p) * (log_not_p - log_not_q)).sum()
        )
        seen = score.max(axis=0)
        a, b = (_log_softmax(_flat(answer[level])) for answer in (reference, heads))
        box_part += float(((np.exp(a) * (a - b)).sum(axis=1).mean(axis=0) * seen).sum())
        objects += float(seen.sum())
    return (CLASS_WEIGHT * class_part + BOX_WEIGHT * box_part) / max(objects, 1.0)


def _flat(tensor: NDArray[np.float32]) -> NDArray[np.float64]:
    return tensor.reshape(tensor.shape[1], -1).astype(np.float64)


def _log_sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.logaddexp(0, -x)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """[4 * reg_max, cells] to log probabilities, [4, reg_max, cells]."""
    bins = logits.reshape(4, len(logits) // 4, -1)
    shifted = bins - bins.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
