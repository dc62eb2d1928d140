"""A GPU through the CUDA driver API: memory, streams, events, kernels and graphs.

Everything is opened on a `Device` and closed with it at the latest. Of what is put on a stream
nothing waits for the GPU, and nothing allocates once it is captured in a graph; only methods
named `wait` wait.

    device = open_device()
    frame = device.register(slot)               # where it lies: nothing is copied
    kernel = device.module(cubin).kernel("preprocess")
    launch = kernel.prepare(grid, block, Arguments(frame.address, memory.address))
    stream = device.stream()
    with stream.capture() as capture:
        launch.enqueue(stream)
        stream.copy_to_host(result, memory)
    capture.graph.launch(stream)                # every frame
    stream.wait()
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.cuda.driver import Driver, Handle, Size3, load_driver
from perception_nodes.backends.cuda.errors import CudaError, driver_too_old, error_of_name

__all__ = [
    "Capture",
    "CudaError",
    "Device",
    "DeviceFacts",
    "DeviceMemory",
    "Event",
    "Graph",
    "HostMemory",
    "Kernel",
    "KernelFacts",
    "Launch",
    "Module",
    "Stream",
    "capture",
    "open_device",
]


class _Resource:
    """Something of the driver's, closed once."""

    def __init__(self, close: Callable[[Handle], None], handle: Handle) -> None:
        self._close = close
        self._handle = handle
        self.closed = False

    def close(self) -> None:
        """Give it back; a second time is of no effect."""
        if not self.closed:
            self.closed = True
            self._close(self._handle)


ResourceT = TypeVar("ResourceT", bound=_Resource)


class DeviceMemory(_Resource):
    """Memory of the device.

    Attributes:
        address: the device's.
        nbytes: its size.
    """

    def __init__(self, driver: Driver, nbytes: int) -> None:
        """Use `Device.memory`."""
        handle, self.address = driver.allocate(nbytes)
        self.nbytes = nbytes
        super().__init__(driver.free, handle)


class HostMemory(_Resource):
    """Page-locked memory of the host, mapped into the device's addresses.

    Attributes:
        array: flat uint8; not to be used after `close`.
        address: where the device sees it.
        nbytes: its size.
    """

    def __init__(
        self,
        close: Callable[[Handle], None],
        handle: Handle,
        array: NDArray[np.uint8],
        address: int,
    ) -> None:
        """Use `Device.pinned` or `Device.register`."""
        self.array = array
        self.address = address
        self.nbytes = array.nbytes
        super().__init__(close, handle)


class Event(_Resource):
    """A mark on a stream."""

    def __init__(self, driver: Driver) -> None:
        """Use `Device.event`."""
        self._driver = driver
        super().__init__(driver.close_event, driver.open_event())

    def record(self, stream: "Stream") -> None:
        """Put it on a stream, behind what is there."""
        self._driver.record_event(self._handle, stream.handle)

    def wait(self) -> None:
        """Wait until the stream has got there."""
        self._driver.wait_for_event(self._handle)

    def since_ms(self, earlier: "Event") -> float:
        """Device time between two events that have happened, to half a microsecond."""
        return self._driver.elapsed_ms(earlier._handle, self._handle)


class Graph(_Resource):
    """Work that was taken down once and is put on a stream as one piece."""

    def __init__(self, driver: Driver, handle: Handle) -> None:
        """Use `Stream.capture`."""
        self._driver = driver
        super().__init__(driver.close_graph, handle)

    def launch(self, stream: "Stream") -> None:
        """Put it on a stream."""
        self._driver.launch_graph(self._handle, stream.handle)


class Capture:
    """The graph of a capture, once that has ended well."""

    graph: Graph


class Stream(_Resource):
    """A queue of work for the device.

    Attributes:
        address: the CUstream, for libraries such as TensorRT.
    """

    def __init__(self, device: "Device", driver: Driver) -> None:
        """Use `Device.stream`."""
        self._device = device
        self._driver = driver
        self.handle, self.address = driver.open_stream()
        super().__init__(driver.close_stream, self.handle)

    def wait(self) -> None:
        """Wait until all is done that was put on it.

        Raises:
            CudaError: something of it failed.
        """
        self._driver.wait_for_stream(self.handle)

    def copy_to_device(self, to: DeviceMemory, source: HostMemory) -> None:
        """Copy the whole of the source to the front of device memory."""
        _check_fits(source.nbytes, to.nbytes)
        self._driver.copy_to_device(to.address, source.array, self.handle)

    def copy_to_host(self, to: HostMemory, source: DeviceMemory) -> None:
        """Fill host memory from the front of device memory."""
        _check_fits(to.nbytes, source.nbytes)
        self._driver.copy_to_host(to.array, source.address, self.handle)

    def fill(self, memory: DeviceMemory, value: int = 0) -> None:
        """Set every byte."""
        self._driver.fill(memory.address, value, memory.nbytes, self.handle)

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        """Take down in a graph what is put on the stream in the block, instead of running it.

        What is captured keeps its addresses and a launch the arguments it was prepared with: what
        changes from frame to frame is told through memory. Nothing in the block may allocate or
        wait.

        Raises:
            CudaError: something in the block cannot be captured.
        """
        capture = Capture()
        self._driver.begin_capture(self.handle)
        try:
            yield capture
        except BaseException:
            with suppress(CudaError):
                # What went wrong first is to be told; a broken capture cannot be ended well.
                self._driver.close_graph(self._driver.end_capture(self.handle))
            raise
        graph = Graph(self._driver, self._driver.end_capture(self.handle))
        capture.graph = self._device.own(graph)


class Launch:
    """A kernel with its grid and arguments, ready to be put on a stream."""

    def __init__(self, driver: Driver, prepared: Handle) -> None:
        """Use `Kernel.prepare`."""
        self._driver = driver
        self._prepared = prepared

    def enqueue(self, stream: Stream) -> None:
        """Put it on a stream, with what the arguments are now."""
        self._driver.launch(self._prepared, stream.handle)


class Kernel:
    """A function on the device.

    Attributes:
        facts: what the compiler made of it.
    """

    def __init__(self, driver: Driver, handle: Handle) -> None:
        """Use `Module.kernel`."""
        self._driver = driver
        self._handle = handle
        self.facts = KernelFacts(*driver.function_facts(handle))

    def prepare(
        self, grid: Size3, block: Size3, arguments: ctypes.Structure, shared_bytes: int = 0
    ) -> Launch:
        """Get a launch ready that can be repeated.

        Args:
            grid: blocks in x, y, z.
            block: threads in x, y, z.
            arguments: one field a parameter of the kernel, in its order and of its type (pointers
                c_uint64); fields are aligned as parameters are. Kept, and read at each launch.
            shared_bytes: dynamic shared memory a block.
        """
        prepared = self._driver.prepare(self._handle, grid, block, arguments, shared_bytes)
        return Launch(self._driver, prepared)


class Module(_Resource):
    """Compiled kernels on the device."""

    def __init__(self, driver: Driver, image: bytes) -> None:
        """Use `Device.module`."""
        self._driver = driver
        super().__init__(driver.close_module, driver.load_module(image + b"\0"))

    def kernel(self, name: str) -> Kernel:
        """A kernel, declared extern "C".

        Raises:
            CudaError: there is none of that name.
        """
        return Kernel(self._driver, self._driver.function(self._handle, name))


@dataclass(frozen=True)
class DeviceFacts:
    """What a GPU is.

    Attributes:
        name: the product's.
        sm: compute capability, 87 for 8.7.
        memory_bytes: of the device; on a Jetson the whole machine's.
        integrated: host and device share their memory: mapped host memory crosses no bus.
        driver_cuda: the CUDA version that the driver runs, 13000 for 13.0.
        through: the Python module in use, with its version.
    """

    name: str
    sm: int
    memory_bytes: int
    integrated: bool
    driver_cuda: int
    through: str


@dataclass(frozen=True)
class KernelFacts:
    """What the compiler made of a kernel.

    Attributes:
        registers: a thread.
        spilled_bytes: local memory a thread; 0 where nothing is spilled.
        shared_bytes: static shared memory a block.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int


class Device:
    """A GPU and its primary context, and the owner of all that is opened on it."""

    def __init__(self, driver: Driver, index: int) -> None:
        """Use `open_device`."""
        self._driver = driver
        name, (major, minor, integrated), memory_bytes = driver.device_facts(index)
        self.facts = DeviceFacts(
            name, 10 * major + minor, memory_bytes, bool(integrated), driver.version(), driver.name
        )
        self._context = driver.open_context(index)
        self._resources: list[_Resource] = []
        self._closed = False

    def require_cuda(self, version: int, who: str) -> None:
        """See that the driver runs what somebody was made for.

        Any minor version of the driver's own major one runs.

        Args:
            version: of CUDA, 13000 for 13.0.
            who: what was made for it, for the text.

        Raises:
            CudaError: the driver is too old.
        """
        if self.facts.driver_cuda // 1000 < version // 1000:
            raise driver_too_old(self.facts.driver_cuda, version, who)

    def make_current(self) -> None:
        """Let this thread use the device; the one that opened it already does."""
        self._driver.make_current(self._context)

    def free_bytes(self) -> int:
        """Memory that nobody uses."""
        return self._driver.free_memory()

    def stream(self) -> "Stream":
        """A queue of work."""
        return self.own(Stream(self, self._driver))

    def event(self) -> "Event":
        """A mark on a stream that keeps the time."""
        return self.own(Event(self._driver))

    def memory(self, nbytes: int) -> "DeviceMemory":
        """Memory of the device.

        Raises:
            CudaError: there is not enough.
        """
        return self.own(DeviceMemory(self._driver, nbytes))

    def pinned(self, nbytes: int) -> "HostMemory":
        """Page-locked host memory that the device reads and writes in place, zeroed.

        Raises:
            CudaError: there is not enough.
        """
        handle, array, address = self._driver.allocate_pinned(nbytes)
        array[:] = 0
        return self.own(HostMemory(self._driver.free_pinned, handle, array, address))

    def register(self, array: NDArray[np.uint8], read_only: bool = False) -> "HostMemory":
        """Let the device use host memory of somebody else, such as a slot, where it lies.

        To be closed before the memory goes. Memory that is registered already is refused.

        Args:
            array: uint8, contiguous; the pages it lies on are locked in memory.
            read_only: this process may only read it (it is mapped so), and so may the device.

        Raises:
            CudaError: the driver refuses, or the device cannot.
        """
        if not array.flags.c_contiguous:
            raise CudaError("memory to be registered must be contiguous")
        flat = array.reshape(-1)
        handle, address = self._driver.register(flat, read_only)
        return self.own(HostMemory(self._driver.unregister, handle, flat, address))

    def module(self, image: bytes) -> "Module":
        """Load compiled kernels: a cubin, a fatbin, or PTX text.

        Raises:
            CudaError: none of them is for this device, or the image is damaged.
        """
        return self.own(Module(self._driver, image))

    def close(self) -> None:
        """Close what was opened on it, the youngest first, and let it go."""
        if self._closed:
            return
        self._closed = True
        for resource in reversed(self._resources):
            with suppress(CudaError):
                # After a kernel failed every call does, and so does giving memory back.
                resource.close()
        self._resources.clear()
        self._driver.close_context(self._context)

    def own(self, resource: ResourceT) -> ResourceT:
        """Close it with the device, where nobody does before."""
        self._resources = [one for one in self._resources if not one.closed]
        self._resources.append(resource)
        return resource


def open_device(index: int = 0) -> Device:
    """Open a GPU through PyCUDA, or through cuda-bindings where that is not installed.

    Args:
        index: which one, as CUDA counts (CUDA_VISIBLE_DEVICES).

    Raises:
        CudaError: neither module is installed, there is no driver or an old one, or no such GPU.
    """
    driver = load_driver()
    count = driver.device_count()
    if index >= count:
        raise error_of_name(
            "cuDeviceGet", "CUDA_ERROR_INVALID_DEVICE" if count else "CUDA_ERROR_NO_DEVICE", ""
        )
    return Device(driver, index)


def capture(stream: Stream, stages: Sequence[Callable[[Stream], None]]) -> Graph:
    """Make one graph of stages that put their work on a stream: preprocess, inference, decode.

    They are run once before: TensorRT, for one, sets up at its first run what cannot be captured.

    Raises:
        CudaError: a stage failed, or it waits or allocates.
    """
    for stage in stages:
        stage(stream)
    stream.wait()
    with stream.capture() as captured:
        for stage in stages:
            stage(stream)
    return captured.graph


def _check_fits(nbytes: int, room: int) -> None:
    if nbytes > room:
        raise CudaError(f"a copy of {nbytes} bytes does not fit into memory of {room}")
