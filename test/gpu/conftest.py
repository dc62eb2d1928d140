"""A GPU for all tests here."""

import fake_gpu
import pytest
from fake_gpu_kernels import install_kernels

from perception_nodes.gpu import frame_transfer, nvrtc
from perception_nodes.networks.model import load_model


@pytest.fixture
def gpu(monkeypatch):
    """A GPU in Python with the kernels of the project, compiled for the host."""
    gpu = fake_gpu.FakeGpu(memory_bytes=64 << 20)
    install_kernels(gpu)
    fake_gpu.install(monkeypatch, gpu)
    monkeypatch.setattr(frame_transfer, "MOST_FRAMES", 2)
    monkeypatch.setattr(nvrtc, "cubin", lambda *names: repr(names).encode())
    return gpu


@pytest.fixture(scope="module")
def model():
    return load_model("open-xs")
