"""Agreement of detections, in cases that can be counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from perception_nodes.core.frame import Detections
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.evaluation.agreement import SURE_SCORE, Agreement, agreement, detect
from perception_nodes.evaluation.agreement import in_classes_of as renamed
from perception_nodes.networks.model import load_model

CAR, BUS = 2, 4
BOX = (10, 10, 50, 30)


def seen(*objects):
    boxes, scores, classes = zip(*objects, strict=True) if objects else ((), (), ())
    return [
        Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(classes, np.int64),
        )
    ]


UNSURE = SURE_SCORE - 0.02


@pytest.mark.parametrize(
    ("one", "other", "found", "share"),
    [
        (seen((BOX, 0.9, CAR)), seen((BOX, 0.8, CAR)), Agreement(1, 1, 2), 1),
        (seen((BOX, 0.9, CAR)), seen(), Agreement(1, 0, 0), 0),
        (seen(), seen(), Agreement(0, 0, 0), 0),
        # An unsure object is not asked for, but may be the partner of another one.
        (seen((BOX, 0.9, CAR)), seen((BOX, UNSURE, CAR)), Agreement(1, 0, 1), 1),
        (seen((BOX, UNSURE, CAR)), seen(), Agreement(0, 0, 0), 0),
    ],
)
def test_sure_objects_are_shared_or_not(one, other, found, share):
    compared = agreement(one, other)
    assert (compared, compared.share) == (found, share)


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        ((BOX, 0.9, BUS), 0),  # of another class
        (((10, 10, 50, 51), 0.9, CAR), 0),  # IoU 0.49
        (((10, 10, 50, 49), 0.9, CAR), 2),  # IoU 0.51
        (((30, 30, 30, 30), 0.9, CAR), 0),  # without area
    ],
)
def test_the_same_object_is_of_one_class_and_in_one_place(other, shared):
    assert agreement(seen((BOX, 0.9, CAR)), seen(other)).shared == shared


def test_classes_are_compared_by_name():
    ours = load_model("road-n")
    other = ours.model_copy(update={"classes": ["dog", "automobile"]})
    (found,) = renamed(ours, other, seen((BOX, 0.9, 1), (BOX, 0.8, 0)))
    assert found.classes.tolist() == [CAR]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_an_output_that_is_no_number_names_the_model():
    model = load_model("road-n")
    shape = [(1, 8, 32, 52), (1, 8, 16, 26), (1, 8, 8, 13)]
    boxes = [np.zeros((1, 64, *size[2:]), np.float32) for size in shape]
    heads = HeadTensors(boxes, [np.full(size, np.nan, np.float32) for size in shape])
    broken = SimpleNamespace(infer=lambda image: heads)
    with pytest.raises(BackendError, match=r"road-n\.u8\.onnx: class logits at stride 8"):
        detect(model, broken, [np.zeros((256, 416, 3), np.uint8)])
