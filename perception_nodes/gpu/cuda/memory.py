"""What is opened on a device and given back, and the memory among it."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_nodes.gpu.cuda.driver_calls import Driver, Handle


class Resource:
    """Something of the driver's, closed once."""

    def __init__(self, close: Callable[[Handle], None], handle: Handle) -> None:
        """Take the driver's object and what gives it back."""
        self._close = close
        self._handle = handle
        self.closed = False

    def close(self) -> None:
        """Give it back; a second time is of no effect."""
        if not self.closed:
            self.closed = True
            self._close(self._handle)


ResourceT = TypeVar("ResourceT", bound=Resource)


class DeviceMemory(Resource):
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


class HostMemory(Resource):
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
