"""Model folders: found, read, and refused for one clear reason; and `open-n`, as it is shipped."""

import hashlib
import os
import shutil

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from refused import refused

from perception_nodes.backends.contract import BackendSettings, heads_of, open_backend, open_model
from perception_nodes.core.decode import CellsDecoder, DecodeSettings
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.evaluation.gate import agreement, detect, parent_of
from perception_nodes.networks.model import ModelError, available_models, load_model
from perception_nodes.networks.terms import Terms, materials, terms_of

CONTENT = b"not really a network"
FORM = {"layout": "NHWC", "color": "BGR", "dtype": "uint8"}
BESIDE = {"file": "other.bin", "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of models with one, `toy`, that the search finds."""
    monkeypatch.setenv("PERCEPTION_MODELS", str(tmp_path / "models"))
    return make_model(tmp_path / "models/toy")


def make_model(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.onnx").write_bytes(CONTENT)
    values = {
        "name": "toy",
        "file": "toy.onnx",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "input": {"name": "image", "width": 64, "height": 32, **FORM},
        "outputs": {"strides": [8, 16], "reg_max": 4, "box": ["b8", "b16"], "class": ["c8", "c16"]},
        "classes": ["car", "bus"],
        "precision": "int8",
        "licence": "what the run time does not need is not read",
    }
    for path, value in changes.items():
        target, keys = values, path.split("__")
        for key in keys[:-1]:
            target = target[key]
        if value is None:
            del target[keys[-1]]
        else:
            target[keys[-1]] = value
    (folder / "model.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


def refusal(name):
    return refused(ModelError, load_model, str(name))


def test_is_found_by_name_and_by_folder_wherever_it_is_used(folder, monkeypatch):
    model = load_model("toy")
    assert (model.name, model.classes) == ("toy", ["car", "bus"])
    assert model.outputs.classes == ["c8", "c16"]
    assert load_model(str(folder)).path == folder / "toy.onnx"
    monkeypatch.chdir(folder.parent)
    model = load_model("./toy")
    monkeypatch.chdir("/")
    assert model.path.read_bytes() == CONTENT


def test_the_users_folder_comes_before_the_shipped_one(folder):
    make_model(folder.parent / "open-n")
    assert load_model("open-n").path.parent.parent == folder.parent


def test_what_was_shipped_once_names_its_successor():
    with pytest.raises(ModelError, match="'road-n' is not there; take open-n, its successor"):
        load_model("road-n")


def test_a_name_is_not_that_of_a_folder_that_happens_to_be_here(folder, tmp_path, monkeypatch):
    own = make_model(tmp_path / "open-n")
    monkeypatch.chdir(tmp_path)
    assert load_model("open-n").folder != own
    assert load_model("./open-n").folder == own


@pytest.mark.parametrize("name", available_models())
def test_a_shipped_fallback_takes_the_same_frames(name):
    model = load_model(name)
    if model.fallback is not None:
        fallback = load_model(model.fallback)
        assert (fallback.input, fallback.classes) == (model.input, model.classes)


@pytest.mark.parametrize("name", ["nonesuch", "", "x" * 5000, "a\0b", "../..", "/", "bad\udcff"])
def test_a_name_that_no_folder_has_is_told_the_known_ones(folder, name):
    said = refusal(name)
    assert "is not there; known are" in said and "toy" in said


def test_a_file_with_another_hash_is_refused(folder):
    (folder / "toy.onnx").write_bytes(CONTENT + b"!")
    hashes = (hashlib.sha256(one).hexdigest()[:12] for one in (CONTENT, CONTENT + b"!"))
    assert all(one in refusal("toy") for one in hashes)


def test_a_missing_file_is_refused_by_its_path(folder):
    (folder / "toy.onnx").unlink()
    assert f"{folder / 'toy.onnx'} cannot be read: No such file" in refusal("toy")


@pytest.mark.parametrize("device", ["pipe", "/dev/zero"])
def test_a_file_that_has_no_end_is_refused(folder, device):
    (folder / "toy.onnx").unlink()
    if device == "pipe":
        os.mkfifo(folder / "toy.onnx")
    else:
        (folder / "toy.onnx").symlink_to(device)
    with pytest.raises(ModelError, match="toy.onnx cannot be read: it is a pipe or a device"):
        load_model("toy")


@pytest.mark.parametrize("key", ["name", "sha256", "input", "input__width", "outputs__class"])
def test_a_missing_key_is_named(folder, key):
    make_model(folder, **{key: None})
    assert f"{key.replace('__', '.')}: it is missing" in refusal("toy")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", "../toy/toy.onnx"),
        ("file", ""),
        ("sha256", "abc"),
        ("name", "größer"),
        ("name", "x" * 32),
        ("input__width", 60),
        ("input__layout", "NCHW"),
        ("outputs__strides", []),
        ("outputs__strides", [8]),
        ("outputs__reg_max", 1),
        ("classes", []),
        ("input__width", "64"),
        ("version", True),
    ],
)
def test_a_value_that_cannot_be_is_refused(folder, key, value):
    make_model(folder, **{key: value})
    assert str(folder) in refusal("toy")


S8 = {"file": "toy.onnx", "sha256": "0" * 64, "size": 3}
CELLS = {"head": "cells", "cells": 40, "suppressed": True, "box": ["boxes"], "class": ["scores"]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"input__reszie": "stretch"}, "input.reszie: it is unknown"),
        ({"outputs__rag_max": 4}, "outputs.rag_max: it is unknown"),
        ({"s8": S8}, "s8.size: it is unknown"),
        ({"classes": ["car", "car"]}, "there is the class 'car' twice"),
        ({"classes": ["car", " "]}, "there is a class without a name"),
        ({"outputs": {**CELLS, "head": "grid"}}, "outputs: Input tag 'grid'"),
        ({"outputs": {**CELLS, "cells": 0}}, "outputs.cells: "),
        ({"input__resize": "crop"}, "input.resize: "),
        ({"file": "toy.xml"}, "name it under weights"),
        ({"file": "toy.XML", "weights": BESIDE}, "weights.file must be toy.bin"),
    ],
)
def test_what_is_wrong_in_a_description_is_named(folder, changes, text):
    make_model(folder, **changes)
    assert text in refusal("toy")


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"name: [unclosed", b"name: \xff\xfe"])
def test_a_description_that_cannot_be_read_is_refused(folder, content):
    (folder / "model.yaml").write_bytes(content)
    assert str(folder / "model.yaml") in refusal("toy")


def test_a_description_that_the_system_cannot_read_is_refused(folder):
    (folder / "model.yaml").unlink()
    (folder / "model.yaml").symlink_to("/proc/self/mem")  # its first page can be read by nobody
    assert "Input/output error" in refusal("toy")


def test_every_model_of_the_repository_is_whole(root):
    for description in root.glob("models/*/model.yaml"):
        assert load_model(str(description.parent)).name == description.parent.name


def test_a_head_of_cells_has_its_own_decoder_and_shapes(folder):
    make_model(folder, outputs=CELLS)
    model = load_model("toy")
    assert isinstance(model.decoder(DecodeSettings()), CellsDecoder)
    assert model.outputs.shapes(model.input, 2) == ([(1, 4, 40)], [(1, 2, 40)])
    backend = open_backend("null", BackendSettings())
    backend.load(model)
    heads = backend.infer(np.zeros((32, 64, 3), np.uint8))
    heads_of(model, {"boxes": heads.boxes[0], "scores": heads.classes[0]})
    assert len(model.decoder(DecodeSettings()).decode(heads.boxes, heads.classes)) == 0


def test_a_licence_that_is_not_there_is_not_stated(folder):
    make_model(folder)
    assert load_model("toy").terms == Terms.UNSTATED


def network(*nodes, tensors=(), **metadata):
    made = helper.make_model(helper.make_graph(nodes, "toy", [], [], tensors))
    helper.set_model_props(made, metadata)
    return made


def outside():
    """Weights that are in another file."""
    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


def constant():
    return helper.make_node("Constant", [], ["w"], value=outside())


def branch():
    inner = network(constant()).graph
    return helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)


@pytest.mark.parametrize("key", ["file", "s8"])
@pytest.mark.parametrize(
    "made", [network(tensors=[outside()]), network(constant()), network(branch())]
)
def test_weights_that_no_hash_covers_are_refused(folder, made, key):
    onnx.save(made, folder / "it.onnx")
    hashed = hashlib.sha256((folder / "it.onnx").read_bytes()).hexdigest()
    said = {"file": "it.onnx", "sha256": hashed}
    make_model(folder, **(said if key == "file" else {"s8": said}))
    with pytest.raises(ModelError, match=r"it\.onnx keeps its weights in another file \(w\.bin\)"):
        load_model("toy").signed_file()


def test_a_word_in_a_network_is_no_file(folder):
    onnx.save(network(location="here"), folder / "it.onnx")
    hashed = hashlib.sha256((folder / "it.onnx").read_bytes()).hexdigest()
    make_model(folder, file="it.onnx", sha256=hashed)
    assert load_model("toy").file == "it.onnx"


EIGHT_BITS = ["open-n", "open-s", "open-m"]


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


def test_models_that_are_shipped_have_nothing_of_other_terms(root):
    names = [folder.name for folder in root.glob("models/*/")]
    assert len(names) == 8
    assert {name: forbidden(load_model(name)) for name in names} == dict.fromkeys(names, [])


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
        assert found.share > 0.85  # open-n: 43 of 49


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_its_accuracy_in_8_bits_is_within_a_point_of_its_float_weights(name):
    eight, whole = load_model(name).map50_95, load_model(f"{name}-float").map50_95
    assert eight.keys() == whole.keys() and len(eight) > 3
    losses = [whole[name] - eight[name] for name in eight]
    assert sum(losses) / len(losses) <= 0.01


@pytest.mark.parametrize("name", ["open-n", *EIGHT_BITS])
def test_it_has_the_classes_of_the_road_models(name):
    assert load_model(name).classes == load_model("open-s").classes
