"""A class that is gone is seen, however little it changes the mean."""

import pytest

from perception_nodes.evaluation import Evaluation, Score
from perception_nodes.evaluation.accuracy import OperatingPoint
from perception_nodes.evaluation.classes import class_losses, without_evidence
from perception_nodes.evaluation.gate import check_classes


def evaluation(data: str, **found: tuple[int, float | None, float | None]) -> Evaluation:
    """Of each class the objects, AP50 and recall."""
    return Evaluation(
        model="m",
        data=data,
        images=1,
        map50_95=0.5,
        map50=0.5,
        confidence=(0, 1),
        by_class={
            name: Score(objects=count, map50_95=map50, map50=map50)
            for name, (count, map50, _) in found.items()
        },
        recall={name: recall for name, (_, _, recall) in found.items()},
        by_height={},
        by_light={},
        operating_point=OperatingPoint(score_threshold=0.25, precision=1, recall=1, f1=1),
        notes=[],
    )


def test_sets_count_by_their_objects_and_a_class_by_its_usual_name() -> None:
    before = [evaluation("a", person=(30, 0.8, 0.6)), evaluation("b", pedestrian=(10, 0.4, 0.2))]
    now = [evaluation("a", person=(30, 0.8, 0.6)), evaluation("b", pedestrian=(10, 0.0, 0.1))]
    (one,) = class_losses(["person"], before, now)
    assert (one.name, one.data, one.objects) == ("person", ("a", "b"), 40)
    assert one.map50 == pytest.approx((0.7, 0.6))
    assert one.recall == pytest.approx((0.5, 0.475))
    assert one.loss == pytest.approx(0.1)


def test_a_models_own_classes_are_told_apart_though_they_are_synonyms() -> None:
    before = evaluation("a", pedestrian=(90, 0.8, 0.8), people=(10, 0.8, 0.8))
    now = evaluation("a", pedestrian=(90, 0.8, 0.8), people=(10, 0.0, 0.0))
    classes = ["pedestrian", "people"]
    losses = class_losses(classes, [before], [now])
    assert [(one.name, round(one.loss, 5)) for one in losses] == [
        ("pedestrian", 0),
        ("people", 0.8),
    ]
    assert without_evidence(classes, losses) == []
    assert without_evidence(classes, losses[:1]) == ["people"]


def test_a_class_that_is_reported_no_more_is_lost_whatever_its_average_precision() -> None:
    before, now = evaluation("a", car=(20, 0.7, 0.6)), evaluation("a", car=(20, 0.7, 0.3))
    (check,) = check_classes("parent", "m", class_losses(["car"], [before], [now]), 0.1)
    assert check.at_fault == "model"
    assert "m loses car: of 20 objects on a it reports 30%, parent 60%" in check.refusal


def test_few_objects_are_no_evidence() -> None:
    before = evaluation("a", car=(9, 0.7, 0.6), bus=(10, 0.7, 0.6), truck=(0, None, None))
    classes = ["car", "bus", "truck", "bicycle"]
    losses = class_losses(classes, [before], [evaluation("a", car=(9, 0, 0), bus=(10, 0.7, 0.6))])
    assert without_evidence(classes, losses) == ["car", "truck", "bicycle"]
    assert [check.at_fault for check in check_classes("parent", "m", losses, 0.1)] == [""]
