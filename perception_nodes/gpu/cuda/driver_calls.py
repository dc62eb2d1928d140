"""What we need of the CUDA driver, call by call; two modules provide it, see `load_driver`."""

import ctypes
import importlib
import importlib.util
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda.errors import CudaError

Handle = Any
"""What a driver module stands in for an object of CUDA with."""
Size3 = tuple[int, int, int]

MAPPED = 0x02
"""CU_MEMHOSTALLOC_DEVICEMAP, and CU_MEMHOSTREGISTER_DEVICEMAP."""
READ_ONLY = 0x08
"""CU_MEMHOSTREGISTER_READ_ONLY."""
NON_BLOCKING = 0x01
"""CU_STREAM_NON_BLOCKING."""

DRIVERS = {"pycuda": "pycuda.driver", "bindings": "cuda.bindings.driver"}
"""Our modules, the one to be taken first in front, and what each is written over."""


class Driver(Protocol):
    """The driver API as far as it is used here. Each call raises `CudaError`.

    Addresses are the device's, sizes in bytes, arrays flat and uint8. Only what is said to wait
    waits for the GPU.

    Attributes:
        name: the module's, with its version.
    """

    name: str

    def version(self) -> int:
        """The CUDA version that the driver runs, as 1000 major + 10 minor."""
        ...

    def device_count(self) -> int:
        """How many GPUs there are."""
        ...

    def device_facts(self, index: int) -> tuple[str, Size3, int]:
        """Name; compute capability, major and minor, and 1 where memory is the host's; memory."""
        ...

    def open_context(self, index: int) -> Handle:
        """Retain a device's primary context, the one TensorRT uses, and make it current."""
        ...

    def make_current(self, context: Handle) -> None:
        """Have calls of this thread go to the context."""
        ...

    def close_context(self, context: Handle) -> None:
        """Let it go."""
        ...

    def free_memory(self) -> int:
        """Memory of the current device that is free."""
        ...

    def open_stream(self) -> tuple[Handle, int]:
        """A stream that does not wait for the legacy default stream, and its address."""
        ...

    def close_stream(self, stream: Handle) -> None:
        """Drop it."""
        ...

    def wait_for_stream(self, stream: Handle) -> None:
        """Wait until all is done that was put on it."""
        ...

    def open_event(self) -> Handle:
        """An event that keeps the time."""
        ...

    def close_event(self, event: Handle) -> None:
        """Drop it."""
        ...

    def record_event(self, event: Handle, stream: Handle) -> None:
        """Put it on the stream."""
        ...

    def wait_for_event(self, event: Handle) -> None:
        """Wait until the stream got there."""
        ...

    def elapsed_ms(self, first: Handle, last: Handle) -> float:
        """Between two events that have happened."""
        ...

    def allocate(self, nbytes: int) -> tuple[Handle, int]:
        """Device memory and its address."""
        ...

    def free(self, memory: Handle) -> None:
        """Give it back."""
        ...

    def allocate_pinned(self, nbytes: int) -> tuple[Handle, NDArray[np.uint8], int]:
        """Page-locked host memory that the device can read and write, and where it sees it."""
        ...

    def free_pinned(self, memory: Handle) -> None:
        """Give it back."""
        ...

    def register(self, array: NDArray[np.uint8], read_only: bool) -> tuple[Handle, int]:
        """Page-lock and map what is there, such as a slot of shared memory, in place."""
        ...

    def unregister(self, memory: Handle) -> None:
        """Undo it."""
        ...

    def copy_to_device(self, to: int, source: NDArray[np.uint8], stream: Handle) -> None:
        """Copy, of page-locked memory."""
        ...

    def copy_to_host(self, to: NDArray[np.uint8], source: int, stream: Handle) -> None:
        """Copy, into page-locked memory."""
        ...

    def fill(self, to: int, value: int, nbytes: int, stream: Handle) -> None:
        """Set bytes."""
        ...

    def load_module(self, image: bytes) -> Handle:
        """Load a cubin, fatbin or PTX text, closed with a zero."""
        ...

    def close_module(self, module: Handle) -> None:
        """Drop it."""
        ...

    def function(self, module: Handle, name: str) -> Handle:
        """A kernel by its (C) name."""
        ...

    def function_facts(self, function: Handle) -> Size3:
        """Registers a thread, spilled bytes a thread, static shared memory a block."""
        ...

    def prepare(
        self, function: Handle, grid: Size3, block: Size3, arguments: ctypes.Structure, shared: int
    ) -> Handle:
        """A launch that can be repeated; see `Kernel.prepare`."""
        ...

    def launch(self, prepared: Handle, stream: Handle) -> None:
        """Put a prepared launch on the stream."""
        ...

    def begin_capture(self, stream: Handle) -> None:
        """What this thread puts on the stream is taken down from now on, and not run."""
        ...

    def end_capture(self, stream: Handle) -> Handle:
        """The graph that was taken down, ready to be launched."""
        ...

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        """Put it on the stream."""
        ...

    def close_graph(self, graph: Handle) -> None:
        """Drop it."""
        ...


def load_driver() -> Driver:
    """Initialise the CUDA driver through what is installed: PyCUDA, or else cuda-bindings.

    Raises:
        CudaError: neither is installed, there is no driver or it is too old, or no GPU answers.
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
        # A package above it is not there, or is there and cannot be imported.
        return False
