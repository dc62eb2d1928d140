"""Resources of a device that must be closed, and memory as one kind of them."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda.driver import Driver

ALIGNMENT = 256


class Resource:
    """An object of the driver, with the function that closes it.

    Attributes:
        handle: the driver's handle of it, or its address.
    """

    def __init__(self, close: Callable[[int], None], handle: int) -> None:
        self._close = close
        self.handle = handle
        self.closed = False

    def close(self) -> None:
        """Close the object; a second call has no effect."""
        if not self.closed:
            self.closed = True
            self._close(self.handle)


ResourceT = TypeVar("ResourceT", bound=Resource)


class DeviceMemory(Resource):
    """Memory of the device; made by `Device.memory`.

    Attributes:
        address: device address.
        nbytes: size in bytes.
    """

    def __init__(self, driver: Driver, nbytes: int) -> None:
        self.address: int = driver.cuMemAlloc(nbytes)
        self.nbytes = nbytes
        super().__init__(driver.cuMemFree, self.address)


class HostMemory(Resource):
    """Page-locked host memory that the device sees; see `Device.pinned` and `Device.register`.

    Attributes:
        array: the memory as flat uint8; it must not be used after `close`.
        address: device address.
        nbytes: size in bytes.
    """

    def __init__(
        self, driver: Driver, close: Callable[[int], None], array: NDArray[np.uint8]
    ) -> None:
        self.array = array
        self.nbytes = array.nbytes
        super().__init__(close, array.ctypes.data)
        self.address: int = driver.cuMemHostGetDevicePointer(self.handle, 0)


def packed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Aligned offsets of arrays of these sizes in one block of memory, and its total size."""
    ends = list(accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes))
    return [0, *ends[:-1]], ends[-1]
