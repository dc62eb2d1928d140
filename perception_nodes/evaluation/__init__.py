"""How accurate a model is: COCO metrics by labels, or agreement with a stronger model."""

from perception_nodes.evaluation.accuracy import Evaluation, Score, evaluate
from perception_nodes.evaluation.datasets import read_set
from perception_nodes.evaluation.labels import DataError, LabelledImage, LabelledSet
from perception_nodes.evaluation.teacher import taught_set

__all__ = [
    "DataError",
    "Evaluation",
    "LabelledImage",
    "LabelledSet",
    "Score",
    "evaluate",
    "read_set",
    "taught_set",
]
