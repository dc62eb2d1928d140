"""The calls of the CUDA driver that are used here; two modules provide them, see `load_driver`."""

import ctypes
import importlib
import importlib.util
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda.errors import CudaError

Handle = Any
"""A driver module's own representation of an object of CUDA."""
Size3 = tuple[int, int, int]

MAPPED = 0x02
"""CU_MEMHOSTALLOC_DEVICEMAP, and CU_MEMHOSTREGISTER_DEVICEMAP."""
READ_ONLY = 0x08
"""CU_MEMHOSTREGISTER_READ_ONLY."""
NON_BLOCKING = 0x01
"""CU_STREAM_NON_BLOCKING."""

DRIVERS = {"pycuda": "pycuda.driver", "bindings": "cuda.bindings.driver"}
"""Our modules in the order of preference, and the Python module that each is based on."""


class Driver(Protocol):
    """The driver API as far as it is used here. Each call can raise `CudaError`.

    Addresses are device addresses, sizes are in bytes, arrays are flat and uint8. Only the calls
    named `wait_...` wait for the GPU.

    Attributes:
        name: name of the Python module, with its version.
    """

    name: str

    def version(self) -> int:
        """CUDA version that the driver supports, as 1000 major + 10 minor."""
        ...

    def device_count(self) -> int:
        """Number of GPUs."""
        ...

    def device_facts(self, index: int) -> tuple[str, Size3, int]:
        """Name; compute capability (major, minor), 1 if memory is the host's; bytes."""
        ...

    def open_context(self, index: int) -> Handle:
        """Retain a device's primary context, the one TensorRT uses, and make it current."""
        ...

    def make_current(self, context: Handle) -> None:
        """Let calls of this thread use the context."""
        ...

    def close_context(self, context: Handle) -> None:
        """Release a context."""
        ...

    def free_memory(self) -> int:
        """Free memory of the current device, bytes."""
        ...

    def open_stream(self) -> tuple[Handle, int]:
        """Open a stream that does not wait for the legacy default stream; and its address."""
        ...

    def close_stream(self, stream: Handle) -> None:
        """Destroy a stream."""
        ...

    def wait_for_stream(self, stream: Handle) -> None:
        """Wait until all work on the stream is done."""
        ...

    def open_event(self) -> Handle:
        """Create an event that records the time."""
        ...

    def close_event(self, event: Handle) -> None:
        """Destroy an event."""
        ...

    def record_event(self, event: Handle, stream: Handle) -> None:
        """Put an event on a stream."""
        ...

    def wait_for_event(self, event: Handle) -> None:
        """Wait until the stream has reached the event."""
        ...

    def elapsed_ms(self, first: Handle, last: Handle) -> float:
        """Time between two events that the stream has passed."""
        ...

    def allocate(self, nbytes: int) -> tuple[Handle, int]:
        """Allocate device memory; and its address."""
        ...

    def free(self, memory: Handle) -> None:
        """Free memory of `allocate`."""
        ...

    def allocate_pinned(self, nbytes: int) -> tuple[Handle, NDArray[np.uint8], int]:
        """Allocate page-locked host memory mapped for the device; and its device address."""
        ...

    def free_pinned(self, memory: Handle) -> None:
        """Free memory of `allocate_pinned`."""
        ...

    def register(self, array: NDArray[np.uint8], read_only: bool) -> tuple[Handle, int]:
        """Page-lock existing memory and map it for the device; and its device address."""
        ...

    def unregister(self, memory: Handle) -> None:
        """Undo `register`."""
        ...

    def copy_to_device(self, to: int, source: NDArray[np.uint8], stream: Handle) -> None:
        """Put a copy from page-locked memory to the device on a stream."""
        ...

    def copy_to_host(self, to: NDArray[np.uint8], source: int, stream: Handle) -> None:
        """Put a copy from the device to page-locked memory on a stream."""
        ...

    def fill(self, to: int, value: int, nbytes: int, stream: Handle) -> None:
        """Put a fill of device memory with a byte on a stream."""
        ...

    def load_module(self, image: bytes) -> Handle:
        """Load a cubin, fatbin or PTX text, terminated by a zero byte."""
        ...

    def close_module(self, module: Handle) -> None:
        """Unload a module."""
        ...

    def function(self, module: Handle, name: str) -> Handle:
        """Find a kernel by its (C) name."""
        ...

    def function_facts(self, function: Handle) -> Size3:
        """Registers and spilled bytes per thread, and static shared memory per block."""
        ...

    def prepare(
        self, function: Handle, grid: Size3, block: Size3, arguments: ctypes.Structure, shared: int
    ) -> Handle:
        """Prepare a launch that can be repeated; see `Kernel.prepare`."""
        ...

    def launch(self, prepared: Handle, stream: Handle) -> None:
        """Put a prepared launch on a stream."""
        ...

    def begin_capture(self, stream: Handle) -> None:
        """Record what this thread puts on the stream from now on, instead of running it."""
        ...

    def end_capture(self, stream: Handle) -> Handle:
        """End the recording; returns the graph, ready to be launched."""
        ...

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        """Put a graph on a stream."""
        ...

    def close_graph(self, graph: Handle) -> None:
        """Destroy a graph."""
        ...


def load_driver() -> Driver:
    """Initialise the CUDA driver through PyCUDA, or through cuda-bindings if that is not installed.

    Raises:
        CudaError: neither is installed, the driver is missing or too old, or no GPU is found.
    """
    for ours, theirs in DRIVERS.items():
        if _installed(theirs):
            module = importlib.import_module(f"perception_nodes.gpu.cuda.{ours}")
            driver: Driver = module.Driver()
            return driver
    raise CudaError(
        "neither PyCUDA nor cuda-bindings is installed; install one with: pip install pycuda (it "
        "is compiled, with the CUDA toolkit's headers), or: pip install cuda-bindings"
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        # A parent package is missing or cannot be imported.
        return False
