"""One threshold for every class: biases moved until each class is best reported at its score."""

from collections.abc import Mapping, Sequence
from math import log

import numpy as np
import torch

from model_compression.distillation.training import Network
from perception_nodes.cli.common import progress_bar
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation.accuracy import class_groups, labelled_objects, reported_objects
from perception_nodes.evaluation.detector import Detector
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.evaluation.matching import ALL_HEIGHTS, ClassMatches, match
from perception_nodes.networks.model import Model

SHIPPED = DecodeSettings.score_threshold


def best_scores(model: Model, sets: Sequence[LabelledSet]) -> dict[str, float]:
    """Find the score from which on each class is best reported: at the highest F1 of all sets.

    Classes that some set counts as one have one score.

    Args:
        model: the model.
        sets: labelled images that it was not trained on.

    Returns:
        The scores of the classes that the sets label, by name.

    Raises:
        DataError, BackendError, EvaluationNotInstalled: see ``evaluate``.
    """
    found: dict[frozenset[int], list[ClassMatches]] = {}
    with Detector(model, "openvino", 2) as detector:
        for data in sets:
            groups, numbers, _ = class_groups(model, data)
            indices = list(groups.values())
            truth, ranked = [], []
            with progress_bar(f"thresholds on {data.name}") as progress:
                for image, _, seen in detector.look_at(data.images, progress):
                    truth.append(labelled_objects(image, data, numbers, seen.header))
                    ranked.append(reported_objects(detector.ranked(seen, indices), seen.header))
            matches = match(truth, ranked, len(groups))[ALL_HEIGHTS]
            for classes, one in zip(indices, matches, strict=True):
                joined, matched = frozenset(classes), [one]
                for other in [other for other in found if other & joined]:
                    joined |= other
                    matched += found.pop(other)
                found[joined] = matched
    return {
        model.classes[index]: score
        for classes, matched in found.items()
        if (score := best_score(matched)) is not None
        for index in sorted(classes)
    }


def best_score(matches: Sequence[ClassMatches]) -> float | None:
    """Return the score of the highest F1 at IoU 0.5; None if no report is right.

    It lies halfway between the last report that counts and the next one: of few objects, the
    score of the last alone would be too strict.
    """
    scores = np.concatenate([one.scores for one in matches])
    order = np.argsort(-scores, kind="stable")
    right, wrong = (
        np.cumsum(np.concatenate([getattr(one, side)[0] for one in matches])[order])
        for side in ("right", "wrong")
    )
    if not len(right) or not right[-1]:
        return None
    objects = sum(int(one.objects.sum()) for one in matches)
    best = int(np.argmax(2 * right / (right + wrong + objects)))
    return float(np.append(scores[order], 0)[best : best + 2].mean())


@torch.no_grad()
def move_scores(network: Network, classes: Sequence[str], scores: Mapping[str, float]) -> None:
    """Move a network's class scores, so that these become the threshold that is shipped.

    The order of a class's reports stays, and so does its average precision.
    """
    for last in network.model[-1].last:
        for name, score in scores.items():
            last.bias[classes.index(name)] += _logit(SHIPPED) - _logit(score)


def _logit(score: float) -> float:
    return log(score / (1 - score))
