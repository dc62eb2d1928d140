"""`pycuda.driver`, and the functions of libcuda that PyCUDA lacks, over the GPU in Python."""

import types

import numpy as np
from fake_gpu import MAPPED_OFFSET, TEXTS, Refused, Verdict, bytes_at, module_of


def pycuda_of(gpu):
    """`pycuda.driver`: objects that free what they hold, and exceptions that only have a text."""

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

    return module_of(
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
    """An array whose base is the object that holds its memory, as in PyCUDA."""

    def __new__(cls, array, memory):
        view = array.view(cls)
        view.holder = memory
        return view

    @property
    def base(self):
        return self.holder


def libcuda_of(gpu):
    """libcuda as ctypes sees it, with the functions that PyCUDA lacks."""
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
