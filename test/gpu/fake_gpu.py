"""A GPU in Python, to which a fake of cuda-bindings leads.

Work on a stream runs when the stream is waited for; copies and kernels read memory only then, as on
a real GPU.
"""

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
"""Difference of the device address and the host address of the same host memory."""


class Verdict(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


TEXTS = {
    Verdict.CUDA_ERROR_INVALID_VALUE: "invalid argument",
    Verdict.CUDA_ERROR_OUT_OF_MEMORY: "out of memory",
    Verdict.CUDA_ERROR_NO_DEVICE: "no CUDA-capable device is detected",
    Verdict.CUDA_ERROR_INVALID_DEVICE: "invalid device ordinal",
    Verdict.CUDA_ERROR_INVALID_IMAGE: "device kernel image is invalid",
    Verdict.CUDA_ERROR_NO_BINARY_FOR_GPU: (
        "no kernel image is available for execution on the device"
    ),
    Verdict.CUDA_ERROR_NOT_FOUND: "named symbol not found",
    Verdict.CUDA_ERROR_ILLEGAL_ADDRESS: "an illegal memory access was encountered",
    Verdict.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: (
        "operation not permitted when stream is capturing"
    ),
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
        self.costs = {}  # device time by kernel, and of a "copy", in ms
        self.failures = {}
        self.calls = Counter()
        self.memory = {}
        self.open = Counter()
        self.current_context = None
        self.waits_blocking = False
        self.uploaded = []
        self._next = DEVICE_BASE
        self._streams = {}
        self._clock_ms = 0.0

    def call(self, name):
        """Record a call, and let it fail if the test wants that."""
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

    def pass_ms(self, duration):
        self._clock_ms += duration

    def tick(self):
        self.pass_ms(0.25)
        return self._clock_ms

    def wait(self, stream):
        waiting, stream.waiting = stream.waiting, []
        for operation in waiting:
            operation()

    def copy(self, stream, read, write):
        def run():
            self.pass_ms(self.costs.get("copy", 0))
            np.copyto(write(), read())

        stream.put(run)

    def launch(self, stream, name, grid, block, arguments):
        def run():
            self.pass_ms(self.costs.get(name, 0))
            self.kernels[name](self, grid, block, arguments)

        stream.put(run)

    def begin_capture(self, stream):
        stream.captured = []

    def end_capture(self, stream):
        captured, stream.captured = stream.captured, None
        self.open["template"] += 1
        return captured

    def replay(self, stream, graph):
        for operation in graph:
            stream.put(operation)


def bytes_at(address, nbytes):
    """Host memory."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def module_of(name, **content):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module).update(content)
    return module


THEIRS = ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.driver")


def install(monkeypatch, gpu):
    """Let the fake of cuda-bindings be the only installed driver module; without a GPU, none."""
    from fake_bindings import bindings_of

    for name in THEIRS:
        # None makes an import fail as if the module were not installed.
        monkeypatch.setitem(sys.modules, name, None)
    versions = {}
    if gpu is not None:
        monkeypatch.setitem(sys.modules, "cuda", module_of("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", module_of("cuda.bindings"))
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", bindings_of(gpu))
        sys.modules["cuda.bindings"].driver = sys.modules["cuda.bindings.driver"]
        versions["cuda-bindings"] = "13.5.0"
    set_versions(monkeypatch, versions)


def set_versions(monkeypatch, versions):
    """Let only these packages be installed."""

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("importlib.metadata.version", version)
