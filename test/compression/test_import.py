"""Imported detectors against their own runtime: the same boxes, and the same accuracy."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
ultralytics = pytest.importorskip("ultralytics")

from checkpoints import save_random
from typer.testing import CliRunner
from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes

from perception_nodes.backends.contract import open_model
from perception_nodes.cli.app import app
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import Detections, FrameHeader
from perception_nodes.core.inference import HeadTensors
from perception_nodes.evaluation import evaluate, read_set
from perception_nodes.evaluation.datasets import ROOT_VARIABLE
from perception_nodes.evaluation.detector import Detector, Seen
from perception_nodes.networks.importer import ImportOptions, understand, write_model
from perception_nodes.networks.model import Model, load_model

SIZE = WIDTH, HEIGHT = 416, 256
ALLOWED = 0.002


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
    files += sorted((data / "nuscenes_front/images").glob("*.jpg"))[:count]
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
    assert len(found) == 100 < len(wanted)
    boxes = np.clip(wanted.xyxy.numpy(), 0, [200, 120, 200, 120])
    far = np.abs(found.boxes[:, None] - boxes[None]).max(axis=2)
    far[found.classes[:, None] != wanted.cls.numpy()[None]] = np.inf
    assert far.min(axis=1).max() < 0.05
    np.testing.assert_allclose(found.scores, wanted.conf.numpy()[:100], atol=1e-4)


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


class Tool(Detector):
    """The exported file in ONNX Runtime, between the tool's own letterbox and suppression."""

    path = Path()

    def __init__(self, model: Model, backend: str, threads: int, cache_dir: str) -> None:
        self._session = onnxruntime.InferenceSession(str(self.path))
        self._letterbox = LetterBox((model.input.height, model.input.width), auto=False)

    def look(self, image: np.ndarray) -> Seen:
        height, width = image.shape[:2]
        seen = self._letterbox(image=image)[..., ::-1].transpose(2, 0, 1)[None] / np.float32(255)
        answer = self._session.run(None, {"images": np.ascontiguousarray(seen)})[0]
        header = FrameHeader(source_width=width, source_height=height)
        header.scale_x = header.scale_y = min(seen.shape[2] / height, seen.shape[3] / width)
        return Seen(HeadTensors([answer], [seen]), header)

    def ranked(self, seen: Seen, groups: list[tuple[int, ...]]) -> Detections:
        (answer,), (image,) = seen.heads.boxes, seen.heads.classes
        (found,) = non_max_suppression(
            torch.from_numpy(answer), 0.001, 0.7, multi_label=True, max_det=3000, max_time_img=60
        )
        header = seen.header
        source = header.source_height, header.source_width
        boxes = scale_boxes(image.shape[2:], found[:, :4], source).numpy()
        index = {group[0]: place for place, group in enumerate(groups)}
        known = [int(label) in index for label in found[:, 5]]
        labels = [index[int(label)] for label in found[known, 5]]
        return Detections(boxes[known], found[known, 4].numpy(), np.array(labels, np.int64))

    def objects(self, seen: Seen, groups: list[tuple[int, ...]], _settings: object) -> Detections:
        return self.ranked(seen, groups)

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.timeout(900)
@pytest.mark.parametrize("weights", ["yolov8n_coco.pt", "yolo11n_coco.pt"])
def test_accuracy_is_that_of_the_tool(weights, data, tmp_path, monkeypatch):
    path = exported(data / "weights" / weights, tmp_path, (320, 320))
    model = imported(path)
    coco = read_set(Path("model_compression/datasets/coco128.yaml"), data)
    ours = evaluate(model, coco)
    monkeypatch.setattr(Tool, "path", path)
    monkeypatch.setattr("perception_nodes.evaluation.accuracy.Detector", Tool)
    theirs = evaluate(model, coco)
    print(f"{weights}: {theirs.map50_95:.4f} by the tool, {ours.map50_95:.4f} here")
    assert abs(ours.map50_95 - theirs.map50_95) <= ALLOWED
