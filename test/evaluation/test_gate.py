"""Verdicts on figures, and what a model is compared with."""

import math
import shutil
import sys
from contextlib import nullcontext

import pytest

from perception_nodes.evaluation import DataError
from perception_nodes.evaluation.agreement import Agreement
from perception_nodes.evaluation.gate import (
    Gate,
    GateCheck,
    Margins,
    check_agreement,
    check_loss,
    parent_of,
)
from perception_nodes.networks.model import ModelError, load_model


def gate(name="road-n", backend="openvino", **facts):
    model = load_model(name).model_copy(update=facts)
    return Gate(model, backend, 1, [], [], Margins(), lambda title: nullcontext(lambda *a: None))


@pytest.mark.parametrize(
    ("found", "at_fault", "text"),
    [
        (Agreement(20, 20, 36), "", ""),
        (Agreement(20, 20, 35), "runtime", "both see 88%, 90% are wanted"),
        (Agreement(9, 10, 19), "frames", "too few objects to compare"),
    ],
)
def test_a_share_is_judged_where_there_is_enough_to_see(found, at_fault, text):
    check = check_agreement("runtime", "golden", "m", 8, found, 0.9)
    assert check.at_fault == at_fault
    assert text in check.refusal and bool(check.refusal) == bool(at_fault)


@pytest.mark.parametrize(
    ("now", "at_fault"), [([0.40, 0.50], ""), ([0.40, 0.49], "model"), ([0.40, math.nan], "model")]
)
def test_a_loss_is_the_mean_over_the_sets(now, at_fault):
    check = check_loss("parent", "m", "a, b", [0.45, 0.51], now, 0.03)
    assert check.at_fault == at_fault
    assert check.value == pytest.approx(0.48 - sum(now) / 2, nan_ok=True)


def test_a_set_on_which_the_reference_finds_nothing_proves_nothing():
    check = check_loss("parent", "m", "a, b", [0.5, 0.004], [0.5, 0.004], 0.03)
    assert check.at_fault == "frames"
    assert "parent and m have mAP50-95 of 0.0040 at most on a set of a, b" in check.refusal


def test_the_runtime_is_blamed_before_the_model_and_that_before_the_frames():
    judged = gate()
    assert judged.failed is None
    for at_fault in ("", "frames", "model", "runtime"):
        judged.checks.append(GateCheck("r", "m", 0, 1, "why", at_fault))
        assert (judged.failed.at_fault if judged.failed else "") == at_fault


def test_a_parent_is_the_named_one_and_a_float_model_its_own():
    assert parent_of(load_model("road-n")).name == "dense-416x256"
    dense = load_model("dense-416x256")
    assert parent_of(dense) is dense


def test_a_parent_that_nothing_can_be_compared_with_is_refused():
    with pytest.raises(ModelError, match=r"model\.yaml names no parent.*add `parent: NAME`"):
        gate(parent=None)
    with pytest.raises(ModelError, match="the parent road-s, and .*road-s is int8"):
        gate(parent="road-s")
    with pytest.raises(DataError, match="road-n and its parent dense-640x384.*give --data"):
        gate(parent="dense-640x384")


def test_a_model_is_not_its_own_parent(root, tmp_path):
    folder = shutil.copytree(root / "models/road-n", tmp_path / "dense-416x256")
    with pytest.raises(ModelError, match="dense-416x256 is itself: nothing would tell"):
        parent_of(load_model(str(folder)))


@pytest.mark.parametrize(
    ("name", "backend", "reference"),
    [
        ("road-xs", "openvino", "golden"),
        ("road-xs", "golden", "onnxruntime"),
        ("dense-416x256", "openvino", "onnxruntime"),
        ("dense-416x256", "onnxruntime", "openvino"),
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
    judged = gate("road-xs")
    found, _ = judged.reference_objects(judged.model)
    assert found == "onnxruntime"
    assert "not compared with golden" in judged.notes[0]
    assert "pip install onnx" in judged.notes[0]
