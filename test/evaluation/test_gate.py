"""Verdicts on figures and classes, agreement, and what a model is compared with."""

import math
import shutil
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from made_detections import detected

from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.evaluation import gate as gates
from perception_nodes.evaluation.accuracy import Evaluation, OperatingPoint, Score
from perception_nodes.evaluation.classes import class_losses, without_evidence
from perception_nodes.evaluation.gate import in_classes_of as renamed
from perception_nodes.evaluation.labels import DataError
from perception_nodes.networks.model import ModelError, load_model


def gate(name="open-n", backend="openvino", **facts):
    model = load_model(name).model_copy(update=facts)
    return gates.Gate(
        model, backend, 1, [], [], gates.Margins(), lambda title: nullcontext(lambda *a: None)
    )


@pytest.mark.parametrize(
    ("found", "at_fault", "text"),
    [
        (gates.Agreement(20, 20, 36), "", ""),
        (gates.Agreement(20, 20, 35), "runtime", "both see 88%, 90% are wanted"),
        (gates.Agreement(9, 10, 19), "frames", "too few objects to compare"),
    ],
)
def test_a_share_is_judged_where_there_is_enough_to_see(found, at_fault, text):
    check = gates.check_agreement("runtime", "golden", "m", 8, found, 0.9)
    assert check.at_fault == at_fault
    assert text in check.refusal and bool(check.refusal) == bool(at_fault)


@pytest.mark.parametrize(
    ("now", "at_fault"), [([0.40, 0.50], ""), ([0.40, 0.49], "model"), ([0.40, math.nan], "model")]
)
def test_a_loss_is_the_mean_over_the_sets(now, at_fault):
    check = gates.check_loss("parent", "m", "a, b", [0.45, 0.51], now, 0.03)
    assert check.at_fault == at_fault
    assert check.value == pytest.approx(0.48 - sum(now) / 2, nan_ok=True)


def test_a_set_on_which_the_reference_finds_nothing_proves_nothing():
    check = gates.check_loss("parent", "m", "a, b", [0.5, 0.004], [0.5, 0.004], 0.03)
    assert check.at_fault == "frames"
    assert "parent and m have mAP50-95 of 0.0040 at most on a set of a, b" in check.refusal


def test_the_runtime_is_blamed_before_the_model_and_that_before_the_frames():
    judged = gate()
    assert judged.failed is None
    for at_fault in ("", "frames", "model", "runtime"):
        judged.checks.append(gates.GateCheck("r", "m", 0, 1, "why", at_fault))
        assert (judged.failed.at_fault if judged.failed else "") == at_fault


def test_a_parent_is_the_named_one_and_a_float_model_its_own():
    assert gates.parent_of(load_model("open-n")).name == "open-n-float"
    dense = load_model("open-n-float")
    assert gates.parent_of(dense) is dense


def test_a_parent_that_nothing_can_be_compared_with_is_refused():
    with pytest.raises(ModelError, match=r"model\.yaml names no parent.*add `parent: NAME`"):
        gate(parent=None)
    with pytest.raises(ModelError, match="the parent open-s, and .*open-s is int8"):
        gate(parent="open-s")
    with pytest.raises(DataError, match="open-n and its parent open-s-float.*give --data"):
        gate(parent="open-s-float")


def test_a_model_is_not_its_own_parent(root, tmp_path):
    folder = shutil.copytree(root / "models/open-n", tmp_path / "open-n-float")
    with pytest.raises(ModelError, match="open-n-float is itself: nothing would tell"):
        gates.parent_of(load_model(str(folder)))


@pytest.mark.parametrize(
    ("name", "backend", "reference"),
    [
        ("open-xs", "openvino", "golden"),
        ("open-xs", "golden", "onnxruntime"),
        ("open-n-float", "openvino", "onnxruntime"),
        ("open-n-float", "onnxruntime", "openvino"),
    ],
)
def test_no_runtime_is_its_own_reference(name, backend, reference):
    judged = gate(name, backend)
    found, _ = judged.reference_objects(judged.model)
    assert (found, judged.notes) == (reference, [])


def test_without_the_golden_models_package_the_next_best_is_taken_and_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for module in ("golden", "qdq"):
        monkeypatch.delitem(sys.modules, f"perception_nodes.backends.{module}", raising=False)
    judged = gate("open-xs")
    found, _ = judged.reference_objects(judged.model)
    assert found == "onnxruntime"
    assert "not compared with golden" in judged.notes[0]
    assert "pip install onnx" in judged.notes[0]


CAR, BUS = 2, 4
BOX = (10, 10, 50, 30)


def seen(*objects):
    boxes, scores, classes = zip(*objects, strict=True) if objects else ((), (), ())
    return [detected(boxes, scores, classes)]


UNSURE = gates.SURE_SCORE - 0.02


@pytest.mark.parametrize(
    ("one", "other", "found", "share"),
    [
        (seen((BOX, 0.9, CAR)), seen((BOX, 0.8, CAR)), gates.Agreement(1, 1, 2), 1),
        (seen((BOX, 0.9, CAR)), seen(), gates.Agreement(1, 0, 0), 0),
        (seen(), seen(), gates.Agreement(0, 0, 0), 0),
        # An unsure object is not asked for, but may be the partner of another one.
        (seen((BOX, 0.9, CAR)), seen((BOX, UNSURE, CAR)), gates.Agreement(1, 0, 1), 1),
        (seen((BOX, UNSURE, CAR)), seen(), gates.Agreement(0, 0, 0), 0),
    ],
)
def test_sure_objects_are_shared_or_not(one, other, found, share):
    compared = gates.agreement(one, other)
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
    assert gates.agreement(seen((BOX, 0.9, CAR)), seen(other)).shared == shared


def test_classes_are_compared_by_name():
    ours = load_model("open-n")
    other = ours.model_copy(update={"classes": ["dog", "automobile"]})
    (found,) = renamed(ours, other, seen((BOX, 0.9, 1), (BOX, 0.8, 0)))
    assert found.classes.tolist() == [CAR]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_an_output_that_is_no_number_names_the_model():
    model = load_model("open-n")
    shape = [(1, 8, 32, 52), (1, 8, 16, 26), (1, 8, 8, 13)]
    boxes = [np.zeros((1, 64, *size[2:]), np.float32) for size in shape]
    heads = HeadTensors(boxes, [np.full(size, np.nan, np.float32) for size in shape])
    broken = SimpleNamespace(infer=lambda image: heads)
    with pytest.raises(BackendError, match=r"open-n\.u8\.onnx: class logits at stride 8"):
        gates.detect(model, broken, [np.zeros((256, 416, 3), np.uint8)])


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
        operating_point=OperatingPoint.model_construct(),  # which no check reads
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
    lost = [(one.name, round(one.loss, 5)) for one in losses]
    assert lost == [("pedestrian", 0), ("people", 0.8)]
    assert without_evidence(classes, losses) == []
    assert without_evidence(classes, losses[:1]) == ["people"]


def test_a_class_that_is_reported_no_more_is_lost_whatever_its_average_precision() -> None:
    before, now = evaluation("a", car=(20, 0.7, 0.6)), evaluation("a", car=(20, 0.7, 0.3))
    (check,) = gates.check_classes("parent", "m", class_losses(["car"], [before], [now]), 0.1)
    assert check.at_fault == "model"
    assert "m loses car: of 20 objects on a it reports 30%, parent 60%" in check.refusal


def test_few_objects_are_no_evidence() -> None:
    before = evaluation("a", car=(9, 0.7, 0.6), bus=(10, 0.7, 0.6), truck=(0, None, None))
    classes = ["car", "bus", "truck", "bicycle"]
    losses = class_losses(classes, [before], [evaluation("a", car=(9, 0, 0), bus=(10, 0.7, 0.6))])
    assert without_evidence(classes, losses) == ["car", "truck", "bicycle"]
    assert [check.at_fault for check in gates.check_classes("parent", "m", losses, 0.1)] == [""]
