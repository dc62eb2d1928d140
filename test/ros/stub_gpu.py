"""A GPU for nodes under test: a libcuda in C whose device is the host, and a TensorRT in Python
over it. The kernels of the project run on it, compiled for the host; all else is real."""

import os
import shutil
import subprocess
from pathlib import Path

import kernels_on_host
import pytest

from perception_nodes.backends.building import build_command
from perception_nodes.backends.contract import BackendSettings
from perception_nodes.gpu.nvrtc import cubin
from perception_nodes.networks.model import load_model
from perception_nodes.system.environment import cache_folder

SM, CUDA = 87, 13000
GPU = Path(__file__).parents[1] / "gpu"
KERNELS = ("fetch", "preprocess", "network", "decode")
COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
TENSORRT = """
import ctypes
import sys
from collections import Counter

sys.path.append({folder!r})
import fake_tensorrt
from fake_gpu import bytes_at


cuda = ctypes.CDLL("libcuda.so.1")
kept = []


class Stream:
    captured = None

    def __init__(self, address):
        self.address = ctypes.c_void_p(address)

    def put(self, operation):
        kept.append(ctypes.CFUNCTYPE(None)(operation))
        assert not cuda.stubCall(kept[-1], self.address)


class Gpu:
    calls, failures = Counter(), {{}}

    def stream_at(self, address):
        return Stream(address)

    def view(self, address, nbytes):
        return bytes_at(address, nbytes)


{how}
module = fake_tensorrt.make(Gpu(), **how)
globals().update((k, v) for k, v in vars(module).items() if k == "__version__" or k[:2] != "__")
"""
EMPTY_ROAD = "how = dict(value_of=lambda mean, place: -20.0)"
REAL_NETWORK = """
def network(memory):
    names = [*model.outputs.box, *model.outputs.classes]
    heads = runtime.infer(memory.reshape(model.input.height, model.input.width, 3))
    return dict(zip(names, [*heads.boxes, *heads.classes]))


from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.networks.model import load_model

model = load_model("open-xs")
runtime = open_backend("onnxruntime", BackendSettings(threads=1))
runtime.load(model)
how = dict(network=network)
"""


def build_library(folder: Path) -> None:
    """Compile the stub as the libcuda of a folder."""
    if COMPILER is None:
        pytest.skip("no C compiler")
    source, library = GPU / "stub_libcuda.c", folder / "libcuda.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Have processes that are started from here find it.

    Args:
        folder: an empty one for its files, and for the nodes' cache.
        monkeypatch: undoes it.
        how: Python that sets `how`, the arguments of `fake_tensorrt.make`.
    """
    libraries = folder / "lib"
    libraries.mkdir()
    build_library(libraries)
    pytest.importorskip("cuda.bindings.driver")
    kernels = [kernels_on_host.load(name)._name for name in KERNELS]
    package = folder / "site/tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TENSORRT.format(folder=str(GPU), how=how))
    for name, first in (("LD_LIBRARY_PATH", libraries), ("PYTHONPATH", package.parent)):
        monkeypatch.setenv(name, f"{first}:{os.environ.get(name, '')}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for name in KERNELS:
        # By NVRTC, which looks for a libcuda itself and does not bear this one.
        cubin(name, SM, CUDA)
    monkeypatch.setenv("STUB_CUDA_FAILS", str(folder / "fails"))
    monkeypatch.setenv("STUB_CUDA_KERNELS", ":".join(kernels))


def build(model: str) -> None:
    """Build a model's engine beforehand, in a process as nodes do it."""
    settings = BackendSettings(cache_dir=str(cache_folder()))
    subprocess.run(build_command("tensorrt", [load_model(model).folder], settings), check=True)
