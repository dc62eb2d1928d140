"""The driver's access to an engine: its registers, shared memory, and its time."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CLOCK_UNIT_MHZ = 2.0
"""Unit of the clock in the engine's register GEOMETRY."""
NEVER_STOPS = (
    "it does not stop, because memory does not answer it: restart the machine (a bitstream that is "
    "loaded now would hang it)"
)


class Memory(Protocol):
    """Memory that the processor and the engine share.

    Attributes:
        array: the memory as the processor sees it, uint8 [bytes].
        address: address of its first byte for the engine.
    """

    array: NDArray[np.uint8]
    address: int

    def to_engine(self) -> None:
        """Make what the processor has written visible to the engine."""
        ...

    def from_engine(self) -> None:
        """Make what the engine has written visible to the processor."""
        ...

    def free(self) -> None:
        """Free the memory."""
        ...


class EngineBus(Protocol):
    """Access to one engine, on a board or simulated.

    Attributes:
        name: name of the engine, for people.
        simulated: whether it is a simulation.
    """

    name: str
    simulated: bool

    def read(self, offset: int) -> int:
        """Read a register, 32 bits."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write a register, 32 bits."""
        ...

    def allocate(self, size: int) -> Memory:
        """Allocate `size` bytes of memory, zeroed.

        Raises:
            BackendError: there is not enough left.
        """
        ...

    def now_us(self) -> float:
        """The time in microseconds since some fixed moment; simulated time for a simulation."""
        ...

    def sleep_us(self, duration_us: float) -> None:
        """Let the engine run for this long; a board may sleep longer."""
        ...

    def tell_successors(self, is_stopped: bool) -> None:
        """Let later processes know whether the engine has stopped when it was reset."""
        ...

    def close(self) -> None:
        """Release the engine."""
        ...
