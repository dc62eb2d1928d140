"""A GPU in Python, behind the functions of the CUDA driver that `FUNCTIONS` lists.

Work on a stream runs when the stream is waited for; copies and kernels read memory only then, as on
a real GPU. Both bindings lead to these functions: test_cuda_stub.py tests them over a libcuda in C.
"""

import ctypes
import itertools
from collections import Counter
from enum import IntEnum

import numpy as np

from perception_nodes.gpu.cuda.driver import Driver, plain_name

DEVICE_BASE = 0x7F00_0000_0000
MAPPED_OFFSET = 0x10_0000_0000
"""Difference of the device address and the host address of the same host memory."""
ANY_CONTEXT = ("cuInit", "cuD", "cuGetError", "cuCtxSetCurrent")
"""Functions that need no current context begin like this."""
CONTEXT = 7


class Verdict(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class Refused(Exception):
    def __init__(self, verdict):
        super().__init__(verdict.name)
        self.verdict = verdict


class Stream:
    def __init__(self):
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
        self.costs = {}  # device time by kernel, and of a "copy", in ms
        self.failures = {}  # verdicts by function, and of a "capture"
        self.calls = Counter()
        self.memory = {}
        self.open = Counter()
        self.current_context = None
        self._next = DEVICE_BASE
        self._things = {}  # what handles stand for
        self._handles = itertools.count(0x5000, 16)
        self._clock_ms = 0.0

    def find(self, symbol, _parameters):
        """A function of the driver, as `Driver` wants it."""
        name = plain_name(symbol)
        function = getattr(self, name)

        def call(*arguments):
            self.calls[name] += 1
            try:
                if name in self.failures:
                    raise Refused(self.failures[name])
                if not name.startswith(ANY_CONTEXT) and self.current_context != CONTEXT:
                    raise Refused(Verdict.CUDA_ERROR_INVALID_CONTEXT)
                answer = function(*arguments)
            except Refused as refused:
                return (refused.verdict,)
            answers = answer if isinstance(answer, tuple) else (answer,)
            return 0, *(one for one in answers if one is not None)

        return call

    def view(self, address, nbytes):
        """Memory as the device sees it."""
        for start, array in self.memory.items():
            if start <= address and address + nbytes <= start + array.nbytes:
                return array[address - start : address - start + nbytes]
        raise Refused(Verdict.CUDA_ERROR_ILLEGAL_ADDRESS)

    def stream_at(self, handle):
        return self._things[handle]

    def pass_ms(self, duration):
        self._clock_ms += duration

    def _opened(self, kind, thing=None):
        self.open[kind] += 1
        handle = next(self._handles)
        self._things[handle] = thing
        return handle

    def _free_bytes(self):
        used = sum(a.nbytes for start, a in self.memory.items() if start >= DEVICE_BASE)
        return self.memory_bytes - used

    def _map(self, array):
        address = array.ctypes.data + MAPPED_OFFSET
        if address in self.memory:
            raise Refused(Verdict.CUDA_ERROR_INVALID_VALUE)
        self.memory[address] = array
        self.open["mapped"] += 1

    def cuInit(self, flags):
        if not self.devices:
            raise Refused(Verdict.CUDA_ERROR_NO_DEVICE)

    def cuGetErrorName(self, verdict):
        return Verdict(verdict).name.encode()

    def cuGetErrorString(self, verdict):
        return Verdict(verdict).name.removeprefix("CUDA_ERROR_").replace("_", " ").lower().encode()

    def cuDriverGetVersion(self):
        return self.driver

    def cuDeviceGet(self, index):
        return index

    def cuDeviceGetName(self, size, device):
        return b"Fake GPU".ljust(size, b"\0")

    def cuDeviceGetAttribute(self, attribute, device):
        return {75: self.sm[0], 76: self.sm[1], 18: self.integrated}[attribute]

    def cuDeviceTotalMem(self, device):
        return self.memory_bytes

    def cuDevicePrimaryCtxSetFlags(self, device, flags):
        assert flags == 4, "a thread that waits must leave its processor"

    def cuDevicePrimaryCtxRetain(self, device):
        self.open["context"] += 1
        return CONTEXT

    def cuDevicePrimaryCtxRelease(self, device):
        self.open["context"] -= 1

    def cuCtxSetCurrent(self, context):
        self.current_context = context

    def cuCtxGetStreamPriorityRange(self):
        return 0, -5

    def cuStreamCreateWithPriority(self, flags, priority):
        assert priority == -5, "our work goes first"
        return self._opened("stream", Stream())

    def cuStreamDestroy(self, stream):
        self.open["stream"] -= 1

    def cuStreamSynchronize(self, stream):
        stream = self.stream_at(stream)
        waiting, stream.waiting = stream.waiting, []
        for operation in waiting:
            operation()

    def cuEventCreate(self, flags):
        return self._opened("event", [])

    def cuEventDestroy(self, event):
        self.open["event"] -= 1

    def cuEventRecord(self, event, stream):
        def tick():
            self.pass_ms(0.25)
            self._things[event].append(self._clock_ms)

        self._things[event][:] = [stream]
        self.stream_at(stream).put(tick)

    def cuEventSynchronize(self, event):
        self.cuStreamSynchronize(self._things[event][0])

    def cuEventElapsedTime(self, first, last):
        return self._things[last][-1] - self._things[first][-1]

    def cuMemAlloc(self, nbytes):
        if nbytes > self._free_bytes():
            raise Refused(Verdict.CUDA_ERROR_OUT_OF_MEMORY)
        address, self._next = self._next, self._next + (nbytes + 511) // 256 * 256
        self.memory[address] = np.full(nbytes, 0xCD, np.uint8)
        self.open["memory"] += 1
        return address

    def cuMemFree(self, address):
        del self.memory[address]
        self.open["memory"] -= 1

    def cuMemHostAlloc(self, nbytes, flags):
        array = np.full(nbytes, 0xCD, np.uint8)
        self._map(array)
        return array.ctypes.data

    def cuMemHostRegister(self, memory, nbytes, flags):
        self.calls["read only"] += bool(flags & 8)
        self._map(bytes_at(memory, nbytes))

    def cuMemHostUnregister(self, memory):
        del self.memory[memory + MAPPED_OFFSET]
        self.open["mapped"] -= 1

    cuMemFreeHost = cuMemHostUnregister

    def cuMemHostGetDevicePointer(self, memory, flags):
        return memory + MAPPED_OFFSET

    def cuMemcpyAsync(self, to, source, nbytes, stream):
        def copy():
            self.pass_ms(self.costs.get("copy", 0))
            np.copyto(self.view(to, nbytes), self.view(source, nbytes))

        self.stream_at(stream).put(copy)

    def cuMemsetD8Async(self, to, value, nbytes, stream):
        self.stream_at(stream).put(lambda: self.view(to, nbytes).fill(value))

    def cuModuleLoadData(self, image):
        return self._opened("module")

    def cuModuleUnload(self, module):
        self.open["module"] -= 1

    def cuModuleGetFunction(self, module, name):
        if name.decode() not in self.kernels:
            raise Refused(Verdict.CUDA_ERROR_NOT_FOUND)
        handle = next(self._handles)
        self._things[handle] = name.decode()
        return handle

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        fields = (ctypes.c_void_p * 5).from_address(extra)
        size = ctypes.c_size_t.from_address(fields[3]).value
        name, arguments = self._things[function], ctypes.string_at(fields[1], size)

        def launch():
            self.pass_ms(self.costs.get(name, 0))
            self.kernels[name](self, (gx, gy, gz), (bx, by, bz), arguments)

        self.stream_at(stream).put(launch)

    def cuStreamBeginCapture(self, stream, mode):
        self.stream_at(stream).captured = []

    def cuStreamEndCapture(self, stream):
        stream = self.stream_at(stream)
        captured, stream.captured = stream.captured, None
        if "capture" in self.failures:
            raise Refused(self.failures["capture"])
        return self._opened("template", captured)

    def cuGraphInstantiate(self, graph, flags):
        return self._opened("graph", [self._things[graph], False])

    def cuGraphDestroy(self, graph):
        self.open["template"] -= 1

    def cuGraphUpload(self, graph, stream):
        self._things[graph][1] = True

    def cuGraphLaunch(self, graph, stream):
        operations, is_uploaded = self._things[graph]
        assert is_uploaded, "it would be late"
        for operation in operations:
            self.stream_at(stream).put(operation)

    def cuGraphExecDestroy(self, graph):
        self.open["graph"] -= 1


def bytes_at(address, nbytes):
    """Host memory."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def install(monkeypatch, gpu):
    """Let the driver have this GPU."""

    def load_driver():
        driver = Driver("a fake", gpu.find)
        driver.cuInit(0)
        return driver

    monkeypatch.setattr("perception_nodes.gpu.cuda.driver.load_driver", load_driver)
