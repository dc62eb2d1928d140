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
    places, stride = np.split(np.concatenate(places), [2], axis=1)
    middles, sides = (rows[:, :2] + places) * stride, np.exp(rows[:, 2:4]) * stride
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
    return boxes.T, (rows[:, 5:] * rows[:, 4:5]).T


def deim(session, frame):
    seen = (frame[..., ::-1].transpose(2, 0, 1)[None] / 255).astype(np.float32)
    size = np.array([[frame.shape[1], frame.shape[0]]], np.int64)
    feed = {"images": seen, "orig_target_sizes": size}
    labels, boxes, scores = session.run(["labels", "boxes", "scores"], feed)
    return boxes[0].T, scores[0] * (labels[0] == np.arange(80)[:, None])


def fastestdet(session, frame):
    """As its demo: a cell's centre moves by a tangent, and its object's size is a share."""
    seen = (frame.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: seen})[0]
    places, sides = np.stack(np.indices(found[0].shape)[::-1]), 1 / (1 + np.exp(-found[3:5]))
    middles = (np.tanh(found[1:3]) + places) / len(found[0])
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2]) * len(frame)
    scores = found[0] ** 0.6 * found[5:] ** 0.4
    return boxes.reshape(4, -1), scores.reshape(len(scores), -1)


CASES = {
    "weights/yolox_nano_416.onnx": (yolox, "yolox-raw", "top-left"),
    "open/weights/deimv2_femto_416.onnx": (deim, "detr", "stretch"),
    "open/weights/deimv2_atto_320.onnx": (deim, "detr", "stretch"),
    "open/weights/fastestdet_352.onnx": (fastestdet, "fastestdet", "stretch"),
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
