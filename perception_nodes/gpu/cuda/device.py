"""A GPU, and the owner of all that is opened on it."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda.driver_calls import Driver, load_driver
from perception_nodes.gpu.cuda.errors import CudaError, driver_too_old, error_of_name
from perception_nodes.gpu.cuda.kernel import Module
from perception_nodes.gpu.cuda.memory import DeviceMemory, HostMemory, Resource, ResourceT
from perception_nodes.gpu.cuda.stream import Event, Stream


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
        self._resources: list[Resource] = []
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

    def stream(self) -> Stream:
        """A queue of work."""
        return self.own(Stream(self._driver, self.own))

    def event(self) -> Event:
        """A mark on a stream that keeps the time."""
        return self.own(Event(self._driver))

    def memory(self, nbytes: int) -> DeviceMemory:
        """Memory of the device.

        Raises:
            CudaError: there is not enough.
        """
        return self.own(DeviceMemory(self._driver, nbytes))

    def pinned(self, nbytes: int) -> HostMemory:
        """Page-locked host memory that the device reads and writes in place, zeroed.

        Raises:
            CudaError: there is not enough.
        """
        handle, array, address = self._driver.allocate_pinned(nbytes)
        array[:] = 0
        return self.own(HostMemory(self._driver.free_pinned, handle, array, address))

    def register(self, array: NDArray[np.uint8], read_only: bool = False) -> HostMemory:
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

    def module(self, image: bytes) -> Module:
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
