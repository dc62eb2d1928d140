"""The CUDA driver through PyCUDA; `driver_calls.py` documents the methods.

PyCUDA 2026.1 does not support graphs, and its `register_host_memory` crashes the process (it sets
an array's base a second time, which NumPy forbids). These calls go to libcuda directly.

PyCUDA keeps a stack of contexts for each thread. It needs a context there to open anything, but
aborts the process if a thread ends with one on its stack. So our context is pushed only while
something is opened; otherwise the driver itself knows which context is current.
"""

import ctypes
import importlib.metadata
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda.driver_calls import (
    MAPPED,
    NON_BLOCKING,
    READ_ONLY,
    Handle,
    Size3,
)
from perception_nodes.gpu.cuda.errors import (
    driver_lacks,
    error_of_text,
    no_driver,
)

try:
    import pycuda.driver as cu
except ImportError as error:
    if "libcuda" in str(error):
        raise no_driver() from error
    raise driver_lacks("PyCUDA", error) from error


THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL."""


@cache
def _library() -> ctypes.CDLL:
    """The driver library, which PyCUDA has loaded; calls through ctypes release Python's lock."""
    return ctypes.CDLL("libcuda.so.1")


def _libcuda(name: str, *arguments: Any) -> None:
    """Call a function that PyCUDA lacks."""
    function = getattr(_library(), name, None)
    if function is None:
        raise driver_lacks("CUDA graphs", AttributeError(f"libcuda.so.1 has no {name}"))
    verdict = function(*arguments)
    if verdict:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(verdict, ctypes.byref(text))
        raise error_of_text(f"{name} failed: {(text.value or b'').decode()}")


@contextmanager
def _errors() -> Iterator[None]:
    """Convert PyCUDA's errors to `CudaError`."""
    try:
        yield
    except cu.Error as error:
        raise error_of_text(str(error)) from error


class Driver:
    """Calls of `pycuda.driver`; handles are its objects, which free what they hold."""

    def __init__(self) -> None:
        self._local = threading.local()
        self.name = f"PyCUDA {importlib.metadata.version('pycuda')}"
        with _errors():
            cu.init()

    def version(self) -> int:
        with _errors():
            return int(cu.get_driver_version())

    def device_count(self) -> int:
        with _errors():
            return int(cu.Device.count())

    def device_facts(self, index: int) -> tuple[str, Size3, int]:
        with _errors():
            device = cu.Device(index)
            major, minor = device.compute_capability()
            integrated = device.get_attribute(cu.device_attribute.INTEGRATED)
            return device.name(), (major, minor, integrated), int(device.total_memory())

    def open_context(self, index: int) -> Handle:
        with _errors():
            context = cu.Device(index).retain_primary_context()
        self.make_current(context)
        return context

    def make_current(self, context: Handle) -> None:
        _libcuda("cuCtxSetCurrent", ctypes.c_void_p(context.handle))
        self._local.context = context

    def close_context(self, context: Handle) -> None:
        self._local.context = None
        _libcuda("cuCtxSetCurrent", None)
        with _errors():
            context.detach()
        # To release the context, PyCUDA makes it current, and leaves it so.
        _libcuda("cuCtxSetCurrent", None)

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Push our context while the block opens an object of PyCUDA."""
        with _errors():
            self._local.context.push()
            try:
                yield
            finally:
                cu.Context.pop()

    def free_memory(self) -> int:
        with _errors():
            return int(cu.mem_get_info()[0])

    def open_stream(self) -> tuple[Handle, int]:
        with self._opening():
            stream = cu.Stream(NON_BLOCKING)
            return stream, int(stream.handle)

    def close_stream(self, stream: Handle) -> None:
        """Do nothing: PyCUDA destroys a stream with its last reference."""

    def wait_for_stream(self, stream: Handle) -> None:
        with _errors():
            stream.synchronize()

    def open_event(self) -> Handle:
        with self._opening():
            return cu.Event()

    def close_event(self, event: Handle) -> None:
        """Do nothing: PyCUDA destroys an event with its last reference."""

    def record_event(self, event: Handle, stream: Handle) -> None:
        with _errors():
            event.record(stream)

    def wait_for_event(self, event: Handle) -> None:
        with _errors():
            event.synchronize()

    def elapsed_ms(self, first: Handle, last: Handle) -> float:
        with _errors():
            return float(last.time_since(first))

    def allocate(self, nbytes: int) -> tuple[Handle, int]:
        with self._opening():
            memory = cu.mem_alloc(nbytes)
            return memory, int(memory)

    def free(self, memory: Handle) -> None:
        with _errors():
            memory.free()

    def allocate_pinned(self, nbytes: int) -> tuple[Handle, NDArray[np.uint8], int]:
        with self._opening():
            array = cu.pagelocked_empty(nbytes, np.uint8, mem_flags=MAPPED)
            return array.base, array, int(array.base.get_device_pointer())

    def free_pinned(self, memory: Handle) -> None:
        with _errors():
            memory.free()

    def register(self, array: NDArray[np.uint8], read_only: bool) -> tuple[Handle, int]:
        memory, address = ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64()
        flags = MAPPED | (READ_ONLY if read_only else 0)
        _libcuda("cuMemHostRegister_v2", memory, ctypes.c_size_t(array.nbytes), flags)
        _libcuda("cuMemHostGetDevicePointer_v2", ctypes.byref(address), memory, 0)
        return memory, address.value

    def unregister(self, memory: Handle) -> None:
        _libcuda("cuMemHostUnregister", memory)

    def copy_to_device(self, to: int, source: NDArray[np.uint8], stream: Handle) -> None:
        with _errors():
            cu.memcpy_htod_async(to, source, stream)

    def copy_to_host(self, to: NDArray[np.uint8], source: int, stream: Handle) -> None:
        with _errors():
            cu.memcpy_dtoh_async(to, source, stream)

    def fill(self, to: int, value: int, nbytes: int, stream: Handle) -> None:
        with _errors():
            cu.memset_d8_async(to, value, nbytes, stream)

    def load_module(self, image: bytes) -> Handle:
        with self._opening():
            return cu.module_from_buffer(image)

    def close_module(self, module: Handle) -> None:
        """Do nothing: PyCUDA unloads a module with its last reference."""

    def function(self, module: Handle, name: str) -> Handle:
        with _errors():
            return module.get_function(name)

    def function_facts(self, function: Handle) -> Size3:
        with _errors():
            return function.num_regs, function.local_size_bytes, function.shared_size_bytes

    def prepare(
        self, function: Handle, grid: Size3, block: Size3, arguments: ctypes.Structure, shared: int
    ) -> Handle:
        return function, grid, block, arguments, shared

    def launch(self, prepared: Handle, stream: Handle) -> None:
        function, grid, block, arguments, shared = prepared
        with _errors():
            # The public method sets the shape of a block by a call that CUDA has removed.
            function._launch_kernel(grid, block, arguments, shared, stream)

    def begin_capture(self, stream: Handle) -> None:
        _libcuda("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), THREAD_LOCAL)

    def end_capture(self, stream: Handle) -> Handle:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        _libcuda("cuStreamEndCapture", ctypes.c_void_p(stream.handle), ctypes.byref(graph))
        try:
            flags = ctypes.c_ulonglong(0)
            _libcuda("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        finally:
            _libcuda("cuGraphDestroy", graph)
        return executable

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        _libcuda("cuGraphLaunch", graph, ctypes.c_void_p(stream.handle))

    def close_graph(self, graph: Handle) -> None:
        _libcuda("cuGraphExecDestroy", graph)
