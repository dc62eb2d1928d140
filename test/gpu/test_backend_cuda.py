"""The backend `cuda`: the golden model's results on street frames, from images and from frames.

The GPU is `fake_gpu.py` with kernels compiled for the host.
"""

import subprocess
import sys

import fake_gpu
import numpy as np
import pytest
import stub_gpu
from fake_gpu import FakeGpu, Verdict
from pictures import frame, noise
from specification import same, specified
from street_frames import spread, street_frames

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.in_place import InPlaceOnGpu
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import FrameHeader
from perception_nodes.core.inference import BackendError
from perception_nodes.gpu import nvrtc
from perception_nodes.graph import findings
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.placement import Placer


@pytest.fixture(scope="module")
def golden(model):
    golden = open_backend("golden", BackendSettings())
    golden.load(model)
    return golden


@pytest.fixture
def backend(gpu):
    backend = open_backend("cuda", BackendSettings())
    yield backend
    backend.close()
    assert not +gpu.open


def test_images_give_the_golden_models_tensors(backend, model, golden):
    info = backend.load(model)
    assert (info.backend, info.device) == ("cuda", "Fake GPU (SM89)")
    assert info.runtime.startswith("64 convolutions in ")
    for image in street_frames(model, spread(2)):
        same(backend.infer(image), golden.infer(image))


def test_frames_of_two_cameras_give_the_boxes_of_the_specifications(backend, model, golden):
    backend.load(model)
    in_place = InPlaceOnGpu(backend, model, DecodeSettings(), ("front", "rear"))
    placer = Placer(model.input.width, model.input.height, undistort=True)
    frames, wanted = [], []
    for camera, picture in (("front", noise(640, 480)), ("rear", noise(320, 240, 7))):
        image = frame(picture, "bgr8")
        placement = placer.place(image.width, image.height)
        header = FrameHeader(camera=camera.encode(), deadline_ns=1 << 62)
        placement.describe(header, image.copies)
        frames.append((header, image))
        wanted.append(specified(image, placement, model, golden))
    for (found, _), expected in zip(in_place.infer(frames), wanted, strict=True):
        same(found, expected)
    in_place.close()


PROGRAM = """
from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.networks.model import load_model
import numpy as np

model = load_model("open-xs")
image = np.random.default_rng(1).integers(0, 256, (256, 416, 3)).astype(np.uint8)
ours, theirs = (open_backend(name, BackendSettings()) for name in ("cuda", "golden"))
print(ours.load(model).device)
theirs.load(model)
found, wanted = ours.infer(image), theirs.infer(image)
np.testing.assert_equal(vars(found), vars(wanted))
ours.close()
"""


def test_through_cuda_bindings_itself(tmp_path, monkeypatch, root):
    """The driver is `stub_libcuda.c`; all else is as on a GPU."""
    stub_gpu.install(tmp_path, monkeypatch, stub_gpu.EMPTY_ROAD)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Stub GPU 0 (SM87)\n"


def test_without_a_gpu_it_is_told_in_one_line(monkeypatch, model):
    fake_gpu.install(monkeypatch, FakeGpu(devices=0))
    with pytest.raises(BackendError, match="no device.*CUDA_VISIBLE_DEVICES") as caught:
        open_backend("cuda", BackendSettings()).load(model)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_integer_network_is_named(backend):
    with pytest.raises(BackendError, match=r"open-n-float.float.onnx .*is not a u8 file"):
        backend.load(load_model("open-n-float"))


def test_before_a_model_is_loaded_it_says_so(backend):
    for call in (backend.another_network, lambda: backend.infer(np.zeros((1, 1, 3), np.uint8))):
        with pytest.raises(BackendError, match="no model is loaded"):
            call()


def test_what_fails_at_the_start_is_closed(backend, gpu, model):
    gpu.failures["cuMemAlloc"] = Verdict.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(BackendError, match="out of memory"):
        backend.load(model)
    assert not +gpu.open


def test_doctor_tells_whether_kernels_can_be_compiled(gpu, monkeypatch):
    assert findings._gpu().ok and ", NVRTC 1" in findings._gpu().found
    monkeypatch.setattr(nvrtc, "LIBRARIES", ("libnone.so",))
    nvrtc.nvrtc.cache_clear()
    finding = findings._gpu()
    nvrtc.nvrtc.cache_clear()
    assert not finding.ok and finding.found.startswith("Fake GPU, SM89")
    assert "NVRTC, which compiles the GPU's kernels, is not installed" in finding.found
    assert finding.remedy.startswith("install the newest of the driver's CUDA: pip install")
