"""How the driver reaches an engine: its registers, memory that both see, and its interrupt."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Memory(Protocol):
    """Memory that the processor and the engine both see.

    Attributes:
        array: as the processor sees it, uint8 [bytes].
        address: of its first byte, as the engine sees it.
    """

    array: NDArray[np.uint8]
    address: int

    def to_engine(self) -> None:
        """What was written is seen by the engine from here on."""
        ...

    def from_engine(self) -> None:
        """What the engine wrote is seen from here on."""
        ...

    def free(self) -> None:
        """Give it back."""
        ...


class EngineBus(Protocol):
    """An engine within reach.

    Attributes:
        name: of the engine, for people.
        simulated: no hardware runs.
    """

    name: str
    simulated: bool

    def read(self, offset: int) -> int:
        """A register, 32 bits."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write a register, 32 bits."""
        ...

    def allocate(self, size: int) -> Memory:
        """Get memory, so many bytes, zeroed.

        Raises:
            BackendError: there is none left.
        """
        ...

    def wait(self, limit_cycles: int, clock_mhz: float) -> bool:
        """Wait for the interrupt, for so many cycles of the engine at most.

        Returns:
            Whether it may have come; an interrupt of earlier may be meant, so look.
        """
        ...

    def reset(self) -> None:
        """Reset the hardware; registers forget what was written."""
        ...

    def close(self) -> None:
        """Let go of the engine."""
        ...
