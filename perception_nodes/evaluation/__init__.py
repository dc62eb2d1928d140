"""How accurate a model is: COCO metrics by labels, or agreement with a stronger model."""

from perception_nodes.evaluation.accuracy import evaluate
from perception_nodes.evaluation.datasets import read_set

__all__ = ["evaluate", "read_set"]
