"""The engine in a board's FPGA, through PYNQ: Overlay, allocate, registers and the interrupt.

PYNQ (github.com/Xilinx/PYNQ) exists only on the boards that it is made for, so it is imported when
a board's engine is opened.
"""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.inference import BackendError

ENGINE = "engine_0"
"""The engine's name in the block design, see `fpga/vivado`."""
MARGIN_S = 0.005
"""Time until a thread on a busy processor is notified of an interrupt."""


class BoardMemory:
    """Contiguous memory of the board: a `pynq.buffer.PynqBuffer` of bytes."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.array: NDArray[np.uint8] = np.asarray(buffer)
        self.address = int(buffer.device_address)

    def to_engine(self) -> None:
        """Write the processor's cache of this memory back."""
        self._buffer.flush()

    def from_engine(self) -> None:
        """Invalidate the processor's cache of this memory."""
        self._buffer.invalidate()

    def free(self) -> None:
        """Free the memory; nothing may use it any more."""
        self._buffer.freebuffer()


class BoardEngine:
    """The engine in a bitstream that is loaded into the FPGA.

    Attributes:
        name: file name of the bitstream.
        simulated: False.
    """

    simulated = False

    def __init__(self, bitstream: Path) -> None:
        """Load a bitstream.

        Args:
            bitstream: a .bit file with its .hwh file beside it.

        Raises:
            BackendError: PYNQ is not installed, or the bitstream cannot be used.
        """
        try:
            import pynq
        except ImportError as error:
            raise BackendError(
                f"fpga: {bitstream} needs PYNQ, which cannot be imported ({error}); it comes with "
                "PYNQ for Kria (github.com/Xilinx/Kria-PYNQ): run perception with that Python, as "
                "root"
            ) from error
        for file in (bitstream, bitstream.with_suffix(".hwh")):
            if not file.is_file():
                raise BackendError(
                    f"fpga: {file} is not there; fpga/vivado/README.md says how to build it"
                )
        self.name = bitstream.name
        self._pynq = pynq
        # PYNQ binds an interrupt to the event loop that is set when the overlay is loaded.
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        try:
            self._overlay = pynq.Overlay(str(bitstream))
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BackendError(f"fpga: {bitstream} cannot be loaded: {reason}") from error
        try:
            self._engine = getattr(self._overlay, ENGINE)
            self._interrupt = self._engine.interrupt
        except AttributeError as error:
            raise BackendError(
                f"fpga: {bitstream} has no {ENGINE} with an interrupt; build it with fpga/vivado"
            ) from error

    def read(self, offset: int) -> int:
        """Read a register."""
        return int(self._engine.read(offset))

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self._engine.write(offset, value)

    def allocate(self, size: int) -> BoardMemory:
        """Allocate contiguous memory, zeroed.

        Raises:
            BackendError: there is not enough left.
        """
        try:
            buffer = self._pynq.allocate(shape=(size,), dtype=np.uint8)
        except (MemoryError, RuntimeError) as error:
            raise BackendError(
                f"fpga: the board has no {size} bytes of contiguous memory left ({error}); end "
                "other programs that use it, or give the kernel more (boot argument cma=)"
            ) from error
        memory = BoardMemory(buffer)
        memory.array[:] = 0
        return memory

    def wait(self, limit_cycles: int, clock_mhz: float) -> bool:
        """Wait for the interrupt; see `EngineBus.wait`."""
        limit_s = limit_cycles / clock_mhz / 1e6 + MARGIN_S
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._interrupt.wait(), limit_s))
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            return False
        return True

    def reset(self) -> None:
        """Load the bitstream again."""
        self._overlay.download()

    def close(self) -> None:
        """Close the event loop; the bitstream stays loaded."""
        self._loop.close()
