"""The engine's driver, the same for a board and for a simulation."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.bus import CLOCK_UNIT_MHZ, NEVER_STOPS, EngineBus, Memory
from perception_nodes.fpga.layout import (
    CAUSES,
    CONTROL_FIELDS,
    GEOMETRY_FIELDS,
    ID,
    STATUS_FIELDS,
    VERSION,
    Cause,
    Register,
)
from perception_nodes.fpga.program import Geometry, Program

STALLS = tuple(
    (name.removeprefix("STALL_").lower(), register)
    for name, register in Register.__members__.items()
    if name.startswith("STALL_")
)
BUSY = STATUS_FIELDS["busy"].mask
ENDED = STATUS_FIELDS["done"].mask | STATUS_FIELDS["error"].mask
BUS_TIMEOUT_CYCLES = 1 << 16
PATIENCE_FACTOR = 4
"""A frame that takes this many times as long as expected is a hang; memory may be slow."""
CERTAIN_SHARE = 0.95
"""Share of the expected time for which a frame certainly runs."""
POLL_US = 50.0
"""Pause between two looks at the status of a frame that should have ended."""
RESET_POLLS = 1000
_lost: list[Memory] = []
"""Memory into which an engine that did not stop may still write; kept until the process ends."""
LOW_WORD = (1 << 32) - 1


class Slot(NamedTuple):
    """Memory for one frame: its image, and then its outputs."""

    image: Memory
    output: Memory


class EngineDriver:
    """Controls one engine and the program that it runs.

    A frame is put into a slot, started and finished. While it runs, the next frame can be put into
    another slot and the results of the one before can be read.

    Attributes:
        bus: access to the engine.
        geometry: geometry of the engine.
        program: the loaded program, None if there is none.
        slots: memory of the frames.
        limit_us: time after which a frame counts as a hang.
    """

    def __init__(self, bus: EngineBus) -> None:
        """Read the engine's identity and geometry.

        Raises:
            BackendError: there is no engine of ours, or its layout is another one.
        """
        self.bus = bus
        found = bus.read(Register.ID)
        if found != ID:
            raise BackendError(
                f"fpga: {bus.name} answers with ID 0x{found:08X}, not 0x{ID:08X}: there is "
                "no engine of ours in it"
            )
        version = bus.read(Register.VERSION)
        if version != VERSION:
            raise BackendError(
                f"fpga: {bus.name} has an engine of layout {version}, the driver needs layout "
                f"{VERSION}; build the engine from the same checkout"
            )
        geometry = bus.read(Register.GEOMETRY)
        fields = {name: field.of(geometry) for name, field in GEOMETRY_FIELDS.items()}
        self.geometry = Geometry(
            fields["blocks"],
            fields["tile"],
            bus.read(Register.ROWS),
            CLOCK_UNIT_MHZ * fields["clock_mhz"],
        )
        self.program: Program | None = None
        self.slots: list[Slot] = []
        self._content: Memory | None = None
        self._memories: list[Memory] = []
        self._running: Slot | None = None
        self._stopped = True  # False: a reset did not help
        self._started_us = self._certain_us = self.limit_us = 0.0

    def load(self, program: Program, slots: int = 1) -> None:
        """Load a program into memory, after freeing that of an earlier one.

        Raises:
            BackendError: the program is for another engine, or there is not enough memory.
        """
        if program.geometry != self.geometry:
            raise BackendError(
                f"fpga: the program is for {program.geometry}, and {self.bus.name} has "
                f"{self.geometry}; compile it again"
            )
        self.unload()
        self._content = self._allocate(len(program.content))
        self._content.array[:] = np.frombuffer(program.content, np.uint8)
        self._content.to_engine()
        for _ in range(slots):
            image = self._allocate(program.height * program.width * 3)
            self.slots.append(Slot(image, self._allocate(program.output_bytes)))
            # A cache line that is written back later would overwrite a result.
            self.slots[-1].output.to_engine()
        self.program = program
        expected_us = program.cycles / self.geometry.clock_mhz
        self._certain_us = CERTAIN_SHARE * expected_us
        timeout_us = BUS_TIMEOUT_CYCLES / self.geometry.clock_mhz
        self.limit_us = PATIENCE_FACTOR * expected_us + 2 * timeout_us

    def put(self, slot: Slot, image: NDArray[np.uint8]) -> None:
        """Copy an image into a slot that does not run.

        Args:
            slot: one of `slots`.
            image: uint8 [height, width, 3] BGR.
        """
        slot.image.array[:] = image.reshape(-1)
        slot.image.to_engine()

    def start(self, slot: Slot) -> None:
        """Run the network on a slot's image.

        An earlier frame that nobody waited for is stopped first, even if another driver started it.

        Raises:
            BackendError: an earlier frame does not end, and a reset does not help.
        """
        assert self.program is not None
        assert self._content is not None
        if not self._stopped or self.bus.read(Register.STATUS) & BUSY:
            self._reset()
        if not self._stopped:
            raise BackendError(f"fpga: {self.bus.name} is busy; {NEVER_STOPS}")
        write = self.bus.write
        # All of them, since another driver or a reset may have changed them.
        for register, memory in (
            (Register.DESCRIPTORS_LOW, self._content),
            (Register.IMAGE_LOW, slot.image),
            (Register.OUTPUT_LOW, slot.output),
        ):
            write(register, memory.address & LOW_WORD)
            write(register + 4, memory.address >> 32)
        write(Register.COUNT, self.program.descriptors)
        write(Register.TIMEOUT, BUS_TIMEOUT_CYCLES)
        self._running, self._started_us = slot, self.bus.now_us()
        write(Register.CONTROL, CONTROL_FIELDS["start"].mask)

    def finish(self) -> EngineCounters:
        """Wait for the frame that was started; its outputs are then in its slot.

        Raises:
            BackendError: the engine reports an error, does not end, or has not written all outputs.
                It has been reset, and the next frame can run, unless the error says that it does
                not stop.
        """
        assert self._running is not None
        assert self.program is not None
        status = self._ended()
        if status is None:
            raise BackendError(
                f"fpga: {self.bus.name} did not finish a frame within {self.limit_us / 1e3:.1f} "
                f"ms, {PATIENCE_FACTOR} times the expected time; {self._reset()}"
            )
        if status & STATUS_FIELDS["error"].mask:
            raise BackendError(self._failure(status))
        written, wanted = self.bus.read(Register.WRITE_BYTES), self.program.written_bytes
        if written != wanted:  # what is in memory would be those of an earlier frame
            raise BackendError(
                f"fpga: {self.bus.name} says that a frame is done, and has written {written} bytes "
                f"of its {wanted}; {self._reset()}"
            )
        self.bus.write(Register.STATUS, ENDED)
        self._running.output.from_engine()
        self._running = None
        read = self.bus.read
        return EngineCounters(
            cycles=read(Register.CYCLES),
            clock_mhz=self.geometry.clock_mhz,
            simulated=self.bus.simulated,
            stalls=tuple((cause, read(register)) for cause, register in STALLS),
            bytes_read=read(Register.READ_BYTES),
            bytes_written=written,
        )

    def unload(self) -> None:
        """Free the program's memory, after stopping a frame that still writes into it."""
        if self._running is not None or not self._stopped:
            self._reset()
        if self._stopped:
            for memory in self._memories:
                memory.free()
        else:
            _lost.extend(self._memories)
        self._memories, self.slots, self._content, self.program = [], [], None, None

    def close(self) -> None:
        """Free all memory and release the engine."""
        self.unload()
        self.bus.close()

    def _allocate(self, size: int) -> Memory:
        memory = self.bus.allocate(size)
        self._memories.append(memory)
        return memory

    def _ended(self) -> int | None:
        """Wait until the status says done or error, and return it; None if it does not in time."""
        while True:
            # Before the look: this process may be suspended between the two.
            passed_us = self.bus.now_us() - self._started_us
            status = self.bus.read(Register.STATUS)
            if status & ENDED:
                return status
            if passed_us > self.limit_us:
                return None
            self.bus.sleep_us(max(self._certain_us - passed_us, POLL_US))

    def _failure(self, status: int) -> str:
        """Describe the error that the engine reports, and reset the engine."""
        assert self.program is not None
        number, index = STATUS_FIELDS["cause"].of(status), STATUS_FIELDS["index"].of(status)
        name = Cause(number).name if number in CAUSES else str(number)
        layers = self.program.layers
        layer = f" ({layers[index].name})" if index < len(layers) else ""
        return (
            f"fpga: {self.bus.name} reports {name}, {CAUSES.get(number, 'unknown to us')}, "
            f"at descriptor {index}{layer}; {self._reset()}"
        )

    def _reset(self) -> str:
        """Stop the engine, unless memory keeps it from that; say so."""
        self._running = None
        self.bus.write(Register.CONTROL, CONTROL_FIELDS["reset"].mask)
        for _ in range(RESET_POLLS):
            self._stopped = not self.bus.read(Register.STATUS) & BUSY
            if self._stopped:
                self.bus.write(Register.STATUS, ENDED)
                self.bus.tell_successors(True)
                return "it was reset"
        self.bus.tell_successors(False)
        return NEVER_STOPS
