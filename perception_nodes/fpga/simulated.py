"""The simulated engine: its RTL, compiled by Verilator into a shared library.

The library's interface is `fpga/sim/engine_sim.h`. Registers are accessed through the engine's
AXI4-Lite port and memory through its AXI4 port, so for the driver the only difference to hardware
is the time that it takes.
"""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.bus import CLOCK_UNIT_MHZ
from perception_nodes.fpga.layout import GEOMETRY_FIELDS, Register

MEMORY_BYTES = 64 << 20
PAGE = 4096
RESPONSES = {-1: "no answer", 2: "SLVERR", 3: "DECERR"}
RESET_CYCLES = 16

_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "engine_create": (ctypes.c_void_p, [ctypes.c_uint64]),
    "engine_destroy": (None, [ctypes.c_void_p]),
    "engine_memory": (ctypes.POINTER(ctypes.c_uint8), [ctypes.c_void_p]),
    "engine_mmio_write": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]),
    "engine_mmio_read": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)],
    ),
    "engine_cycles": (ctypes.c_uint64, [ctypes.c_void_p]),
    "engine_step": (None, [ctypes.c_void_p, ctypes.c_uint64]),
    "engine_run_until_irq": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64]),
    "engine_reset": (None, [ctypes.c_void_p, ctypes.c_uint32]),
    "engine_set_latency": (
        None,
        [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64],
    ),
    "engine_set_backpressure": (None, [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64]),
    "engine_set_outstanding": (None, [ctypes.c_void_p, ctypes.c_uint32]),
    "engine_set_fault": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]),
    "engine_violations": (ctypes.c_uint64, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_char_p)]),
}


class SimulatedMemory:
    """A piece of the simulation's memory, which driver and engine access directly."""

    def __init__(
        self, array: NDArray[np.uint8], address: int, give_back: Callable[[], None]
    ) -> None:
        self.array, self.address = array, address
        self._give_back = give_back

    def to_engine(self) -> None:
        """Do nothing: there is no cache."""

    def from_engine(self) -> None:
        """Do nothing: there is no cache."""

    def free(self) -> None:
        """Free the memory."""
        self._give_back()


class SimulatedEngine:
    """A simulation of the engine.

    Attributes:
        name: file name of the library.
        simulated: True.
    """

    simulated = True

    def __init__(self, library: Path) -> None:
        """Start a simulation.

        Args:
            library: a shared library built by `make fpga-sim`.

        Raises:
            BackendError: the library does not exist or cannot be loaded.
        """
        if not library.is_file():
            raise BackendError(
                f"fpga: the simulated engine {library} is not there; build it with make fpga-sim "
                "in a checkout of the repository"
            )
        try:
            self._library = ctypes.CDLL(str(library.resolve()))
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(self._library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise BackendError(
                f"fpga: {library} cannot be loaded as a simulated engine ({error}); build it again "
                "with make fpga-sim"
            ) from error
        self.name = library.name
        self._engine: int | None = self._library.engine_create(MEMORY_BYTES)
        if not self._engine:
            raise BackendError(f"fpga: {library} cannot allocate {MEMORY_BYTES} bytes of memory")
        start = self._library.engine_memory(self._engine)
        self._memory: NDArray[np.uint8] = np.ctypeslib.as_array(start, (MEMORY_BYTES,))
        self._taken = self._pieces = 0
        geometry = self.read(Register.GEOMETRY)
        self._clock_mhz = CLOCK_UNIT_MHZ * GEOMETRY_FIELDS["clock_mhz"].of(geometry)

    def read(self, offset: int) -> int:
        """Read a register.

        Raises:
            BackendError: the engine does not answer, or answers with an error.
        """
        value = ctypes.c_uint32()
        answer = self._library.engine_mmio_read(self._engine, offset, ctypes.byref(value))
        self._check(answer, f"reading register 0x{offset:02X}")
        return value.value

    def write(self, offset: int, value: int) -> None:
        """Write a register.

        Raises:
            BackendError: the engine does not answer, or answers with an error.
        """
        answer = self._library.engine_mmio_write(self._engine, offset, value)
        self._check(answer, f"writing register 0x{offset:02X}")

    def allocate(self, size: int) -> SimulatedMemory:
        """Allocate the next piece of memory, zeroed.

        Raises:
            BackendError: there is not enough left.
        """
        begin, end = self._taken, self._taken + size
        if end > MEMORY_BYTES:
            raise BackendError(
                f"fpga: the simulated memory of {MEMORY_BYTES} bytes has no {size} left"
            )
        self._taken, self._pieces = -(-end // PAGE) * PAGE, self._pieces + 1
        self._memory[begin:end] = 0
        return SimulatedMemory(self._memory[begin:end], begin, self._given_back)

    def now_us(self) -> float:
        """Simulated time, at the clock that the engine is designed for."""
        return float(self._library.engine_cycles(self._engine)) / self._clock_mhz

    def sleep_us(self, duration_us: float) -> None:
        """Simulate for this long."""
        self._library.engine_step(self._engine, math.ceil(duration_us * self._clock_mhz))

    def tell_successors(self, is_stopped: bool) -> None:
        """Do nothing: a simulation ends with its process."""

    def run_until_irq(self, limit_cycles: int) -> bool:
        """Simulate until the interrupt; whether it came within `limit_cycles` cycles."""
        return bool(self._library.engine_run_until_irq(self._engine, limit_cycles))

    def reset(self) -> None:
        """Hold the engine in reset for `RESET_CYCLES` cycles."""
        self._library.engine_reset(self._engine, RESET_CYCLES)

    def close(self) -> None:
        """End the simulation; views of its memory become invalid."""
        if self._engine:
            self._library.engine_destroy(self._engine)
        self._engine = None

    def violations(self) -> str:
        """Number of violations of the bus protocol by the engine, and the first one; else empty."""
        first = ctypes.c_char_p()
        count = self._library.engine_violations(self._engine, ctypes.byref(first))
        return f"{count}: {(first.value or b'').decode()}" if count else ""

    def set_latency(self, smallest: int, largest: int, seed: int = 0) -> None:
        """Let the memory answer after a random number of cycles from this range."""
        self._library.engine_set_latency(self._engine, smallest, largest, seed)

    def set_backpressure(self, percent: int, seed: int = 0) -> None:
        """Let the memory withhold its handshakes in `percent` of all cycles."""
        self._library.engine_set_backpressure(self._engine, percent, seed)

    def set_outstanding(self, bursts: int) -> None:
        """Let the bus accept as many bursts of each direction before it answers the first."""
        self._library.engine_set_outstanding(self._engine, bursts)

    def set_fault(self, begin: int, end: int, response: int) -> None:
        """Answer addresses with an error: 2 SLVERR, 3 DECERR, -1 no answer; 0 removes the fault."""
        self._library.engine_set_fault(self._engine, begin, end, response)

    def _given_back(self) -> None:
        """Note that a piece was freed; the memory is reused when all pieces are free."""
        self._pieces -= 1
        if not self._pieces:
            self._taken = 0

    def _check(self, answer: int, what: str) -> None:
        if answer:
            response = RESPONSES.get(answer, str(answer))
            raise BackendError(f"fpga: {self.name}: {what} was answered with {response}")
