"""A drive whose frames a GPU reads where the camera left them, from shared memory to boxes in one
graph. The GPU is the host (`stub_gpu.py`), the network ONNX Runtime's; all else is real."""

import decode_oracle
import numpy as np
import preprocess_oracle
import pytest
import stub_gpu

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.drives.bag import open_drive
from perception_nodes.gpu.decode_job import Head
from perception_nodes.gpu.preprocess_job import plan_frame
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.placement import Placement
from perception_nodes.transport.cdr_reader import read_image

pytestmark = [pytest.mark.ros, pytest.mark.slow]
MODEL = load_model("road-xs")


@pytest.fixture
def stub(tmp_path, monkeypatch):
    stub_gpu.install(tmp_path, monkeypatch, stub_gpu.REAL_NETWORK)
    stub_gpu.build(MODEL.name)


def specified(sample):
    """How many objects the specifications find in each frame, by its stamp."""
    runtime = open_backend("onnxruntime", BackendSettings(threads=1))
    runtime.load(MODEL)
    width, height, outputs = MODEL.input.width, MODEL.input.height, MODEL.outputs
    head = Head(width, height, tuple(outputs.strides), outputs.reg_max, len(MODEL.classes))
    found = {}
    for frame in open_drive(sample, "").frames():
        image = read_image(frame.data)
        placement = Placement.fit((image.width, image.height), (width, height), None)
        plan = plan_frame(image, placement.letterbox, None)
        pixels = np.frombuffer(image.data, np.uint8)
        heads = runtime.infer(preprocess_oracle.preprocess(pixels, plan))
        result = decode_oracle.decode(heads.boxes, heads.classes, head, DecodeSettings(), placement)
        found[frame.index] = result.count
    runtime.close()
    return found


def test_every_frame_of_a_drive_is_what_the_specifications_say(stub, root, measured):
    sample = root / "bags/sample_sqlite3"
    stamps, reports = measured(
        bag=str(sample),
        rate=0.25,
        source="shm",
        backend="tensorrt",
        preprocess_on="gpu",
        model="road-xs",
        deadline_ms=900.0,
    )
    assert sorted(report["stamp_ns"] for report in reports) == sorted(stamps)
    expected = dict(zip(stamps, specified(sample).values(), strict=True))
    published = [report for report in reports if report["status"] == "OK"]
    for report in published:
        assert report["copies"] == 0
        assert report["detections"] == expected[report["stamp_ns"]]
    assert len(published) > 0.8 * len(stamps)
    assert sum(report["detections"] for report in published) > 20
