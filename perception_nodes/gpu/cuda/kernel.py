"""Compiled kernels, and prepared launches of them."""

import ctypes

from perception_nodes.gpu.cuda.driver import LAUNCH_BUFFER, LAUNCH_BUFFER_SIZE, LAUNCH_END, Driver
from perception_nodes.gpu.cuda.memory import Resource
from perception_nodes.gpu.cuda.stream import Stream

Size3 = tuple[int, int, int]


class Launch:
    """A kernel with its grid and arguments; made by `Module.prepare`."""

    def __init__(
        self, driver: Driver, function: int, shape: tuple[int, ...], arguments: ctypes.Structure
    ) -> None:
        self._driver, self._function, self._shape = driver, function, shape
        size = ctypes.c_size_t(ctypes.sizeof(arguments))
        self._extra = (ctypes.c_void_p * 5)(
            LAUNCH_BUFFER,
            ctypes.addressof(arguments),
            LAUNCH_BUFFER_SIZE,
            ctypes.addressof(size),
            LAUNCH_END,
        )
        self._keep_alive = arguments, size

    def enqueue(self, stream: Stream) -> None:
        """Put the kernel on a stream, with the current values of the arguments."""
        extra = ctypes.addressof(self._extra)
        self._driver.cuLaunchKernel(self._function, *self._shape, 0, stream.handle, 0, extra)


class Module(Resource):
    """Compiled kernels on the device; made by `Device.module`."""

    def __init__(self, driver: Driver, image: bytes) -> None:
        self._driver = driver
        super().__init__(driver.cuModuleUnload, driver.cuModuleLoadData(image + b"\0"))

    def prepare(self, name: str, grid: Size3, threads: int, arguments: ctypes.Structure) -> Launch:
        """Prepare a launch that can be repeated.

        Args:
            name: name of the kernel, declared extern "C".
            grid: number of blocks in x, y, z.
            threads: number of threads of a block.
            arguments: one field for each parameter of the kernel, in the same order and of the same
                type (pointers as c_uint64). It is kept, and read at each launch.

        Raises:
            CudaError: there is no kernel of this name.
        """
        function = self._driver.cuModuleGetFunction(self.handle, name.encode())
        return Launch(self._driver, function, (*grid, threads, 1, 1), arguments)
