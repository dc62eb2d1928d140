"""Imported detectors give the boxes of their own runtime."""

import json
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
    arguments = ["--out", str(tmp_path / "models"), "--size", "96x64", "--name", "it", "--trust"]
    weights = data / "weights/yolov8n_coco.pt"
    result = CliRunner().invoke(app, ["model", "import", str(weights), *arguments])
    assert result.exit_code == 0, result.output
    model = load_model(str(tmp_path / "models/it"))
    assert (model.input.width, model.input.height, model.outputs.head) == (96, 64, "levels")


def test_what_cannot_be_exported_is_told_in_one_line(tmp_path):
    checkpoint, arguments = tmp_path / "it.pt", ["--out", str(tmp_path / "models"), "--trust"]
    command = ["model", "import", str(checkpoint), *arguments, "--size", "416x250"]
    checkpoint.write_bytes(b"not a checkpoint")
    said = str(CliRunner().invoke(app, command).exception)
    assert "it.pt cannot be read by ultralytics" in said and "\n" not in said
    save_random(checkpoint, "yolov8n", ["car"])
    said = str(CliRunner().invoke(app, command).exception)
    assert f"{checkpoint} cannot have an input of 416x250" in said
    assert "--size of multiples of 32" in said
    assert not (tmp_path / "models").exists()


@pytest.mark.timeout(600)
def test_a_checkpoint_of_transformers_sees_what_it_sees_there(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the build tools")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, image_size=[192, 256])
    layers = dict(num_hidden_layers=2, num_attention_heads=2, initializer_range=0.15)
    names = [f"kind {number}" for number in range(12)]
    config = transformers.YolosConfig(**sizes, **layers, id2label=dict(enumerate(names)))
    network = transformers.YolosForObjectDetection(config).eval()
    network.vit.embeddings.detection_tokens.data.normal_()  # or all find the same
    network.class_labels_classifier.layers[-1].bias.data[-1] = 4  # mostly there is no object
    hub = tmp_path / "hub"
    network.save_pretrained(hub)
    config = json.loads((hub / "config.json").read_text())
    config["id2label"] = dict(sorted(config["id2label"].items()))  # by their text, as files have it
    (hub / "config.json").write_text(json.dumps(config))
    command = ["model", "import", str(hub), "--out", str(tmp_path), "--name", "it"]
    assert "which says how pixels are scaled" in str(CliRunner().invoke(app, command).exception)
    (hub / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.25]}')
    (hub / "README.md").write_text("---\nlicense: apache-2.0\n---\nA detector")
    assert "give --size" in str(CliRunner().invoke(app, command).exception)
    command += ["--size", "256x192"]
    twice = CliRunner().invoke(app, [*command, "--mean", "0,0,0"])
    assert "says itself how pixels are scaled; leave out --mean" in str(twice.exception)
    assert CliRunner().invoke(app, command).exit_code == 0
    model = load_model(str(tmp_path / "it"))
    assert (model.license, model.classes) == ("apache-2.0", names)
    picture = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    image = torch.tensor((picture[..., ::-1] / 255 - 0.5) / 0.25).permute(2, 0, 1).float()
    wanted = torch.no_grad()(network)(image[None])
    scores = wanted.logits.softmax(-1)[0, :, :12].numpy()
    middles, sides = np.split(wanted.pred_boxes[0].numpy() * [256, 192, 256, 192], 2, axis=1)
    boxes = np.hstack([middles - sides / 2, middles + sides / 2]).clip(0, [256, 192, 256, 192])
    detector = Detector(model, "onnxruntime", 2)
    seen = detector.look(picture)
    found = detector.objects(seen, [(number,) for number in range(12)], DecodeSettings(0.01))
    assert len(found) >= 20 and np.ptp(found.boxes, axis=0).min() > 1
    for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True):
        near = np.abs(boxes - box).max(axis=1) < 0.1
        assert np.abs(scores[near, label] - score).min(initial=1) < 1e-3
