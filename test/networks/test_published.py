"""Published networks on real frames: the numbers are those of the original file in its runtime."""

import os
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from perception_nodes.backends.contract import BackendSettings, open_backend, open_model
from perception_nodes.evaluation.datasets import ROOT_VARIABLE
from perception_nodes.networks.importer import ImportOptions, understand, write_model


def yolox(session, frame):
    """Boxes and scores by YOLOX's own description: offsets in strides, logarithms of sizes."""
    rows = session.run(None, {"images": frame.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
    size, places = frame.shape[0], []
    for stride in (8, 16, 32):
        y, x = np.divmod(np.arange((size // stride) ** 2), size // stride)
        places.append(np.stack([x, y, np.full_like(x, stride)], axis=1))
    column, line, stride = np.concatenate(places).T
    x, y = (rows[:, 0] + column) * stride, (rows[:, 1] + line) * stride
    width, height = np.exp(rows[:, 2]) * stride, np.exp(rows[:, 3]) * stride
    boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return boxes, (rows[:, 5:] * rows[:, 4:5]).T


def deim(session, frame):
    seen = (frame[..., ::-1].transpose(2, 0, 1)[None] / 255).astype(np.float32)
    size = np.array([[frame.shape[1], frame.shape[0]]], np.int64)
    feed = {"images": seen, "orig_target_sizes": size}
    labels, boxes, scores = session.run(["labels", "boxes", "scores"], feed)
    return boxes[0].T, scores[0] * (labels[0] == np.arange(80)[:, None])


CASES = {
    "weights/yolox_nano_416.onnx": (yolox, "yolox-raw", "top-left"),
    "open/weights/deimv2_femto_416.onnx": (deim, "detr", "stretch"),
}


@pytest.mark.parametrize("file", CASES)
def test_numbers_are_those_of_the_original(file, tmp_path):
    data = Path(os.environ.get(ROOT_VARIABLE, "/nowhere"))
    if not (data / file).is_file():
        pytest.skip(f"needs published weights: ${ROOT_VARIABLE}")
    plain, head, resize = CASES[file]
    imported = understand(data / file, ImportOptions())
    assert (imported.head.name, imported.normalisation.resize) == (head, resize)
    model = write_model(imported, tmp_path / "published", open_model)
    original = onnxruntime.InferenceSession(str(data / file))
    backends = [open_backend(name, BackendSettings()) for name in ("onnxruntime", "openvino")]
    for backend in backends:
        backend.load(model)
    sure = 0
    for path in sorted((data / "bdd100k/images").glob("*.jpg"))[::25]:
        frame = cv2.resize(cv2.imread(str(path)), (model.input.width, model.input.height))
        boxes, scores = plain(original, frame)
        seen = scores.max(axis=0) > 0.25
        for backend in backends:
            heads = backend.infer(frame)
            np.testing.assert_allclose(heads.boxes[0][0][:, seen], boxes[:, seen], atol=0.05)
            np.testing.assert_allclose(heads.classes[0][0][:, seen], scores[:, seen], atol=1e-3)
        sure += int(seen.sum())
    assert sure > 10
