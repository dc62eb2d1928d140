"""What a smaller model loses of each class: a mean over classes hides one that is gone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_nodes.evaluation.accuracy import Evaluation
from perception_nodes.networks.class_names import name_in

MIN_CLASS_OBJECTS = 10
"""Least number of labelled objects of a class over all sets; fewer are no evidence."""


@dataclass(frozen=True)
class ClassLoss:
    """One class, found by a reference and by a model on the same sets.

    Attributes:
        name: of the class.
        data: names of the sets that label it.
        objects: number of labelled objects over these sets.
        map50: average precision at IoU 0.5 of reference and model; a mean over the sets, each
            weighted by its objects.
        recall: share of the objects that each reports at run time.
    """

    name: str
    data: tuple[str, ...]
    objects: int
    map50: tuple[float, float]
    recall: tuple[float, float]

    @property
    def loss(self) -> float:
        """The larger loss, of average precision or of recall."""
        return max(before - now for before, now in (self.map50, self.recall))


def class_losses(
    classes: Sequence[str], before: Sequence[Evaluation], now: Sequence[Evaluation]
) -> list[ClassLoss]:
    """Compare each class over the sets that label it; a class that one side lacks is left out.

    Args:
        classes: the model's classes, by which those of the sets are named.
        before: the reference's evaluations, set by set.
        now: the model's, on the same sets.
    """
    found: dict[str, list[tuple[str, int, tuple[float, ...]]]] = {}
    for old, new in zip(before, now, strict=True):
        for name, score in old.by_class.items():
            other = new.by_class.get(name)
            if other is None or score.map50 is None or other.map50 is None:
                continue
            shares = (old.recall[name] or 0.0, new.recall[name] or 0.0)
            figures = (score.map50, other.map50, *shares)
            found.setdefault(name_in(classes, name), []).append((old.data, score.objects, figures))
    losses = []
    for name, parts in found.items():
        counts = [count for _, count, _ in parts]
        means = np.average([figures for *_, figures in parts], axis=0, weights=counts)
        ap_before, ap_now, recall_before, recall_now = means.round(5).tolist()
        data = tuple(dict.fromkeys(data for data, _, _ in parts))
        map50, recall = (ap_before, ap_now), (recall_before, recall_now)
        losses.append(ClassLoss(name, data, sum(counts), map50, recall))
    return losses


def without_evidence(classes: Sequence[str], losses: Sequence[ClassLoss]) -> list[str]:
    """Name the classes of a model that have too few labelled objects to be judged."""
    proven = {one.name for one in losses if one.objects >= MIN_CLASS_OBJECTS}
    return [name for name in classes if name not in proven]


def evidence_note(unproven: Sequence[str], data: str) -> str:
    """State which classes nothing is known about, with the names of the sets."""
    return (
        f"no evidence of {', '.join(unproven)}: fewer than {MIN_CLASS_OBJECTS} labelled objects "
        f"each on {data}"
    )
