"""Compiled kernels, and prepared launches of them."""

import ctypes
from dataclasses import dataclass

from perception_nodes.gpu.cuda.driver_calls import Driver, Handle, Size3
from perception_nodes.gpu.cuda.memory import Resource
from perception_nodes.gpu.cuda.stream import Stream


@dataclass(frozen=True)
class KernelFacts:
    """Resources that a compiled kernel uses.

    Attributes:
        registers: registers per thread.
        spilled_bytes: local memory per thread; 0 if no register is spilled.
        shared_bytes: static shared memory per block.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int


class Launch:
    """A kernel with its grid and arguments; made by `Kernel.prepare`."""

    def __init__(self, driver: Driver, prepared: Handle) -> None:
        self._driver = driver
        self._prepared = prepared

    def enqueue(self, stream: Stream) -> None:
        """Put the kernel on a stream, with the current values of the arguments."""
        self._driver.launch(self._prepared, stream.handle)


class Kernel:
    """A function on the device; made by `Module.kernel`.

    Attributes:
        facts: resources that it uses.
    """

    def __init__(self, driver: Driver, handle: Handle) -> None:
        self._driver = driver
        self._handle = handle
        self.facts = KernelFacts(*driver.function_facts(handle))

    def prepare(
        self, grid: Size3, block: Size3, arguments: ctypes.Structure, shared_bytes: int = 0
    ) -> Launch:
        """Prepare a launch that can be repeated.

        Args:
            grid: number of blocks in x, y, z.
            block: number of threads per block in x, y, z.
            arguments: one field for each parameter of the kernel, in the same order and of the same
                type (pointers as c_uint64). It is kept, and read at each launch.
            shared_bytes: dynamic shared memory per block.
        """
        prepared = self._driver.prepare(self._handle, grid, block, arguments, shared_bytes)
        return Launch(self._driver, prepared)


class Module(Resource):
    """Compiled kernels on the device; made by `Device.module`."""

    def __init__(self, driver: Driver, image: bytes) -> None:
        self._driver = driver
        super().__init__(driver.close_module, driver.load_module(image + b"\0"))

    def kernel(self, name: str) -> Kernel:
        """Find a kernel, declared extern "C".

        Raises:
            CudaError: there is no kernel of this name.
        """
        return Kernel(self._driver, self._driver.function(self._handle, name))
