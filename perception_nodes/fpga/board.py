"""The engine in a board's FPGA, through PYNQ: Overlay, MMIO and allocate.

PYNQ (github.com/Xilinx/PYNQ) exists only on the boards that it is made for, so it is imported when
a board's engine is opened.
"""

import fcntl
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.bus import NEVER_STOPS

ENGINE = "engine_0"
"""The engine's name in the block design, see `fpga/vivado`."""
LOCK = Path("/run/lock/perception_fpga.lock")
"""Locked by the process that has loaded a bitstream, until it ends: there is one FPGA.

It has that process's number, and `STUCK` if the engine does not stop. A restart removes it.
"""
STUCK = "stuck"


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

    All engines that a process opens are the same one.

    Attributes:
        name: file name of the bitstream.
        simulated: False.
        pynq: the module.
    """

    simulated = False

    def __init__(self, bitstream: Path) -> None:
        """Load a bitstream, unless this process has done so.

        Args:
            bitstream: a .bit file with its .hwh file beside it.

        Raises:
            BackendError: PYNQ is not installed, another process has the engine, or the bitstream
                cannot be used.
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
        self.pynq = pynq
        place = _loaded(bitstream.resolve()).ip_dict.get(ENGINE)
        if place is None:
            raise BackendError(f"fpga: {bitstream} has no {ENGINE}; build it with fpga/vivado")
        self._registers = pynq.MMIO(place["phys_addr"], place["addr_range"]).array

    def read(self, offset: int) -> int:
        """Read a register."""
        return int(self._registers[offset >> 2])

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self._registers[offset >> 2] = value

    def allocate(self, size: int) -> BoardMemory:
        """Allocate contiguous memory, zeroed.

        Raises:
            BackendError: there is not enough left.
        """
        try:
            # By default the memory is not cached, and reading the outputs would take milliseconds.
            buffer = self.pynq.allocate(shape=(size,), dtype=np.uint8, cacheable=1)
        except (MemoryError, RuntimeError) as error:
            raise BackendError(
                f"fpga: the board has no {size} bytes of contiguous memory left ({error}); end "
                "other programs that use it, or give the kernel more (boot argument cma=)"
            ) from error
        memory = BoardMemory(buffer)
        memory.array[:] = 0
        return memory

    def now_us(self) -> float:
        """Monotonic time."""
        return time.monotonic_ns() / 1e3

    def sleep_us(self, duration_us: float) -> None:
        """Sleep at least this long."""
        time.sleep(duration_us / 1e6)

    def tell_successors(self, is_stopped: bool) -> None:
        """Note in the lock's file whether later processes may load a bitstream."""
        _sign(_lock(), "" if is_stopped else STUCK)

    def close(self) -> None:
        """Do nothing: the bitstream stays loaded, for other models and until the process ends."""


@cache
def _loaded(bitstream: Path) -> Any:
    """The overlay of a bitstream, which is loaded once in a process."""
    import pynq

    _lock()
    try:
        return pynq.Overlay(str(bitstream))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BackendError(f"fpga: {bitstream} cannot be loaded: {reason}") from error


@cache
def _lock() -> int:
    """Lock the FPGA for this process; to load a bitstream would end another one's frame."""
    try:
        descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BackendError(f"fpga: {LOCK}: {error.strerror}; run perception as root") from error
    problem = ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = "uses the FPGA; stop it first"
    holder, _, state = os.pread(descriptor, 40, 0).decode().partition(" ")
    if not problem and state == STUCK:
        problem = f"has left the engine running, and {NEVER_STOPS}"
    if problem:
        os.close(descriptor)
        raise BackendError(f"fpga: process {holder} {problem}")
    _sign(descriptor)
    return descriptor


def _sign(descriptor: int, state: str = "") -> None:
    """Write this process, and the state of its engine, into the lock's file."""
    text = f"{os.getpid()} {state}".encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
