"""The model that anyone may ship: its 8 bits see what its float weights see, in either runtime."""

import shutil

import pytest
import yaml

from perception_nodes.backends.contract import open_model
from perception_nodes.evaluation.agreement import agreement, detect
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.evaluation.gate import parent_of
from perception_nodes.networks.model import load_model
from perception_nodes.networks.terms import Terms, materials, terms_of

EIGHT_BITS = ["open-n", "open-s"]


def objects(model, runtime, frames):
    with open_model(runtime, model) as backend:
        return detect(model, backend, frames)


def forbidden(model):
    """What a model and those that it was made from have of terms that are not permissive."""
    description = yaml.safe_load((model.folder / "model.yaml").read_text())
    weights, *data = materials(model.license, description.get("data"))
    above = forbidden(load_model(model.parent)) if model.parent else []
    unnamed = [] if data else [(model.name, "names no data")]
    return [*(one for one in (weights, *data) if terms_of(one[1]) > Terms.JUDGED), *unnamed, *above]


def test_models_that_are_open_have_nothing_of_other_terms(root):
    names = [folder.name for folder in root.glob("models/open-*")]
    assert len(names) == 4
    assert {name: forbidden(load_model(name)) for name in names} == dict.fromkeys(names, [])
    assert forbidden(load_model("road-n"))


@pytest.mark.parametrize("name", ["open-n", "open-n-float"])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"license": "AGPL-3.0 (started from Ultralytics weights)"}, "AGPL-3.0"),
        ({"data": [{"name": "camvid", "license": "CC BY-NC 4.0"}]}, "CC BY-NC 4.0"),
        ({"data": [{"name": "bdd100k", "license": "BDD100K terms"}]}, "BDD100K terms"),
        ({"data": [{"name": "yard"}]}, "not stated"),
        ({"data": []}, "names no data"),
    ],
)
def test_other_terms_anywhere_in_the_chain_are_noticed(
    root, tmp_path, monkeypatch, name, changed, said
):
    for one in ("open-n", "open-n-float"):
        shutil.copytree(root / "models" / one, tmp_path / one)
    path = tmp_path / name / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changed}))
    monkeypatch.setenv("PERCEPTION_MODELS", str(tmp_path))
    ((_, license),) = forbidden(load_model("open-n"))
    assert license.startswith(said)


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_it_sees_what_its_parent_sees(root, name):
    model = load_model(name)
    parent = parent_of(model)
    assert parent.name == f"{name}-float"
    source = FrameSource([root / "bags/sample"], [], model.input)
    frames = [pixels.copy() for _, pixels in source.frames()][::20]
    reference = objects(parent, "onnxruntime", frames)
    for runtime in ("openvino", "onnxruntime"):
        found = agreement(reference, objects(model, runtime, frames))
        assert found.reference + found.other > 20
        assert found.share > 0.9


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_its_accuracy_in_8_bits_is_within_a_point_of_its_float_weights(name):
    eight, whole = load_model(name).map50_95, load_model(f"{name}-float").map50_95
    assert eight.keys() == whole.keys() and len(eight) > 3
    losses = [whole[name] - eight[name] for name in eight]
    assert sum(losses) / len(losses) <= 0.01


@pytest.mark.parametrize("name", ["road-n", *EIGHT_BITS])
def test_it_has_the_classes_of_the_road_models(name):
    assert load_model(name).classes == load_model("road-s").classes
