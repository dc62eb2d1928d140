"""A GPU, and the owner of all that is opened on it."""

import ctypes
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda import driver as api
from perception_nodes.gpu.cuda.errors import CudaError, driver_too_old
from perception_nodes.gpu.cuda.kernel import Module
from perception_nodes.gpu.cuda.memory import DeviceMemory, HostMemory, Resource, ResourceT
from perception_nodes.gpu.cuda.stream import Event, Stream


@dataclass(frozen=True)
class DeviceFacts:
    """Facts about a GPU.

    Attributes:
        name: name of the product.
        sm: compute capability, 87 for 8.7.
        memory_bytes: memory of the device; on a Jetson that of the whole machine.
        integrated: whether host and device share memory, so that mapped memory crosses no bus.
        driver_cuda: CUDA version that the driver supports, 13000 for 13.0.
        through: Python module in use, with its version.
    """

    name: str
    sm: int
    memory_bytes: int
    integrated: bool
    driver_cuda: int
    through: str


class Device:
    """A GPU with its primary context, and the owner of all that is opened on it.

    The context belongs to a thread: another library may have set its own, so whoever is called from
    elsewhere calls `make_current` first.
    """

    def __init__(self, driver: api.Driver) -> None:
        """Open the first GPU; see `open_device`."""
        self._driver = driver
        self._ordinal = ordinal = driver.cuDeviceGet(0)
        integrated, major, minor = (driver.cuDeviceGetAttribute(n, ordinal) for n in api.Attribute)
        self.facts = DeviceFacts(
            driver.cuDeviceGetName(api.NAME_BYTES, ordinal).split(b"\0")[0].decode(),
            10 * major + minor,
            driver.cuDeviceTotalMem(ordinal),
            bool(integrated),
            driver.cuDriverGetVersion(),
            driver.through,
        )
        # A thread that waits must leave its processor: under SCHED_FIFO it would starve all others.
        driver.cuDevicePrimaryCtxSetFlags(ordinal, api.CONTEXT_BLOCKING_SYNC)
        self._context = driver.cuDevicePrimaryCtxRetain(ordinal)
        self.make_current()
        self._resources: list[Resource] = []
        self._closed = False

    def require_cuda(self, version: int, who: str) -> None:
        """Check that the driver supports the CUDA version that a library is made for.

        It supports all minor versions of its own major version.

        Args:
            version: CUDA version, 13000 for 13.0.
            who: name of the library, for the error.

        Raises:
            CudaError: the driver is too old.
        """
        if self.facts.driver_cuda // 1000 < version // 1000:
            raise driver_too_old(self.facts.driver_cuda, version, who)

    def make_current(self) -> None:
        """Let this thread use the device."""
        self._driver.cuCtxSetCurrent(self._context)

    def stream(self) -> Stream:
        """Open a stream, a queue of work."""
        return self.own(Stream(self._driver, self.own))

    def event(self) -> Event:
        """Open an event, a mark on a stream that records the time."""
        return self.own(Event(self._driver))

    def memory(self, nbytes: int) -> DeviceMemory:
        """Allocate memory of the device.

        Raises:
            CudaError: there is not enough.
        """
        return self.own(DeviceMemory(self._driver, nbytes))

    def pinned(self, nbytes: int) -> HostMemory:
        """Allocate page-locked host memory, zeroed, which the device reads and writes in place.

        Raises:
            CudaError: there is not enough.
        """
        start = self._driver.cuMemHostAlloc(nbytes, api.MAPPED)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(start))
        array[:] = 0
        return self.own(HostMemory(self._driver, self._driver.cuMemFreeHost, array))

    def register(self, array: NDArray[np.uint8], read_only: bool = False) -> HostMemory:
        """Let the device use existing host memory, such as a slot, in place.

        The result must be closed before the memory is freed or unmapped. Memory that is registered
        already is refused.

        Args:
            array: uint8, contiguous; its pages become locked in memory.
            read_only: whether the memory is mapped read-only in this process, and so for the
                device.

        Raises:
            CudaError: the driver refuses, or the device does not support it.
        """
        if not array.flags.c_contiguous:
            raise CudaError("memory to be registered must be contiguous")
        flags = api.MAPPED | (api.READ_ONLY if read_only else 0)
        self._driver.cuMemHostRegister(array.ctypes.data, array.nbytes, flags)
        unregister = self._driver.cuMemHostUnregister
        return self.own(HostMemory(self._driver, unregister, array.reshape(-1)))

    def module(self, image: bytes) -> Module:
        """Load compiled kernels: a cubin, a fatbin, or PTX text.

        Raises:
            CudaError: the image is not for this device, or is damaged.
        """
        return self.own(Module(self._driver, image))

    def close(self) -> None:
        """Close everything that was opened on the device, the newest first, and its context."""
        if self._closed:
            return
        self._closed = True
        for resource in reversed(self._resources):
            with suppress(CudaError):
                # After a kernel has failed, every call fails, including freeing memory.
                resource.close()
        self._resources.clear()
        self._driver.cuDevicePrimaryCtxRelease(self._ordinal)

    def own(self, resource: ResourceT) -> ResourceT:
        """Let a resource be closed with the device, unless it is closed earlier."""
        self._resources = [known for known in self._resources if not known.closed]
        self._resources.append(resource)
        return resource


def open_device() -> Device:
    """Open the first GPU that CUDA_VISIBLE_DEVICES leaves, through PyCUDA or else cuda-bindings.

    Raises:
        CudaError: neither module is installed, the driver is missing or too old, or there is no
            such GPU.
    """
    return Device(api.load_driver())
