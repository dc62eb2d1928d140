"""The CUDA driver: what fails has its remedy, and all is given back.

There is no GPU here: `fake_gpu.py` acts as the device. `test_cuda_stub.py` makes all calls through
PyCUDA and cuda-bindings themselves.
"""

import ctypes
import importlib
import importlib.metadata
import sys

import numpy as np
import pytest
from fake_gpu import FakeGpu, Verdict, install

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import CudaError, Uncaptured, capture, driver, open_device
from perception_nodes.gpu.cuda.errors import DRIVER_TOO_OLD, NO_DRIVER, REMEDIES

BINDINGS = "cuda.bindings.driver"


@pytest.fixture
def gpu(monkeypatch):
    gpu = FakeGpu()
    install(monkeypatch, gpu)
    return gpu


@pytest.fixture
def device(gpu):
    device = open_device()
    yield device
    device.close()


def test_capture_that_fails_leaves_the_stream_usable(device, gpu):
    stream = device.stream()
    memory = device.memory(16)

    def work(stream):
        stream.fill(memory, 1)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        stream.capture(work)
    result = device.pinned(16)
    stream.fill(memory, 7)
    stream.copy(result.address, memory.address, 16)
    stream.wait()
    assert (result.array == 7).all()
    device.close()
    assert gpu.open["graph"] == 0


def test_memory_is_registered_where_it_lies(device, gpu):
    slot = np.arange(256, dtype=np.uint8).reshape(16, 16)
    registered = device.register(slot)
    assert registered.array.ctypes.data == slot.ctypes.data
    assert (gpu.view(registered.address, 256) == slot.reshape(-1)).all()
    with pytest.raises(CudaError):
        device.register(slot)
    registered.close()
    registered.close()
    device.register(slot).close()
    with pytest.raises(CudaError, match="contiguous"):
        device.register(slot[:, ::2])


def test_everything_is_given_back(gpu):
    device = open_device()
    stream = device.stream()
    device.event()
    device.memory(10)
    device.pinned(10)
    device.module(b"cubin")
    stream.capture(lambda stream: None)
    device.register(np.zeros(8, np.uint8))
    device.close()
    device.close()
    assert not +gpu.open


def test_closing_after_a_failed_kernel_gives_back_the_rest(device, gpu):
    device.memory(16)
    device.pinned(16)
    gpu.failures["cuMemFree"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    device.close()
    assert gpu.open["mapped"] == 0


@pytest.mark.parametrize("capturable", [True, False])
def test_what_cannot_be_captured_runs_without_a_graph(device, gpu, capturable):
    stream, memory, result = device.stream(), device.memory(16), device.pinned(16)
    if capturable:  # it says so, and yet it cannot
        gpu.failures["capture"] = Verdict.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    stages = [
        lambda stream: stream.fill(memory, 7),
        lambda stream: stream.copy(result.address, memory.address, 16),
    ]
    made = capture(stream, stages, capturable)
    assert isinstance(made, Uncaptured)
    result.array[:] = 0
    made.launch(stream)
    stream.wait()
    assert (result.array == 7).all()
    made.close()


def test_a_stage_that_fails_is_no_failed_capture(device, gpu):
    stream = device.stream()
    gpu.failures["cuMemsetD8Async"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    memory = device.memory(16)
    with pytest.raises(CudaError, match="illegal address"):
        capture(stream, [lambda stream: stream.fill(memory, 7)])


@pytest.mark.parametrize(
    ("call", "verdict", "remedy"),
    [
        ("cuModuleLoadData", Verdict.CUDA_ERROR_INVALID_IMAGE, "nvidia-cuda-nvrtc-cu12 for CUDA 1"),
        ("cuMemAlloc", Verdict.CUDA_ERROR_OUT_OF_MEMORY, "out of memory; .* is full.*nvidia-smi"),
        ("cuInit", Verdict.CUDA_ERROR_NO_DEVICE, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_an_error_has_its_remedy(gpu, call, verdict, remedy):
    gpu.failures[call] = verdict
    with pytest.raises(BackendError, match=remedy) as error:
        device = open_device()
        device.memory(8)
        device.module(b"cubin")
    assert error.value.name == verdict.name


def test_driver_too_old_for_what_was_made_for_a_newer_cuda(gpu):
    gpu.driver = 12040
    device = open_device()
    device.require_cuda(12080, "TensorRT")  # any minor version of the same major one runs
    text = "supports CUDA 12.4, TensorRT is made for 13.0; install driver 580"
    with pytest.raises(CudaError, match=text) as error:
        device.require_cuda(13000, "TensorRT")
    assert error.value.name == DRIVER_TOO_OLD


VERSION = "def cuDriverGetVersion(): return 0, 13000\n"
LACKS = "def __getattr__(name):\n  def call(*_): raise RuntimeError('not found')\n  return call\n"
NO_FILE = "raise ImportError('libcuda.so.1: cannot open shared object file')"


@pytest.mark.parametrize(
    ("module", "code", "text", "name"),
    [
        ("", "", "pip install pycuda.*pip install cuda-bindings", ""),
        ("pycuda.driver", NO_FILE, "there is no CUDA driver.*install NVIDIA's driver", NO_DRIVER),
        ("pycuda.driver", "raise ImportError('cuNew_v9')", "for PyCUDA.*cuNew_v9", DRIVER_TOO_OLD),
        (BINDINGS, VERSION, "cuda-bindings 13.5.0 has no cuInit; install", ""),
        (BINDINGS, VERSION + LACKS, "too old for cuda-bindings", DRIVER_TOO_OLD),
    ],
)
def test_bindings_that_cannot_be_used(monkeypatch, tmp_path, module, code, text, name):
    for known in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", BINDINGS):
        # None makes an import fail as if the module were not installed.
        monkeypatch.setitem(sys.modules, known, None)
        if module.startswith(known):
            monkeypatch.delitem(sys.modules, known)
            folder = tmp_path / known.replace(".", "/")
            folder.mkdir()
            (folder / "__init__.py").write_text(code if known == module else "")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "13.5.0")
    with pytest.raises(CudaError, match=text) as error:
        open_device()
    assert error.value.name == name


def test_really_no_driver():
    """The one case with a real module: cuda-bindings without libcuda."""
    pytest.importorskip(BINDINGS)
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has a CUDA driver")
    with pytest.raises(CudaError, match="there is no CUDA driver.*backend:=openvino") as error:
        open_device()
    assert error.value.name == NO_DRIVER


def test_names_and_numbers_are_those_of_the_driver():
    real = pytest.importorskip(BINDINGS)
    for symbol in driver.FUNCTIONS:
        assert hasattr(real, driver.plain_name(symbol))
    for verdict in Verdict:
        assert getattr(real.CUresult, verdict.name).value == verdict
    assert set(REMEDIES) <= {verdict.name for verdict in real.CUresult}
    for attribute in driver.Attribute:
        name = f"CU_DEVICE_ATTRIBUTE_{attribute.name}"
        assert getattr(real.CUdevice_attribute, name).value == attribute
    mode = real.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    assert mode == driver.CAPTURE_THREAD_LOCAL
    assert real.CU_MEMHOSTALLOC_DEVICEMAP == real.CU_MEMHOSTREGISTER_DEVICEMAP == driver.MAPPED
    assert real.CU_MEMHOSTREGISTER_READ_ONLY == driver.READ_ONLY
    assert real.CUstream_flags.CU_STREAM_NON_BLOCKING == driver.NON_BLOCKING
    assert real.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC == driver.CONTEXT_BLOCKING_SYNC
    assert real.CUevent_flags.CU_EVENT_BLOCKING_SYNC == driver.EVENT_BLOCKING_SYNC
    assert real.CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT == driver.LAUNCH_BUFFER
    assert real.CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT == driver.LAUNCH_BUFFER_SIZE
