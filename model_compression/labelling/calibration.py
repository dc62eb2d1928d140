"""How probable an object is, given what each voice says of it: logistic regression for each group.

What a score means differs from detector to detector, and with the height of the object: one misses
what is near, another what is far. So the probability is learned, on frames with people's labels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNHEARD = 0.03
"""Score of a voice that says nothing."""
MIDDLE_HEIGHT = 0.08
"""Share of the frame's height that is neither near nor far."""
SAMPLES_OF_PRIOR = 300.0
"""How strongly the weights are drawn to those that are given: people labelled few roads."""
STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """Probability of objects of one group.

    Attributes:
        weights: float64 [2 * voices + 3], of the logits of all voices, of these times the height,
            of the height, its square, and 1.
    """

    weights: NDArray[np.float64]

    def probability(
        self, evidence: NDArray[np.float64], heights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the probability of each object, float64 [n].

        Args:
            evidence: float64 [n, voices], the score that each voice gives, 0 for none.
            heights: float64 [n], of the objects, as shares of the frame's height.
        """
        return _sigmoid(features(evidence, heights) @ self.weights)


def features(evidence: NDArray[np.float64], heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the probability depends on, float64 [n, 2 * voices + 3]."""
    heard = np.clip(evidence, UNHEARD, 1 - UNHEARD)
    logits = np.log(heard / (1 - heard)) - np.log(UNHEARD / (1 - UNHEARD))
    height = np.log(np.maximum(heights, 1e-3) / MIDDLE_HEIGHT)[:, None]
    return np.hstack([logits, logits * height, height, height**2, np.ones_like(height)])


def fit(
    evidence: NDArray[np.float64],
    heights: NDArray[np.float64],
    right: NDArray[np.bool_],
    trust: NDArray[np.float64],
) -> Calibration:
    """Fit by Newton's method, with a penalty on weights that are far from those given.

    Args:
        evidence: as in `Calibration.probability`.
        heights: as there.
        right: bool [n], whether people have labelled the object.
        trust: float64 [voices], weights of the logits where nothing is known.
    """
    x = features(evidence, heights)
    penalty = np.full(x.shape[1], SAMPLES_OF_PRIOR)
    penalty[-1] = 1e-6
    given = np.zeros(x.shape[1])
    given[: len(trust)] = trust

    def loss(weights: NDArray[np.float64]) -> float:
        logits = x @ weights
        misfit = np.logaddexp(0, logits) - right * logits
        return float(misfit.sum() + penalty @ (weights - given) ** 2 / 2)

    weights = given.copy()
    for _ in range(STEPS):
        p = _sigmoid(x @ weights)
        gradient = x.T @ (p - right) + penalty * (weights - given)
        curvature = (x.T * (p * (1 - p))) @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-9:
            step /= 2
        weights -= step
    return Calibration(weights)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
