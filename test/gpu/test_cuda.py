"""The CUDA driver: the same through both modules, and each error with its remedy.

There is no GPU here: `fake_gpu.py` acts as the device. The functions of the fakes are compared with
cuda-bindings itself, and with PyCUDA if it is installed.
"""

import ctypes
import importlib
import importlib.util
import sys

import numpy as np
import pytest
from fake_bindings import bindings_of
from fake_gpu import DEVICE_BASE, FakeGpu, Verdict, install
from fake_pycuda import pycuda_of

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import CudaError, open_device
from perception_nodes.gpu.cuda import driver_calls as driver
from perception_nodes.gpu.cuda.errors import DRIVER_TOO_OLD, ERRORS, NO_DRIVER

MODULES = ("pycuda", "bindings")


class Arguments(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_uint64),
        ("to", ctypes.c_uint64),
        ("count", ctypes.c_int32),
        ("added", ctypes.c_uint8),
    ]


def add(gpu, grid, block, packed):
    """A kernel: to[i] = source[i] + added."""
    given = Arguments.from_buffer_copy(packed)
    assert grid[0] * block[0] >= given.count
    gpu.view(given.to, given.count)[:] = gpu.view(given.source, given.count) + given.added


@pytest.fixture(params=MODULES)
def through(request):
    return request.param


@pytest.fixture
def gpu():
    gpu = FakeGpu()
    gpu.kernels["add"] = add
    return gpu


@pytest.fixture
def device(monkeypatch, gpu, through):
    install(monkeypatch, gpu, [through])
    device = open_device()
    yield device
    device.close()
    assert gpu.pushed == 0, "a thread that ends with a context on PyCUDA's stack aborts the process"


def test_facts(device, through):
    facts = device.facts
    assert (facts.name, facts.sm, facts.driver_cuda) == ("Fake GPU", 89, 13000)
    assert facts.memory_bytes == 1 << 20 and not facts.integrated
    assert facts.through == {"pycuda": "PyCUDA 2026.1", "bindings": "cuda-bindings 13.5.0"}[through]


def test_work_is_done_when_it_is_waited_for(device):
    stream = device.stream()
    source, result = device.pinned(64), device.pinned(64)
    memory, sum_ = device.memory(64), device.memory(64)
    assert not source.array.any() and memory.address >= DEVICE_BASE
    source.array[:] = np.arange(64)
    arguments = Arguments(memory.address, sum_.address, 64, 5)
    launch = device.module(b"cubin").kernel("add").prepare((1, 1, 1), (64, 1, 1), arguments)
    stream.copy_to_device(memory, source)
    launch.enqueue(stream)
    stream.copy_to_host(result, sum_)
    assert not result.array.any()
    stream.wait()
    assert (result.array == np.arange(64) + 5).all()


def test_graph_reads_memory_anew_and_allocates_nothing(device, gpu):
    stream = device.stream()
    slot = np.zeros(4096, np.uint8)
    frame, result = device.register(slot), device.pinned(4096)
    sum_ = device.memory(4096)
    arguments = Arguments(frame.address, sum_.address, 4096, 1)
    kernel = device.module(b"cubin").kernel("add")
    launch = kernel.prepare((16, 1, 1), (256, 1, 1), arguments)
    with stream.capture() as capture:
        launch.enqueue(stream)
        stream.copy_to_host(result, sum_)
    stream.wait()
    assert not result.array.any(), "what is captured must not run"
    before = gpu.calls.copy()
    for value in (3, 200, 254):
        slot[:] = value
        capture.graph.launch(stream)
        stream.wait()
        assert (result.array == value + 1).all()
    made = gpu.calls - before
    assert set(made) == {"cuGraphLaunch", "cuStreamSynchronize"}
    assert set(made.values()) == {3}


def test_capture_that_fails_leaves_the_stream_usable(device, gpu):
    stream = device.stream()
    memory = device.memory(16)
    with pytest.raises(ValueError, match="mine"), stream.capture():
        stream.fill(memory, 1)
        raise ValueError("mine")
    result = device.pinned(16)
    stream.fill(memory, 7)
    stream.copy_to_host(result, memory)
    stream.wait()
    assert (result.array == 7).all()
    device.close()
    assert gpu.open["graph"] == 0


def test_events_keep_device_time(device):
    stream = device.stream()
    first, last = device.event(), device.event()
    first.record(stream)
    last.record(stream)
    last.wait()
    assert last.since_ms(first) == 0.25


def test_memory_is_registered_where_it_lies(device, gpu):
    slot = np.arange(256, dtype=np.uint8).reshape(16, 16)
    registered = device.register(slot, read_only=True)
    assert registered.array.ctypes.data == slot.ctypes.data
    assert (gpu.view(registered.address, 256) == slot.reshape(-1)).all()
    assert gpu.calls["read only"] == 1
    with pytest.raises(CudaError):
        device.register(slot)
    registered.close()
    registered.close()
    device.register(slot).close()
    with pytest.raises(CudaError, match="contiguous"):
        device.register(slot[:, ::2])


def test_everything_is_given_back(monkeypatch, gpu, through):
    install(monkeypatch, gpu, [through])
    device = open_device()
    stream = device.stream()
    device.event()
    device.memory(10)
    device.pinned(10)
    device.module(b"cubin").kernel("add")
    with stream.capture() as capture:
        pass
    device.register(np.zeros(8, np.uint8))
    device.close()
    device.close()
    del device, stream, capture
    assert not +gpu.open, f"left open: {+gpu.open}"


def test_closing_after_a_failed_kernel_gives_back_the_rest(device, gpu):
    device.memory(16)
    device.pinned(16)
    gpu.failures["cuMemFree"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    device.close()
    assert gpu.open["mapped"] == 0


def test_copies_that_do_not_fit_are_refused(device):
    stream, memory, host = device.stream(), device.memory(8), device.pinned(9)
    with pytest.raises(CudaError, match="9 bytes does not fit into memory of 8"):
        stream.copy_to_device(memory, host)
    with pytest.raises(CudaError, match="does not fit"):
        stream.copy_to_host(host, memory)


def test_kernel_facts(device):
    facts = device.module(b"cubin").kernel("add").facts
    assert (facts.registers, facts.spilled_bytes, facts.shared_bytes) == (32, 0, 48)
    with pytest.raises(CudaError, match="named symbol not found"):
        device.module(b"cubin").kernel("subtract")


def test_no_kernel_for_this_gpu(device, gpu):
    for call in ("cuModuleLoadData", "cuModuleLoadDataEx"):
        gpu.failures[call] = Verdict.CUDA_ERROR_NO_BINARY_FOR_GPU
    with pytest.raises(CudaError, match="no kernel image .* compile them for this one") as error:
        device.module(b"cubin")
    assert error.value.name == "CUDA_ERROR_NO_BINARY_FOR_GPU"


def test_out_of_memory(device, gpu):
    with pytest.raises(CudaError, match="out of memory; the GPU's memory is full.*nvidia-smi"):
        device.memory(gpu.memory_bytes + 1)
    device.memory(1 << 10)
    assert device.free_bytes() == gpu.memory_bytes - (1 << 10)


def test_failed_work_is_told_at_the_wait(device, gpu):
    stream = device.stream()
    gpu.failures["cuStreamSynchronize"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError, match="illegal memory access"):
        stream.wait()
    assert issubclass(CudaError, BackendError), "a frame must end as FAILED, with the reason"


def test_other_threads_can_use_it(device, gpu):
    before = gpu.current
    device.make_current()
    assert gpu.current == before + 1


@pytest.mark.parametrize("devices, index", [(0, 0), (1, 3)])
def test_no_such_device(monkeypatch, through, devices, index):
    install(monkeypatch, FakeGpu(devices=devices), [through])
    with pytest.raises(CudaError, match="CUDA_VISIBLE_DEVICES"):
        open_device(index)


def test_driver_too_old_for_what_was_made_for_a_newer_cuda(monkeypatch, through):
    install(monkeypatch, FakeGpu(driver=12040), [through])
    device = open_device()
    device.require_cuda(12080, "TensorRT")  # any minor version of the same major one runs
    text = "supports CUDA 12.4, TensorRT is made for 13.0; install driver 580"
    with pytest.raises(CudaError, match=text) as error:
        device.require_cuda(13000, "TensorRT")
    assert error.value.name == DRIVER_TOO_OLD


def test_pycuda_comes_first_and_bindings_take_its_place(monkeypatch):
    install(monkeypatch, FakeGpu(), MODULES)
    assert open_device().facts.through.startswith("PyCUDA")
    install(monkeypatch, FakeGpu(), ["bindings"])
    assert open_device().facts.through.startswith("cuda-bindings")


def test_neither_installed(monkeypatch):
    install(monkeypatch, FakeGpu(), [])
    with pytest.raises(CudaError, match="pip install pycuda.*pip install cuda-bindings"):
        open_device()


def test_pycuda_without_a_driver(monkeypatch, tmp_path):
    package(tmp_path, "libcuda.so.1: cannot open shared object file: No such file or directory")
    uninstall(monkeypatch, tmp_path)
    text = "there is no CUDA driver.*install NVIDIA's driver"
    with pytest.raises(CudaError, match=text) as error:
        open_device()
    assert error.value.name == NO_DRIVER


def test_pycuda_made_for_a_newer_driver(monkeypatch, tmp_path):
    package(tmp_path, "undefined symbol: cuMemNewThing_v9")
    uninstall(monkeypatch, tmp_path)
    with pytest.raises(CudaError, match="too old for PyCUDA.*cuMemNewThing_v9") as error:
        open_device()
    assert error.value.name == DRIVER_TOO_OLD


def test_bindings_that_miss_a_function_of_the_driver(monkeypatch):
    gpu = FakeGpu()
    install(monkeypatch, gpu, ["bindings"])

    def missing(*_):
        raise RuntimeError('Function "cuStreamCreate" not found')

    sys.modules["cuda.bindings.driver"].cuStreamCreate = missing
    with pytest.raises(CudaError, match="too old for cuda-bindings") as error:
        open_device().stream()
    assert error.value.name == DRIVER_TOO_OLD


def test_really_no_driver():
    """The one case with a real module: cuda-bindings without libcuda."""
    pytest.importorskip("cuda.bindings.driver")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has a CUDA driver")
    with pytest.raises(CudaError, match="there is no CUDA driver.*backend:=openvino") as error:
        open_device()
    assert error.value.name == NO_DRIVER


@pytest.mark.parametrize(
    "name, fake", [("cuda.bindings.driver", bindings_of), ("pycuda.driver", pycuda_of)]
)
def test_fakes_have_no_function_that_the_module_lacks(name, fake):
    real = real_module(name)
    for attribute, value in vars(fake(FakeGpu())).items():
        if attribute.startswith("__") or attribute == "device_attribute":
            continue
        assert hasattr(real, attribute), f"{name} has no {attribute}"
        if isinstance(value, type) and not issubclass(value, Verdict):
            methods = [x for x in vars(value) if x[0] != "_" and callable(getattr(value, x))]
            lacking = [x for x in methods if not hasattr(getattr(real, attribute), x)]
            assert not lacking, f"{name}.{attribute} has no {lacking}"


def test_names_that_stand_for_numbers_are_those_of_the_driver():
    real = real_module("cuda.bindings.driver")
    for verdict in Verdict:
        assert getattr(real.CUresult, verdict.name).value == verdict
    assert set(ERRORS) <= {verdict.name for verdict in real.CUresult}
    assert real.CU_MEMHOSTALLOC_DEVICEMAP == real.CU_MEMHOSTREGISTER_DEVICEMAP == driver.MAPPED
    assert real.CU_MEMHOSTREGISTER_READ_ONLY == driver.READ_ONLY
    assert real.CUstream_flags.CU_STREAM_NON_BLOCKING == driver.NON_BLOCKING
    assert real.CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT == 1
    assert real.CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT == 2


def real_module(name):
    if importlib.util.find_spec(name.split(".")[0]) is None:
        pytest.skip(f"{name} is not installed")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def package(folder, text):
    """A PyCUDA whose compiled part cannot be loaded."""
    (folder / "pycuda").mkdir()
    (folder / "pycuda/__init__.py").touch()
    (folder / "pycuda/driver.py").write_text(f"raise ImportError({text!r})\n")


def uninstall(monkeypatch, folder):
    install(monkeypatch, FakeGpu(), [])
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
