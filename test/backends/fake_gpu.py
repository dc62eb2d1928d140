"""A GPU in Python, and the two driver modules over it: what was put on a stream is run when it is
waited for, and a copy or a kernel reads memory then and not before, as on a real one."""

import ctypes
import importlib.machinery
import importlib.metadata
import sys
import types
from collections import Counter
from enum import IntEnum

import numpy as np

DEVICE_BASE = 0x7F00_0000_0000
MAPPED_OFFSET = 0x10_0000_0000
"""Where the device sees host memory, from where the host does: not at the same address."""


class Verdict(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


TEXTS = {
    Verdict.CUDA_ERROR_INVALID_VALUE: "invalid argument",
    Verdict.CUDA_ERROR_OUT_OF_MEMORY: "out of memory",
    Verdict.CUDA_ERROR_NO_DEVICE: "no CUDA-capable device is detected",
    Verdict.CUDA_ERROR_INVALID_DEVICE: "invalid device ordinal",
    Verdict.CUDA_ERROR_NO_BINARY_FOR_GPU: (
        "no kernel image is available for execution on the device"
    ),
    Verdict.CUDA_ERROR_NOT_FOUND: "named symbol not found",
    Verdict.CUDA_ERROR_ILLEGAL_ADDRESS: "an illegal memory access was encountered",
    Verdict.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: (
        "operation failed due to a previous error during capture"
    ),
}


class Refused(Exception):
    def __init__(self, call, verdict):
        super().__init__(f"{call} failed: {TEXTS[verdict]}")
        self.verdict = verdict


class Stream:
    def __init__(self, address):
        self.address = address
        self.waiting = []
        self.captured = None

    def put(self, operation):
        (self.waiting if self.captured is None else self.captured).append(operation)


class FakeGpu:
    """The device: `kernels` maps names to functions of (gpu, grid, block, argument bytes)."""

    def __init__(self, devices=1, driver=13000, sm=(8, 9), integrated=0, memory_bytes=1 << 20):
        self.devices, self.driver, self.sm = devices, driver, sm
        self.integrated, self.memory_bytes = integrated, memory_bytes
        self.kernels = {}
        self.failures = {}
        self.calls = Counter()
        self.memory = {}
        self.open = Counter()
        self.current = 0
        self.pushed = 0
        self._next = DEVICE_BASE
        self._streams = {}
        self._clock_ms = 0.0

    def call(self, name):
        """Take note of a call; it fails where it is to."""
        self.calls[name] += 1
        if name in self.failures:
            raise Refused(name, self.failures[name])

    def view(self, address, nbytes):
        """Memory as the device sees it."""
        for start, array in self.memory.items():
            if start <= address and address + nbytes <= start + array.nbytes:
                return array[address - start : address - start + nbytes]
        raise Refused("kernel", Verdict.CUDA_ERROR_ILLEGAL_ADDRESS)

    def allocate(self, nbytes):
        if nbytes > self.free_bytes():
            raise Refused("cuMemAlloc", Verdict.CUDA_ERROR_OUT_OF_MEMORY)
        address, self._next = self._next, self._next + (nbytes + 511) // 256 * 256
        self.memory[address] = np.full(nbytes, 0xCD, np.uint8)
        self.open["memory"] += 1
        return address

    def free(self, address):
        del self.memory[address]
        self.open["memory"] -= 1

    def free_bytes(self):
        used = sum(a.nbytes for start, a in self.memory.items() if start >= DEVICE_BASE)
        return self.memory_bytes - used

    def map(self, array):
        address = array.ctypes.data + MAPPED_OFFSET
        if address in self.memory:
            raise Refused("cuMemHostRegister", Verdict.CUDA_ERROR_INVALID_VALUE)
        self.memory[address] = array
        self.open["mapped"] += 1
        return address

    def unmap(self, array):
        del self.memory[array.ctypes.data + MAPPED_OFFSET]
        self.open["mapped"] -= 1

    def stream(self):
        stream = Stream(0x5000 + 16 * (len(self._streams) + 1))
        self._streams[stream.address] = stream
        self.open["stream"] += 1
        return stream

    def stream_at(self, address):
        return self._streams[address]

    def tick(self):
        self._clock_ms += 0.25
        return self._clock_ms

    def wait(self, stream):
        waiting, stream.waiting = stream.waiting, []
        for operation in waiting:
            operation()

    def copy(self, stream, read, write):
        stream.put(lambda: np.copyto(write(), read()))

    def launch(self, stream, name, grid, block, arguments):
        stream.put(lambda: self.kernels[name](self, grid, block, arguments))

    def begin_capture(self, stream):
        stream.captured = []

    def end_capture(self, stream):
        captured, stream.captured = stream.captured, None
        self.open["graph"] += 1
        return captured

    def replay(self, stream, graph):
        for operation in graph:
            stream.put(operation)


def bytes_at(address, nbytes):
    """Host memory."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def _module(name, **content):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module).update(content)
    return module


class Handle:
    """An object of cuda-bindings."""

    def __init__(self, value):
        self.value = value

    def __int__(self):
        value = self.value
        return value.address if isinstance(value, Stream) else int(value)


def bindings_of(gpu):
    """`cuda.bindings.driver`: functions that return a verdict and their answers."""
    pinned = {}

    def api(function):
        def call(*arguments):
            try:
                gpu.call(function.__name__)
                answer = function(*arguments)
            except Refused as refused:
                return (refused.verdict, None)
            if answer is None:
                return (Verdict.CUDA_SUCCESS,)
            return (Verdict.CUDA_SUCCESS, *(answer if isinstance(answer, tuple) else (answer,)))

        functions[function.__name__] = call
        return call

    functions = {}

    @api
    def cuInit(flags):
        if not gpu.devices:
            raise Refused("cuInit", Verdict.CUDA_ERROR_NO_DEVICE)

    @api
    def cuDriverGetVersion():
        return gpu.driver

    @api
    def cuDeviceGetCount():
        return gpu.devices

    @api
    def cuDeviceGet(index):
        return Handle(index)

    @api
    def cuDeviceGetName(size, device):
        return b"Fake GPU".ljust(size, b"\0")

    @api
    def cuDeviceGetAttribute(attribute, device):
        return {"MAJOR": gpu.sm[0], "MINOR": gpu.sm[1], "INTEGRATED": gpu.integrated}[
            attribute.rsplit("_", 1)[1]
        ]

    @api
    def cuDeviceTotalMem(device):
        return gpu.memory_bytes

    @api
    def cuDevicePrimaryCtxRetain(device):
        gpu.open["context"] += 1
        return Handle(7)

    @api
    def cuDevicePrimaryCtxRelease(device):
        gpu.open["context"] -= 1

    @api
    def cuCtxSetCurrent(context):
        gpu.current += 1

    @api
    def cuMemGetInfo():
        return gpu.free_bytes(), gpu.memory_bytes

    @api
    def cuStreamCreate(flags):
        assert flags == 1
        return Handle(gpu.stream())

    @api
    def cuStreamDestroy(stream):
        gpu.open["stream"] -= 1

    @api
    def cuStreamSynchronize(stream):
        gpu.wait(stream.value)

    @api
    def cuEventCreate(flags):
        gpu.open["event"] += 1
        return Handle([])

    @api
    def cuEventDestroy(event):
        gpu.open["event"] -= 1

    @api
    def cuEventRecord(event, stream):
        event.stream = stream.value
        stream.value.put(lambda: event.value.append(gpu.tick()))

    @api
    def cuEventSynchronize(event):
        gpu.wait(event.stream)

    @api
    def cuEventElapsedTime(first, last):
        return last.value[-1] - first.value[-1]

    @api
    def cuMemAlloc(nbytes):
        return Handle(gpu.allocate(nbytes))

    @api
    def cuMemFree(memory):
        gpu.free(int(memory))

    @api
    def cuMemHostAlloc(nbytes, flags):
        assert flags == 2
        array = np.full(nbytes, 0xCD, np.uint8)
        pinned[array.ctypes.data] = array
        gpu.map(array)
        return array.ctypes.data

    @api
    def cuMemFreeHost(memory):
        gpu.unmap(pinned.pop(memory))

    @api
    def cuMemHostRegister(memory, nbytes, flags):
        assert flags & 2
        gpu.calls["read only"] += bool(flags & 8)
        gpu.map(bytes_at(memory, nbytes))

    @api
    def cuMemHostUnregister(memory):
        gpu.unmap(bytes_at(memory, 1))

    @api
    def cuMemHostGetDevicePointer(memory, flags):
        return Handle(int(memory) + MAPPED_OFFSET)

    @api
    def cuMemcpyHtoDAsync(to, source, nbytes, stream):
        gpu.copy(stream.value, lambda: source[:nbytes], lambda: gpu.view(to, nbytes))

    @api
    def cuMemcpyDtoHAsync(to, source, nbytes, stream):
        gpu.copy(stream.value, lambda: gpu.view(source, nbytes), lambda: to[:nbytes])

    @api
    def cuMemsetD8Async(to, value, nbytes, stream):
        gpu.copy(stream.value, lambda: np.uint8(value), lambda: gpu.view(to, nbytes))

    @api
    def cuModuleLoadData(image):
        assert image.endswith(b"\0")
        gpu.open["module"] += 1
        return Handle(0)

    @api
    def cuModuleUnload(module):
        gpu.open["module"] -= 1

    @api
    def cuModuleGetFunction(module, name):
        if name.decode() not in gpu.kernels:
            raise Refused("cuModuleGetFunction", Verdict.CUDA_ERROR_NOT_FOUND)
        return Handle(name.decode())

    @api
    def cuFuncGetAttribute(attribute, function):
        return {"REGS": 32, "BYTES": 48 if "SHARED" in attribute else 0}[
            attribute.rsplit("_", 1)[1]
        ]

    @api
    def cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        assert parameters == 0
        fields = (ctypes.c_void_p * 5).from_address(extra)
        assert (fields[0], fields[2], fields[4]) == (1, 2, None)
        size = ctypes.c_size_t.from_address(fields[3]).value
        arguments = ctypes.string_at(fields[1], size)
        gpu.launch(stream.value, function.value, (gx, gy, gz), (bx, by, bz), arguments)

    @api
    def cuStreamBeginCapture(stream, mode):
        assert mode == "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"
        gpu.begin_capture(stream.value)

    @api
    def cuStreamEndCapture(stream):
        return Handle(gpu.end_capture(stream.value))

    @api
    def cuGraphInstantiate(graph, flags):
        return Handle(graph.value)

    @api
    def cuGraphDestroy(graph):
        pass

    @api
    def cuGraphLaunch(graph, stream):
        gpu.replay(stream.value, graph.value)

    @api
    def cuGraphExecDestroy(graph):
        gpu.open["graph"] -= 1

    class Names:
        def __getattr__(self, name):
            return name

    return _module(
        "cuda.bindings.driver",
        CUresult=Verdict,
        CUdevice_attribute=Names(),
        CUfunction_attribute=Names(),
        CUstreamCaptureMode=Names(),
        cuGetErrorString=lambda verdict: (Verdict.CUDA_SUCCESS, TEXTS[verdict].encode()),
        **functions,
    )


def pycuda_of(gpu):
    """`pycuda.driver`: objects that give back what they hold, exceptions that have a text alone."""

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError_(Error, MemoryError):
        pass

    def call(name, function=lambda: None):
        try:
            gpu.call(name)
            return function()
        except Refused as refused:
            lacks = refused.verdict == Verdict.CUDA_ERROR_OUT_OF_MEMORY
            text = f"{name} failed: {TEXTS[refused.verdict]}"
            raise (MemoryError_ if lacks else LogicError)(text) from None

    def open_something():
        assert gpu.pushed == 1, "PyCUDA opens nothing without a context on its stack"

    class Held:
        kind = ""

        def __init__(self):
            if self.kind != "context":
                open_something()
            gpu.open[self.kind] += 1

        def __del__(self):
            gpu.open[self.kind] -= 1

    class Context(Held):
        kind = "context"

        handle = 7

        def push(self):
            gpu.pushed += 1

        @staticmethod
        def pop():
            gpu.pushed -= 1

        def detach(self):
            assert gpu.pushed == 0

    class Device:
        def __init__(self, index):
            call("cuDeviceGet")

        @staticmethod
        def count():
            return gpu.devices

        def name(self):
            return "Fake GPU"

        def compute_capability(self):
            return gpu.sm

        def total_memory(self):
            return gpu.memory_bytes

        def get_attribute(self, attribute):
            assert attribute == "INTEGRATED"
            return gpu.integrated

        def retain_primary_context(self):
            call("cuDevicePrimaryCtxRetain")
            return Context()

    class PyStream(Held):
        kind = "pystream"

        def __init__(self, flags=0):
            assert flags == 1
            super().__init__()
            call("cuStreamCreate")
            self.fake = gpu.stream()
            self.handle = self.fake.address

        def synchronize(self):
            call("cuStreamSynchronize", lambda: gpu.wait(self.fake))

        def __del__(self):
            super().__del__()
            gpu.open["stream"] -= 1

    class Event(Held):
        kind = "event"

        def __init__(self, flags=0):
            super().__init__()
            self.times = []

        def record(self, stream=None):
            self.stream = stream.fake
            times = self.times
            self.stream.put(lambda: times.append(gpu.tick()))

        def synchronize(self):
            gpu.wait(self.stream)

        def time_since(self, other):
            return self.times[-1] - other.times[-1]

    class DeviceAllocation:
        def __init__(self, nbytes):
            open_something()
            self.address = call("cuMemAlloc", lambda: gpu.allocate(nbytes))

        def __int__(self):
            return self.address

        def free(self):
            call("cuMemFree", lambda: gpu.free(self.address))

    class HostMemory:
        def __init__(self, array):
            self.array = array

        def get_device_pointer(self):
            return self.array.ctypes.data + MAPPED_OFFSET

        def free(self):
            gpu.unmap(self.array)

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        assert mem_flags == 2
        open_something()
        array = np.full(shape, 0xCD, dtype)
        call("cuMemHostAlloc", lambda: gpu.map(array))
        return HostArray(array, HostMemory(array))

    class Function:
        num_regs, local_size_bytes, shared_size_bytes = 32, 0, 48

        def __init__(self, name):
            self.name = name

        def _launch_kernel(self, grid, block, arguments, shared, stream):
            packed = bytes(memoryview(arguments))
            call("cuLaunchKernel", lambda: gpu.launch(stream.fake, self.name, grid, block, packed))

    class Module(Held):
        kind = "module"

        def get_function(self, name):
            def find():
                if name not in gpu.kernels:
                    raise Refused("cuModuleGetFunction", Verdict.CUDA_ERROR_NOT_FOUND)
                return Function(name)

            return call("cuModuleGetFunction", find)

    def init(flags=0):
        def start():
            if not gpu.devices:
                raise Refused("cuInit", Verdict.CUDA_ERROR_NO_DEVICE)

        call("cuInit", start)

    def module_from_buffer(image):
        assert image.endswith(b"\0")
        return call("cuModuleLoadDataEx", Module)

    def memcpy_htod_async(to, source, stream):
        call("cuMemcpyHtoDAsync")
        gpu.copy(stream.fake, lambda: source, lambda: gpu.view(to, source.nbytes))

    def memcpy_dtoh_async(to, source, stream):
        call("cuMemcpyDtoHAsync")
        gpu.copy(stream.fake, lambda: gpu.view(source, to.nbytes), lambda: to)

    def memset_d8_async(to, value, nbytes, stream):
        call("cuMemsetD8Async")
        gpu.copy(stream.fake, lambda: np.uint8(value), lambda: gpu.view(to, nbytes))

    return _module(
        "pycuda.driver",
        Error=Error,
        Device=Device,
        Context=Context,
        Stream=PyStream,
        Event=Event,
        init=init,
        get_driver_version=lambda: gpu.driver,
        mem_get_info=lambda: (gpu.free_bytes(), gpu.memory_bytes),
        mem_alloc=lambda nbytes: DeviceAllocation(nbytes),
        DeviceAllocation=DeviceAllocation,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
        memset_d8_async=memset_d8_async,
        module_from_buffer=module_from_buffer,
        device_attribute=types.SimpleNamespace(INTEGRATED="INTEGRATED"),
    )


class HostArray(np.ndarray):
    """An array whose base is what holds its memory, as PyCUDA's are."""

    def __new__(cls, array, memory):
        view = array.view(cls)
        view.holder = memory
        return view

    @property
    def base(self):
        return self.holder


def libcuda_of(gpu):
    """The library itself, as ctypes sees it, with what PyCUDA lacks."""
    graphs = {}

    def api(function):
        def call(*arguments):
            try:
                gpu.call(function.__name__)
                function(*arguments)
            except Refused as refused:
                return int(refused.verdict)
            return 0

        return call

    def set_pointer(pointer, value):
        pointer._obj.value = value

    def cuStreamBeginCapture_v2(stream, mode):
        assert mode == 1
        gpu.begin_capture(gpu.stream_at(stream.value))

    def cuStreamEndCapture(stream, graph):
        address = 0x9000 + len(graphs)
        graphs[address] = gpu.end_capture(gpu.stream_at(stream.value))
        set_pointer(graph, address)

    def cuGraphInstantiateWithFlags(executable, graph, flags):
        set_pointer(executable, graph.value)

    def cuGraphDestroy(graph):
        pass

    def cuGraphLaunch(graph, stream):
        gpu.replay(gpu.stream_at(stream.value), graphs[graph.value])

    def cuGraphExecDestroy(graph):
        gpu.open["graph"] -= 1

    def cuCtxSetCurrent(context):
        gpu.current += 1

    def cuMemHostRegister_v2(memory, nbytes, flags):
        assert flags & 2
        gpu.calls["read only"] += bool(flags & 8)
        gpu.map(bytes_at(memory.value, nbytes.value))

    def cuMemHostUnregister(memory):
        gpu.unmap(bytes_at(memory.value, 1))

    def cuMemHostGetDevicePointer_v2(address, memory, flags):
        set_pointer(address, memory.value + MAPPED_OFFSET)

    def cuGetErrorString(verdict, text):
        set_pointer(text, TEXTS[Verdict(verdict)].encode())
        return 0

    named = (
        cuCtxSetCurrent,
        cuStreamBeginCapture_v2,
        cuStreamEndCapture,
        cuGraphInstantiateWithFlags,
        cuGraphDestroy,
        cuGraphLaunch,
        cuGraphExecDestroy,
        cuMemHostRegister_v2,
        cuMemHostUnregister,
        cuMemHostGetDevicePointer_v2,
    )
    return types.SimpleNamespace(
        cuGetErrorString=cuGetErrorString, **{one.__name__: api(one) for one in named}
    )


OURS = ("perception_nodes.backends.cuda.pycuda", "perception_nodes.backends.cuda.bindings")
THEIRS = ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.driver")


def install(monkeypatch, gpu, through):
    """Have a fake driver module be the installed one: `pycuda`, `bindings`, or both."""
    for name in OURS:
        # Noted, so that what is imported over the fake goes with it.
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    for name in THEIRS:
        # None there makes importing it fail as if it were not installed.
        monkeypatch.setitem(sys.modules, name, None)
    versions = {}
    if "pycuda" in through:
        monkeypatch.setitem(sys.modules, "pycuda", _module("pycuda"))
        monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_of(gpu))
        sys.modules["pycuda"].driver = sys.modules["pycuda.driver"]
        monkeypatch.setattr(ctypes, "CDLL", lambda name: libcuda_of(gpu))
        versions["pycuda"] = "2026.1"
    if "bindings" in through:
        monkeypatch.setitem(sys.modules, "cuda", _module("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", _module("cuda.bindings"))
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", bindings_of(gpu))
        sys.modules["cuda.bindings"].driver = sys.modules["cuda.bindings.driver"]
        versions["cuda-bindings"] = "13.5.0"
    set_versions(monkeypatch, versions)


def set_versions(monkeypatch, versions):
    """Have these packages be installed and no others."""

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("importlib.metadata.version", version)
