"""Imported detectors give the boxes of their own runtime."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
ultralytics = pytest.importorskip("ultralytics")

from checkpoints import save_random
from typer.testing import CliRunner

from perception_nodes.backends.contract import open_model
from perception_nodes.cli.app import app
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation.datasets import ROOT_VARIABLE
from perception_nodes.evaluation.detector import Detector
from perception_nodes.networks.importer import ImportOptions, understand, write_model
from perception_nodes.networks.model import Model, load_model

SIZE = WIDTH, HEIGHT = 416, 256


@pytest.fixture(scope="module")
def data() -> Path:
    """The folder of labelled sets and published weights."""
    folder = Path(os.environ.get(ROOT_VARIABLE, "/nowhere"))
    if not (folder / "weights/yolov8n_coco.pt").is_file():
        pytest.skip(f"needs published weights: ${ROOT_VARIABLE}")
    return folder


def exported(weights: Path, folder: Path, size: tuple[int, int], **options) -> Path:
    """An ONNX file as the tool writes it."""
    copy = folder / weights.name
    shutil.copy(weights, copy)
    network = ultralytics.YOLO(copy)
    network.export(format="onnx", imgsz=size[::-1], opset=17, simplify=False, **options)
    return copy.with_suffix(".onnx")


def imported(path: Path, **options) -> Model:
    folder = path.parent / f"models/{path.stem}"
    write_model(understand(path, ImportOptions(**options)), folder, open_model)
    return load_model(str(folder))


def pictures(data: Path, count: int) -> list[np.ndarray]:
    files = sorted((data / "coco128/images").rglob("*.jpg"))[:count]
    files += sorted((data / "bdd100k/images").glob("*.jpg"))[:count]
    return [cv2.imread(str(path)) for path in files]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "weights, options",
    [("yolov8n_coco.pt", {}), ("yolo11n_coco.pt", {}), ("yolov8n_coco.pt", {"nms": True})],
)
def test_boxes_are_those_that_the_tool_predicts(weights, options, data, tmp_path):
    path = exported(data / "weights" / weights, tmp_path, SIZE, **options)
    model = imported(path)
    tool = ultralytics.YOLO(path, task="detect")
    detector = Detector(model, "onnxruntime", 2)
    groups = [(index,) for index in range(len(model.classes))]
    objects = 0
    for picture in pictures(data, 12):
        wanted = tool.predict(picture, imgsz=(HEIGHT, WIDTH), iou=0.7, verbose=False)[0].boxes
        found = detector.objects(detector.look(picture), groups, DecodeSettings(0.25, 0.7))
        assert len(found) == len(wanted)
        for box, score, label in zip(wanted.xyxy, wanted.conf, wanted.cls, strict=True):
            far = np.abs(found.boxes - box.numpy()).max(axis=1)
            nearest = int(np.argmin(far + 1e4 * (found.classes != int(label))))
            assert far[nearest] < 0.05
            assert abs(found.scores[nearest] - float(score)) < 1e-4
        objects += len(found)
    assert objects > 20


@pytest.mark.timeout(600)
def test_rtdetr_is_read_as_the_tool_reads_it(tmp_path, monkeypatch):
    """With untrained weights, which need no download: all objects of a class are as good."""
    monkeypatch.chdir(tmp_path)  # the tool writes into it
    ultralytics.RTDETR("yolov8-rtdetr.yaml").export(format="onnx", imgsz=96, simplify=False)
    (path,) = tmp_path.glob("*.onnx")
    model = imported(path)
    detector = Detector(model, "onnxruntime", 2)
    groups = [(index,) for index in range(len(model.classes))]
    picture = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    tool = ultralytics.RTDETR(path)
    wanted = tool.predict(picture, imgsz=96, conf=0.001, verbose=False)[0].boxes
    found = detector.objects(detector.look(picture), groups, DecodeSettings(0.001))
    assert len(found) == len(wanted) == 300
    boxes = np.clip(wanted.xyxy.numpy(), 0, [200, 120, 200, 120])
    # Of the worst, all of one class, each takes other ones.
    far = np.abs(found.boxes[:100, None] - boxes[None]).max(axis=2)
    far[found.classes[:100, None] != wanted.cls.numpy()[None]] = np.inf
    assert far.min(axis=1).max() < 0.05
    np.testing.assert_allclose(found.scores, wanted.conf.numpy(), atol=1e-4)


def test_a_checkpoint_is_exported_and_imported(data, tmp_path):
    arguments = ["--out", str(tmp_path / "models"), "--size", "96x64", "--name", "it", "--json"]
    weights = data / "weights/yolov8n_coco.pt"
    result = CliRunner().invoke(app, ["model", "import", str(weights), *arguments])
    assert result.exit_code == 0, result.output
    model = load_model(str(tmp_path / "models/it"))
    assert (model.input.width, model.input.height, model.outputs.head) == (96, 64, "levels")


def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path):
    (tmp_path / "it.pt").write_bytes(b"not a checkpoint")
    arguments = ["model", "import", str(tmp_path / "it.pt"), "--out", str(tmp_path / "models")]
    result = CliRunner().invoke(app, arguments)
    assert "it.pt cannot be read by ultralytics" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "models").exists()


def test_a_size_that_a_checkpoint_cannot_have_is_told_before_it_is_exported(tmp_path):
    save_random(tmp_path / "it.pt", "yolov8n", ["car"])
    arguments = ["--size", "416x250", "--out", str(tmp_path / "models")]
    result = CliRunner().invoke(app, ["model", "import", str(tmp_path / "it.pt"), *arguments])
    said = str(result.exception)
    assert f"{tmp_path / 'it.pt'} cannot have an input of 416x250" in said
    assert "--size of multiples of 32" in said
