"""`perception model` and `perception bench models` as a user meets them."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from typer.testing import CliRunner

from model_compression import calibration, trial
from model_compression.errors import CompressionError, GateRefused
from perception_nodes.cli import model as cli_model
from perception_nodes.cli.app import app
from perception_nodes.core.errors import PerceptionError
from perception_nodes.drives import sample
from perception_nodes.evaluation import gate, model_compile
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.networks.model import ModelRefused, load_model

run = CliRunner().invoke
COMPILE = ["model", "compile", "open-n", "--backend", "openvino"]


def ran(arguments, status=0):
    """Run a command that ends with this status."""
    result = run(app, arguments)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def drive(root, tmp_path):
    """A few frames of the sample drive as image files."""
    folder = tmp_path / "drive"
    folder.mkdir()
    source = FrameSource([root / "bags/sample_sqlite3"], [], load_model("open-s").input)
    for number, (_, pixels) in enumerate(source.frames()):
        if number % 12 == 0:
            cv2.imwrite(str(folder / f"{number:03d}.png"), pixels)
    return folder


def test_a_model_agrees_with_itself(drive, tmp_path):
    out = tmp_path / "out/result.json"
    arguments = ["--data", str(drive), "--teacher", "open-n", "--json", "--out", str(out)]
    result = ran(["model", "evaluate", "open-n", *arguments])
    (facts,) = json.loads(out.read_text())
    assert json.loads(result.stdout) == [facts]
    assert facts["images"] == 5
    assert facts["map50_95"] > 0.9
    assert facts["operating_point"]["recall"] == 1
    assert set(facts["by_height"]) == {"<16", "16-32", "32-64", ">=64"}


def label(drive, name, box):
    """Make a labelled set of the folder above, with one object on each image."""
    labels = drive.parent / "labels"
    labels.mkdir()
    for path in shutil.move(drive, drive.parent / "images").iterdir():
        (labels / f"{path.stem}.txt").write_text(f"0 {box}\n")
    (drive.parent / "classes.txt").write_text(f"{name}\n")


def test_an_accuracy_below_the_limit_is_status_1(drive, monkeypatch):
    label(drive, "pedestrian", "0.03 0.03 0.05 0.05")  # nothing is there
    arguments = ["model", "evaluate", "open-n", "--data", str(drive.parent), "--at-least", "0.5"]
    result = ran(arguments, status=1)
    assert "below 0.5" in result.output


def test_calibration_frames_go_to_the_quantizer(root, tmp_path, monkeypatch):
    received = {}

    def calibrate(folder, frames, table, out):
        received.update(folder=folder, frames=list(frames), table=table, out=out)

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    arguments = ["--bag", str(root / "bags/sample_sqlite3"), "--frames", "12", "--json"]
    table, sheet = tmp_path / "t.yaml", tmp_path / "sheet.jpg"
    arguments += ["--table", str(table), "--sheet", str(sheet)]
    result = ran(["model", "calibrate", "open-n", *arguments])
    assert received["table"] == table and received["out"] is None
    assert received["folder"].name == "open-n"
    assert len(received["frames"]) == 12
    assert all(pixels.shape == (256, 416, 3) for _, pixels in received["frames"])
    assert cv2.imdecode(np.frombuffer(sheet.read_bytes(), np.uint8), 1) is not None
    assert 0 < json.loads(result.stdout)["diversity"]["radius"] < 1


@pytest.mark.parametrize(("max_loss", "status"), [("1", 0), ("0.05", 1)])
def test_a_calibrated_model_that_loses_too_much_is_not_written(
    drive, root, tmp_path, monkeypatch, max_loss, status
):
    label(drive, "car", "0.5 0.5 0.1 0.1")
    scores = iter((0.5, 0.4))
    real = trial.evaluate
    monkeypatch.setattr(
        trial,
        "evaluate",
        lambda *a, **k: real(*a, **k).model_copy(update={"map50_95": next(scores)}),
    )
    made, table = tmp_path / "made", tmp_path / "ranges.yaml"
    arguments = ["--bag", str(root / "bags/sample_sqlite3"), "--frames", "8"]
    arguments += ["--table", str(table), "--out-model", str(made), "--max-loss", max_loss]
    result = ran(["model", "calibrate", "open-n", *arguments, "--data", str(drive.parent)], status)
    assert (made / "model.yaml").exists() == table.exists() == (status == 0)
    assert isinstance(result.exception, ModelRefused) == (status == 1)
    if status == 0:
        description = yaml.safe_load((made / "model.yaml").read_text(encoding="utf-8"))
        (facts,) = description["accuracy"].values()
        assert (facts["images"], facts["map50_95"]) == (5, 0.4)
        assert description["without_evidence"] == load_model("open-n").classes
        assert f"no evidence of {', '.join(description['without_evidence'])}" in result.output


@pytest.mark.parametrize(("least", "status"), [([], 1), (["--min-agreement", "0"], 0)])
def test_a_calibrated_model_that_sees_nothing_on_the_frames_is_not_written(
    root, tmp_path, monkeypatch, least, status
):
    def calibrate(folder, frames, table, out, terms):
        spoiled(out)
        table.touch()

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    made, table = tmp_path / "made", tmp_path / "ranges.yaml"
    arguments = ["--bag", str(root / "bags/sample_sqlite3"), "--frames", "8", *least]
    arguments += ["--table", str(table), "--out-model", str(made)]
    result = ran(["model", "calibrate", "open-n", *arguments], status)
    assert (made / "model.yaml").exists() == table.exists() == (status == 0)
    refused = "is sure of 0 objects, open-n-float of" in str(result.exception)
    assert refused == (status == 1)


@pytest.fixture(autouse=True)
def few_objects(monkeypatch):
    """Judge by few objects, which few frames show."""
    monkeypatch.setattr(gate, "MIN_OBJECTS", 1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of compiled models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg/perception_nodes"


def compile_arguments(root, model, backend="openvino"):
    """With frames enough to judge, see `few_objects`; the golden model takes a second for each."""
    sample = root / "bags/sample"
    if not (sample / "metadata.yaml").is_file():
        pytest.skip("the sample drive is not made (make sample)")
    arguments = ["--backend", backend, "--bag", str(sample), "--frames", "6"]
    return ["model", "compile", model, *arguments]


def names_in(folder):
    """What a folder holds, but for measurements of the processor, which any model leaves."""
    found = sorted(path.name for path in folder.rglob("*")) if folder.exists() else []
    return [name for name in found if name != "instructions.json"]


def spoiled(folder):
    """open-n with a layer whose range is far too small, described as if it were right."""
    model = load_model("open-n")
    network = onnx.load(model.path)
    for tensor in network.graph.initializer:
        if tensor.name == "/model.1/widen/act/Relu_output_0_scale":
            value = (onnx.numpy_helper.to_array(tensor) / 50).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    content = network.SerializeToString()
    facts = yaml.safe_load((model.folder / "model.yaml").read_text(encoding="utf-8"))
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    folder.mkdir()
    (folder / model.file).write_bytes(content)
    (folder / "model.yaml").write_text(yaml.safe_dump(facts), encoding="utf-8")
    return str(folder)


def test_a_model_that_sees_what_its_references_see_is_kept(root, cache):
    result = ran([*compile_arguments(root, "open-n"), "--json"])
    facts = json.loads(result.stdout)
    assert [check["reference"] for check in facts["checks"]] == [
        "open-n-float on onnxruntime",
        "open-n on golden",
    ]
    assert all(check["value"] >= check["limit"] > 0 for check in facts["checks"])
    assert facts["refused"] is None and facts["frames"] == 6
    assert facts["cache"] == [str(cache / name) for name in names_in(cache)] != []


def test_a_model_that_detects_nothing_is_refused_and_its_worst_layer_named(
    root, cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(model_compile, "FRAMES_FOR_COSTS", 1)
    result = ran([*compile_arguments(root, spoiled(tmp_path / "spoiled")), "--json"], status=1)
    facts = json.loads(result.stdout)
    assert facts["checks"][0]["at_fault"] == "model"
    assert facts["refused"] == facts["checks"][0]["refusal"]
    assert next(iter(facts["layers_nat"])) == "/model.1/widen/conv/Conv"
    assert facts["cache"] == names_in(cache) == []


def test_a_runtime_that_detects_nothing_is_blamed_itself(root, cache):
    result = ran([*compile_arguments(root, "open-n", "null"), "--json"], status=1)
    facts = json.loads(result.stdout)
    assert "the runtime does not compute what the file says" in facts["refused"]
    assert "layers_nat" not in facts


@pytest.mark.parametrize(("max_loss", "status"), [("0.02", 0), ("0.01", 1)])
def test_labels_decide_where_there_are_some(drive, cache, monkeypatch, max_loss, status):
    label(drive, "car", "0.5 0.5 0.1 0.1")
    scores = {"open-n-float": 0.5, "open-n": 0.485}
    real = gate.evaluate
    monkeypatch.setattr(
        gate,
        "evaluate",
        lambda model, *a: real(model, *a).model_copy(update={"map50_95": scores[model.name]}),
    )
    monkeypatch.setattr(model_compile, "layer_costs", lambda *a: {})
    result = ran([*COMPILE, "--json", "--data", str(drive.parent), "--max-loss", max_loss], status)
    facts = json.loads(result.stdout)
    assert facts["frames"] == 5  # the labelled images themselves
    assert facts["checks"][0]["value"] == pytest.approx(0.015)
    assert bool(names_in(cache)) == (status == 0)


def test_a_model_is_checked_on_the_images_of_the_set_alone(drive):
    """Not on all that lies in their folders, and below them."""
    (drive / "night").mkdir()
    shutil.copy(drive / "000.png", drive / "night/000.png")
    height, width = cv2.imread(str(drive / "000.png")).shape[:2]
    names = ["000.png", "night/000.png"]
    size = {"width": width, "height": height}
    images = [{"id": i, "file_name": name, **size} for i, name in enumerate(names)]
    boxes = [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [8, 8, 40, 40]}]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 0, "name": "car"}]}
    (drive / "set.json").write_text(json.dumps(content))
    sets = read_sets([drive / "set.json"], None)
    source = model_compile.frames_to_check(load_model("open-n"), [], [], [*sets, *sets])
    assert [name for name, _ in source.frames()] == [str(drive / name) for name in names]
    assert source.count() == 2
    assert model_compile.frames_to_check(load_model("open-n"), [], [drive], sets).count() == 6


def test_dark_frames_prove_nothing(cache, tmp_path):
    folder = tmp_path / "dark"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.zeros((360, 640, 3), np.uint8))
    result = ran([*COMPILE, "--images", str(folder)], status=1)
    assert "too few objects to compare" in result.output
    assert names_in(cache) == []


def test_outside_a_checkout_the_sample_drive_is_fetched(cache, tmp_path, monkeypatch):
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags/make_sample.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(sample, "share_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    found = run(app, COMPILE).exception
    assert isinstance(found, PerceptionError)
    assert "could not be fetched" in str(found) and "name another with --bag" in str(found)
    assert names_in(cache) == []


def test_a_refused_gate_is_status_1_and_a_bad_configuration_2(tmp_path, monkeypatch):
    raised = [GateRefused("loses 0.1"), CompressionError("no data")]

    def compress(config, work, until):
        raise raised.pop(0)

    monkeypatch.setattr(cli_model, "compression_tool", lambda *_: compress)
    arguments = ["model", "compress", "x.yaml", "--out", str(tmp_path)]
    assert [run(app, arguments).exception.status for _ in range(2)] == [1, 2]


def test_bench_writes_json_page_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("perception_nodes.evaluation.models.RATE_HZ", 200.0)
    monkeypatch.chdir(tmp_path)
    command = "bench models open-n --frames 10 --threads 1 --out m.json --html m.html --svg m.svg"
    ran(command.split())
    assert json.loads(Path("m.json").read_text())["models"][0]["name"] == "open-n"
    assert "<svg" in Path("m.html").read_text() and Path("m.svg").read_text().startswith("<svg")
