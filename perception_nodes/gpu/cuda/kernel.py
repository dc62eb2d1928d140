"""Compiled kernels, and launches of them that are ready to be put on a stream."""

import ctypes
from dataclasses import dataclass

from perception_nodes.gpu.cuda.driver_calls import Driver, Handle, Size3
from perception_nodes.gpu.cuda.memory import Resource
from perception_nodes.gpu.cuda.stream import Stream


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


class Module(Resource):
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
