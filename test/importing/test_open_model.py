"""The model that anyone may ship: its 8 bits see what its float weights see, in either runtime."""

from pathlib import Path

import pytest

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.model import load_model
from perception_nodes.evaluation.agreement import agreement, detect
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.evaluation.gate import parent_of


def objects(model, runtime, frames):
    backend = open_backend(runtime, BackendSettings())
    backend.load(model)
    try:
        return detect(model, backend, frames)
    finally:
        backend.close()


def test_it_may_be_shipped_and_sees_what_its_parent_sees(root: Path) -> None:
    model = load_model("open-n")
    parent = parent_of(model)
    assert parent.name == "open-n-float"
    for one in (model, parent):
        assert one.commercial and one.license.startswith("Apache-2.0")
    source = FrameSource([root / "bags/sample"], [], model.input)
    frames = [pixels.copy() for _, pixels in source.frames()][::20]
    reference = objects(parent, "onnxruntime", frames)
    for runtime in ("openvino", "onnxruntime"):
        found = agreement(reference, objects(model, runtime, frames))
        assert found.reference + found.other > 20
        assert found.share > 0.9


def test_its_accuracy_in_8_bits_is_within_a_point_of_its_float_weights() -> None:
    eight, whole = load_model("open-n").map50_95, load_model("open-n-float").map50_95
    assert eight.keys() == whole.keys() and len(eight) > 3
    losses = [whole[name] - eight[name] for name in eight]
    assert sum(losses) / len(losses) <= 0.01


@pytest.mark.parametrize("name", ["road-n", "open-n"])
def test_it_has_the_classes_of_the_road_models(name: str) -> None:
    assert load_model(name).classes == load_model("road-s").classes
