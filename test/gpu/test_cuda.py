"""The CUDA driver: what is put on a stream runs, and each error has its remedy.

There is no GPU here: `fake_gpu.py` acts as the device, and a fake of cuda-bindings leads to it.
`test_cuda_stub.py` makes the same calls through PyCUDA and cuda-bindings themselves.
"""

import ctypes
import importlib
import importlib.util
import sys

import numpy as np
import pytest
from fake_bindings import bindings_of
from fake_gpu import DEVICE_BASE, FakeGpu, Verdict, install, set_versions

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import CudaError, Uncaptured, capture, driver, open_device
from perception_nodes.gpu.cuda.errors import DRIVER_TOO_OLD, NO_DRIVER, REMEDIES


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


@pytest.fixture
def gpu():
    gpu = FakeGpu()
    gpu.kernels["add"] = add
    return gpu


@pytest.fixture
def device(monkeypatch, gpu):
    install(monkeypatch, gpu)
    device = open_device()
    yield device
    device.close()


def test_facts(device):
    facts = device.facts
    assert (facts.name, facts.sm, facts.driver_cuda) == ("Fake GPU", 89, 13000)
    assert facts.memory_bytes == 1 << 20 and not facts.integrated
    assert facts.through == "cuda-bindings 13.5.0"


def test_a_thread_that_waits_leaves_its_processor(device, gpu):
    """Under SCHED_FIFO one that spins keeps every other thread from running."""
    assert gpu.waits_blocking


def test_our_work_goes_first(device, gpu):
    assert gpu.stream_at(device.stream().handle).priority == -5


def test_work_is_done_when_it_is_waited_for(device):
    stream = device.stream()
    source, result = device.pinned(64), device.pinned(64)
    memory, sum_ = device.memory(64), device.memory(64)
    assert not source.array.any() and memory.address >= DEVICE_BASE
    source.array[:] = np.arange(64)
    arguments = Arguments(memory.address, sum_.address, 64, 5)
    launch = device.module(b"cubin").kernel("add").prepare((1, 1, 1), (64, 1, 1), arguments)
    stream.copy(memory.address, source.address, 64)
    launch.enqueue(stream)
    stream.copy(result.address, sum_.address, 64)
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

    def work(stream):
        launch.enqueue(stream)
        stream.copy(result.address, sum_.address, 4096)

    graph = stream.capture(work)
    stream.wait()
    assert not result.array.any(), "what is captured must not run"
    before = gpu.calls.copy()
    for value in (3, 200, 254):
        slot[:] = value
        graph.launch(stream)
        stream.wait()
        assert (result.array == value + 1).all()
    made = gpu.calls - before
    assert set(made) == {"cuGraphLaunch", "cuStreamSynchronize"}
    assert set(made.values()) == {3}


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


def test_everything_is_given_back(monkeypatch, gpu):
    install(monkeypatch, gpu)
    device = open_device()
    stream = device.stream()
    device.event()
    device.memory(10)
    device.pinned(10)
    device.module(b"cubin").kernel("add")
    graph = stream.capture(lambda stream: None)
    device.register(np.zeros(8, np.uint8))
    device.close()
    device.close()
    del device, stream, graph
    assert not +gpu.open, f"left open: {+gpu.open}"


def test_closing_after_a_failed_kernel_gives_back_the_rest(device, gpu):
    device.memory(16)
    device.pinned(16)
    gpu.failures["cuMemFree"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    device.close()
    assert gpu.open["mapped"] == 0


def test_a_graph_is_on_the_device_before_its_first_launch(device, gpu):
    stream, memory = device.stream(), device.memory(16)
    graph = capture(stream, [lambda stream: stream.fill(memory, 7)])
    assert len(gpu.uploaded) == 1 and not isinstance(graph, Uncaptured)


@pytest.mark.parametrize("capturable", [True, False])
def test_what_cannot_be_captured_runs_without_a_graph(device, gpu, capturable):
    stream, memory, result = device.stream(), device.memory(16), device.pinned(16)
    if capturable:  # it says so, and yet it cannot
        gpu.failures["capture"] = Verdict.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    made = capture(
        stream,
        [
            lambda stream: stream.fill(memory, 7),
            lambda stream: stream.copy(result.address, memory.address, 16),
        ],
        capturable,
    )
    assert isinstance(made, Uncaptured)
    assert gpu.calls["cuStreamBeginCapture"] == capturable
    result.array[:] = 0
    made.launch(stream)
    stream.wait()
    assert (result.array == 7).all()
    made.close()


def test_a_stage_that_fails_is_no_failed_capture(device, gpu):
    stream = device.stream()
    gpu.failures["cuMemsetD8Async"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    memory = device.memory(16)
    with pytest.raises(CudaError, match="illegal memory access"):
        capture(stream, [lambda stream: stream.fill(memory, 7)])


def test_a_kernel_that_is_not_there(device):
    with pytest.raises(CudaError, match="named symbol not found"):
        device.module(b"cubin").kernel("subtract")


def test_no_kernel_for_this_gpu(device, gpu):
    gpu.failures["cuModuleLoadData"] = Verdict.CUDA_ERROR_NO_BINARY_FOR_GPU
    with pytest.raises(CudaError, match="no kernel image .* compile them for this one") as error:
        device.module(b"cubin")
    assert error.value.name == "CUDA_ERROR_NO_BINARY_FOR_GPU"


def test_a_kernel_of_a_newer_cuda_than_the_drivers(device, gpu):
    gpu.failures["cuModuleLoadData"] = Verdict.CUDA_ERROR_INVALID_IMAGE
    with pytest.raises(CudaError, match="image is invalid; .*nvidia-cuda-nvrtc-cu12 for CUDA 12"):
        device.module(b"cubin")


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
    gpu.current_context = "another library's"
    device.make_current()
    assert gpu.current_context == 7


@pytest.mark.parametrize("devices, index", [(0, 0), (1, 3)])
def test_no_such_device(monkeypatch, devices, index):
    install(monkeypatch, FakeGpu(devices=devices))
    with pytest.raises(CudaError, match="CUDA_VISIBLE_DEVICES"):
        open_device(index)


def test_driver_too_old_for_what_was_made_for_a_newer_cuda(monkeypatch):
    install(monkeypatch, FakeGpu(driver=12040))
    device = open_device()
    device.require_cuda(12080, "TensorRT")  # any minor version of the same major one runs
    text = "supports CUDA 12.4, TensorRT is made for 13.0; install driver 580"
    with pytest.raises(CudaError, match=text) as error:
        device.require_cuda(13000, "TensorRT")
    assert error.value.name == DRIVER_TOO_OLD


def test_neither_installed(monkeypatch):
    install(monkeypatch, None)
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
    install(monkeypatch, FakeGpu())

    def missing(*_):
        raise RuntimeError('Function "cuStreamCreateWithPriority" not found')

    sys.modules["cuda.bindings.driver"].cuStreamCreateWithPriority = missing
    with pytest.raises(CudaError, match="too old for cuda-bindings") as error:
        open_device().stream()
    assert error.value.name == DRIVER_TOO_OLD


def test_bindings_that_are_too_old(monkeypatch):
    install(monkeypatch, FakeGpu())
    del sys.modules["cuda.bindings.driver"].cuGraphUpload
    with pytest.raises(CudaError, match="cuda-bindings 13.5.0 has no cuGraphUpload; install"):
        open_device()


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


def test_the_table_has_the_drivers_functions_and_the_fake_no_others():
    real = real_module("cuda.bindings.driver")
    ours = {driver.plain_name(symbol) for symbol in driver.FUNCTIONS}
    assert {name for name in ours if not hasattr(real, name)} == set()
    assert {name for name in vars(bindings_of(FakeGpu())) if name[:2] == "cu"} == ours


def test_names_that_stand_for_numbers_are_those_of_the_driver():
    real = real_module("cuda.bindings.driver")
    for verdict in Verdict:
        assert getattr(real.CUresult, verdict.name).value == verdict
    assert set(REMEDIES) <= {verdict.name for verdict in real.CUresult}
    for attribute in driver.Attribute:
        name = f"CU_DEVICE_ATTRIBUTE_{attribute.name}"
        assert getattr(real.CUdevice_attribute, name).value == attribute
    for mode in driver.CaptureMode:
        name = f"CU_STREAM_CAPTURE_MODE_{mode.name}"
        assert getattr(real.CUstreamCaptureMode, name).value == mode
    assert real.CU_MEMHOSTALLOC_DEVICEMAP == real.CU_MEMHOSTREGISTER_DEVICEMAP == driver.MAPPED
    assert real.CU_MEMHOSTREGISTER_READ_ONLY == driver.READ_ONLY
    assert real.CUstream_flags.CU_STREAM_NON_BLOCKING == driver.NON_BLOCKING
    assert real.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC == driver.CONTEXT_BLOCKING_SYNC
    assert real.CUevent_flags.CU_EVENT_BLOCKING_SYNC == driver.EVENT_BLOCKING_SYNC
    assert real.CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT == driver.LAUNCH_BUFFER
    assert real.CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT == driver.LAUNCH_BUFFER_SIZE


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
    install(monkeypatch, None)
    set_versions(monkeypatch, {"pycuda": "2026.1"})
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
