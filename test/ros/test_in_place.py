"""A drive whose frames a GPU reads where the camera left them, from shared memory to boxes in one
graph. The GPU is the host (`stub_gpu.py`), the network ONNX Runtime's; all else is real."""

import pytest
import stub_gpu
from specification import specified

from perception_nodes.backends.contract import BackendSettings, open_model
from perception_nodes.drives.bag import open_drive
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.placement import Placement
from perception_nodes.transport.cdr_reader import read_image

pytestmark = [pytest.mark.ros, pytest.mark.slow]
MODEL = load_model("open-xs")


@pytest.fixture
def stub(tmp_path, monkeypatch):
    stub_gpu.install(tmp_path, monkeypatch, stub_gpu.REAL_NETWORK)
    stub_gpu.build(MODEL.name)


def counts(sample):
    """How many objects the specifications find in each frame."""
    size = MODEL.input.width, MODEL.input.height
    with open_model("onnxruntime", MODEL, BackendSettings(threads=1)) as runtime:
        for frame in open_drive(sample, "").frames():
            image = read_image(frame.data)
            placement = Placement.fit((image.width, image.height), size, None)
            yield len(specified(image, placement, MODEL, runtime))


def test_every_frame_of_a_drive_is_what_the_specifications_say(stub, root, measured):
    sample = root / "bags/sample_sqlite3"
    stamps, reports = measured(
        bag=str(sample),
        rate=0.25,
        source="shm",
        backend="tensorrt",
        preprocess_on="gpu",
        model="open-xs",
        deadline_ms=900.0,
    )
    assert sorted(report["stamp_ns"] for report in reports) == sorted(stamps)
    expected = dict(zip(stamps, counts(sample), strict=True))
    published = [report for report in reports if report["status"] == "OK"]
    for report in published:
        assert report["copies"] == 0
        assert report["detections"] == expected[report["stamp_ns"]]
    assert len(published) > 0.8 * len(stamps)
    assert sum(report["detections"] for report in published) > 20
