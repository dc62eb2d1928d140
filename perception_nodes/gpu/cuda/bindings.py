"""The CUDA driver through NVIDIA's cuda-bindings; `driver_calls.py` documents the methods."""

import ctypes
import importlib.metadata
from typing import Any

import numpy as np
from cuda.bindings import driver as cu
from numpy.typing import NDArray

from perception_nodes.gpu.cuda.driver_calls import (
    MAPPED,
    NON_BLOCKING,
    READ_ONLY,
    Handle,
    Size3,
)
from perception_nodes.gpu.cuda.errors import driver_lacks, error_of_name, no_driver

LAUNCH_BUFFER, LAUNCH_BUFFER_SIZE, LAUNCH_END = 1, 2, 0
"""CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END."""
Attribute = cu.CUdevice_attribute
FunctionAttribute = cu.CUfunction_attribute
THREAD_LOCAL = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def _call(name: str, *arguments: Any) -> Any:
    """Call the driver and return its answer without the error code."""
    try:
        verdict, *answers = getattr(cu, name)(*arguments)
    except RuntimeError as error:
        # A function is looked up in libcuda at its first call, and an old driver may lack it.
        raise driver_lacks("cuda-bindings", error) from error
    if verdict != cu.CUresult.CUDA_SUCCESS:
        _, text = cu.cuGetErrorString(verdict)
        raise error_of_name(name, verdict.name, (text or b"").decode())
    return answers[0] if len(answers) == 1 else answers


class Driver:
    """Calls of `cuda.bindings.driver`; handles are its own objects."""

    def __init__(self) -> None:
        self.name = f"cuda-bindings {importlib.metadata.version('cuda-bindings')}"
        try:
            cu.cuDriverGetVersion()
        except (RuntimeError, ImportError, OSError) as error:
            raise no_driver() from error
        _call("cuInit", 0)

    def version(self) -> int:
        return int(_call("cuDriverGetVersion"))

    def device_count(self) -> int:
        return int(_call("cuDeviceGetCount"))

    def device_facts(self, index: int) -> tuple[str, Size3, int]:
        device = _call("cuDeviceGet", index)
        name = _call("cuDeviceGetName", 256, device).split(b"\0")[0].decode()
        major, minor, integrated = (
            int(_call("cuDeviceGetAttribute", attribute, device))
            for attribute in (
                Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                Attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED,
            )
        )
        return name, (major, minor, integrated), int(_call("cuDeviceTotalMem", device))

    def open_context(self, index: int) -> Handle:
        device = _call("cuDeviceGet", index)
        context = _call("cuDevicePrimaryCtxRetain", device)
        self.make_current((device, context))
        return device, context

    def make_current(self, context: Handle) -> None:
        _call("cuCtxSetCurrent", context[1])

    def close_context(self, context: Handle) -> None:
        _call("cuDevicePrimaryCtxRelease", context[0])

    def free_memory(self) -> int:
        return int(_call("cuMemGetInfo")[0])

    def open_stream(self) -> tuple[Handle, int]:
        stream = _call("cuStreamCreate", NON_BLOCKING)
        return stream, int(stream)

    def close_stream(self, stream: Handle) -> None:
        _call("cuStreamDestroy", stream)

    def wait_for_stream(self, stream: Handle) -> None:
        _call("cuStreamSynchronize", stream)

    def open_event(self) -> Handle:
        return _call("cuEventCreate", 0)

    def close_event(self, event: Handle) -> None:
        _call("cuEventDestroy", event)

    def record_event(self, event: Handle, stream: Handle) -> None:
        _call("cuEventRecord", event, stream)

    def wait_for_event(self, event: Handle) -> None:
        _call("cuEventSynchronize", event)

    def elapsed_ms(self, first: Handle, last: Handle) -> float:
        return float(_call("cuEventElapsedTime", first, last))

    def allocate(self, nbytes: int) -> tuple[Handle, int]:
        memory = _call("cuMemAlloc", nbytes)
        return memory, int(memory)

    def free(self, memory: Handle) -> None:
        _call("cuMemFree", memory)

    def allocate_pinned(self, nbytes: int) -> tuple[Handle, NDArray[np.uint8], int]:
        memory = _call("cuMemHostAlloc", nbytes, MAPPED)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(int(memory)))
        return memory, array, int(_call("cuMemHostGetDevicePointer", memory, 0))

    def free_pinned(self, memory: Handle) -> None:
        _call("cuMemFreeHost", memory)

    def register(self, array: NDArray[np.uint8], read_only: bool) -> tuple[Handle, int]:
        memory = array.ctypes.data
        _call("cuMemHostRegister", memory, array.nbytes, MAPPED | (READ_ONLY if read_only else 0))
        return memory, int(_call("cuMemHostGetDevicePointer", memory, 0))

    def unregister(self, memory: Handle) -> None:
        _call("cuMemHostUnregister", memory)

    def copy_to_device(self, to: int, source: NDArray[np.uint8], stream: Handle) -> None:
        _call("cuMemcpyHtoDAsync", to, source, source.nbytes, stream)

    def copy_to_host(self, to: NDArray[np.uint8], source: int, stream: Handle) -> None:
        _call("cuMemcpyDtoHAsync", to, source, to.nbytes, stream)

    def fill(self, to: int, value: int, nbytes: int, stream: Handle) -> None:
        _call("cuMemsetD8Async", to, value, nbytes, stream)

    def load_module(self, image: bytes) -> Handle:
        return _call("cuModuleLoadData", image)

    def close_module(self, module: Handle) -> None:
        _call("cuModuleUnload", module)

    def function(self, module: Handle, name: str) -> Handle:
        return _call("cuModuleGetFunction", module, name.encode())

    def function_facts(self, function: Handle) -> Size3:
        registers, spilled, shared = (
            int(_call("cuFuncGetAttribute", attribute, function))
            for attribute in (
                FunctionAttribute.CU_FUNC_ATTRIBUTE_NUM_REGS,
                FunctionAttribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
                FunctionAttribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        )
        return registers, spilled, shared

    def prepare(
        self, function: Handle, grid: Size3, block: Size3, arguments: ctypes.Structure, shared: int
    ) -> Handle:
        size = ctypes.c_size_t(ctypes.sizeof(arguments))
        extra = (ctypes.c_void_p * 5)(
            LAUNCH_BUFFER,
            ctypes.addressof(arguments),
            LAUNCH_BUFFER_SIZE,
            ctypes.addressof(size),
            LAUNCH_END,
        )
        # The last three keep alive what the address of `extra` points to.
        return function, (*grid, *block, shared), ctypes.addressof(extra), extra, size, arguments

    def launch(self, prepared: Handle, stream: Handle) -> None:
        function, shape, extra = prepared[:3]
        _call("cuLaunchKernel", function, *shape, stream, 0, extra)

    def begin_capture(self, stream: Handle) -> None:
        _call("cuStreamBeginCapture", stream, THREAD_LOCAL)

    def end_capture(self, stream: Handle) -> Handle:
        graph = _call("cuStreamEndCapture", stream)
        try:
            return _call("cuGraphInstantiate", graph, 0)
        finally:
            _call("cuGraphDestroy", graph)

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        _call("cuGraphLaunch", graph, stream)

    def close_graph(self, graph: Handle) -> None:
        _call("cuGraphExecDestroy", graph)
