"""A class that is gone is seen, however little it changes the mean."""

import os
from pathlib import Path

import onnx
import pytest

from perception_nodes.evaluation import Evaluation, Score, evaluate, read_set
from perception_nodes.evaluation.accuracy import OperatingPoint
from perception_nodes.evaluation.classes import class_losses, without_evidence
from perception_nodes.evaluation.datasets import ROOT_VARIABLE
from perception_nodes.evaluation.gate import check_classes
from perception_nodes.networks.model import Model, load_model

ROADSIGN = Path("model_compression/datasets/roadsign-valid.yaml")


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
    now = evaluation("a", car=(9, 0, 0), bus=(10, 0.7, 0.6))
    classes = ["car", "bus", "truck", "bicycle"]
    losses = class_losses(classes, [before], [now])
    assert without_evidence(classes, losses) == ["car", "truck", "bicycle"]
    assert [check.at_fault for check in check_classes("parent", "m", losses, 0.1)] == [""]


def scaled(model: Model, folder: Path, label: str, factor: float) -> Model:
    """A copy of a float model in whose head one class has so much smaller weights."""
    graph = onnx.load(model.path)
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    index = model.classes.index(label)
    for node in graph.graph.node:
        if node.op_type == "Conv" and node.output[0] in model.outputs.classes:
            weight = tensors[node.input[1]]
            values = onnx.numpy_helper.to_array(weight).copy()
            values[index] *= factor
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    folder.mkdir()
    onnx.save(graph, folder / model.file)
    return model.model_copy(update={"name": "smaller", "folder": folder})


@pytest.mark.skipif(
    ROOT_VARIABLE not in os.environ, reason=f"needs the labelled sets: ${ROOT_VARIABLE}"
)
def test_a_model_is_made_smaller_until_it_loses_a_class(tmp_path: Path) -> None:
    data = read_set(ROADSIGN)
    parent = load_model("dense-416x256")
    before = [evaluate(parent, data)]
    refused = []
    for step, factor in enumerate((1.0, 0.9, 0.0)):
        smaller = scaled(parent, tmp_path / str(step), "stop sign", factor)
        losses = class_losses(parent.classes, before, [evaluate(smaller, data)])
        checks = check_classes(parent.name, smaller.name, losses, 0.1)
        refused.append([one.refusal.partition(":")[0] for one in checks if one.refusal])
    assert refused[0] == []
    assert refused[-1] == ["smaller loses stop sign"]
