"""The engine's driver, the same for a board and for a simulation."""

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.bus import EngineBus, Memory
from perception_nodes.fpga.layout import (
    CAUSES,
    CONTROL_FIELDS,
    GEOMETRY_FIELDS,
    ID,
    STATUS_FIELDS,
    VERSION,
    Cause,
    Field,
    Register,
)
from perception_nodes.fpga.program import Geometry, Program

STALLS = tuple(
    (name.removeprefix("STALL_").lower(), register)
    for name, register in Register.__members__.items()
    if name.startswith("STALL_")
)
BUS_TIMEOUT_CYCLES = 1 << 16
PATIENCE_FACTOR = 4
"""A frame that takes this many times the expected cycles is a hang; memory may be slow."""
RESET_POLLS = 1000
LOW_WORD = (1 << 32) - 1


class EngineDriver:
    """Controls one engine and the program that it runs.

    Attributes:
        bus: access to the engine.
        geometry: geometry of the engine.
        program: the loaded program, None if there is none.
        memories: memory of the program, of the image and of the outputs.
        limit_cycles: cycles after which a frame counts as a hang.
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
        fields = {name: _bits(geometry, field) for name, field in GEOMETRY_FIELDS.items()}
        self.geometry = Geometry(
            fields["blocks"],
            fields["tile"],
            bus.read(Register.ROWS),
            2.0 * fields["clock_mhz"],
        )
        self.program: Program | None = None
        self.memories: list[Memory] = []
        self.limit_cycles = 0

    def load(self, program: Program) -> NDArray[np.uint8]:
        """Load a program into memory, after freeing that of an earlier one.

        Returns:
            The output memory, for `Output.fixed`.

        Raises:
            BackendError: the program is for another engine, or there is not enough memory.
        """
        if program.geometry != self.geometry:
            raise BackendError(
                f"fpga: the program is for {program.geometry}, and {self.bus.name} has "
                f"{self.geometry}; compile it again"
            )
        self.unload()
        image_bytes = program.height * program.width * 3
        for size in (len(program.content), image_bytes, program.output_bytes):
            self.memories.append(self.bus.allocate(size))
        content, _, output = self.memories
        content.array[:] = np.frombuffer(program.content, np.uint8)
        content.to_engine()
        output.to_engine()  # a cache line written back later would overwrite a result
        self.program = program
        self.limit_cycles = PATIENCE_FACTOR * program.cycles + 2 * BUS_TIMEOUT_CYCLES
        self._configure()
        return output.array

    def run(self, image: NDArray[np.uint8]) -> EngineCounters:
        """Run the network on a frame; the results are then in the output memory.

        Args:
            image: uint8 [height, width, 3] BGR.

        Raises:
            BackendError: the engine reports an error, or does not answer. It has been reset, and
                the next frame can run.
        """
        if self.program is None:
            raise BackendError("fpga: no program is loaded")
        _, pixels, output = self.memories
        pixels.array[:] = image.reshape(-1)
        pixels.to_engine()
        self._control("start")
        status = self._finished()
        if status is None:
            hard = self._reset()
            raise BackendError(
                f"fpga: {self.bus.name} did not finish a frame within "
                f"{self.limit_cycles} cycles, {PATIENCE_FACTOR} times the expected ones; {hard}"
            )
        if _bits(status, STATUS_FIELDS["error"]):
            raise BackendError(self._failure(status))
        self.bus.write(Register.STATUS, _mask(STATUS_FIELDS["done"]))
        output.from_engine()
        read = self.bus.read
        return EngineCounters(
            cycles=read(Register.CYCLES),
            clock_mhz=self.geometry.clock_mhz,
            simulated=self.bus.simulated,
            stalls=tuple((cause, read(register)) for cause, register in STALLS),
            bytes_read=read(Register.READ_BYTES),
            bytes_written=read(Register.WRITE_BYTES),
        )

    def unload(self) -> None:
        """Free the program's memory."""
        for memory in self.memories:
            memory.free()
        self.memories, self.program = [], None

    def close(self) -> None:
        """Free all memory and release the engine."""
        self.unload()
        self.bus.close()

    def _configure(self) -> None:
        """Write all addresses into the engine's registers."""
        assert self.program is not None
        registers = (Register.DESCRIPTORS_LOW, Register.IMAGE_LOW, Register.OUTPUT_LOW)
        for register, memory in zip(registers, self.memories, strict=True):
            self.bus.write(register, memory.address & LOW_WORD)
            self.bus.write(register + 4, memory.address >> 32)
        self.bus.write(Register.COUNT, self.program.descriptors)
        self.bus.write(Register.TIMEOUT, BUS_TIMEOUT_CYCLES)

    def _control(self, order: str) -> None:
        fields = (CONTROL_FIELDS[order], CONTROL_FIELDS["irq_enable"])
        self.bus.write(Register.CONTROL, sum(map(_mask, fields)))

    def _finished(self) -> int | None:
        """Wait until the status says done or error, and return it; None if it does not in time."""
        ended = _mask(STATUS_FIELDS["done"]) | _mask(STATUS_FIELDS["error"])
        waiting = True
        while waiting:
            waiting = self.bus.wait(self.limit_cycles, self.geometry.clock_mhz)
            # An interrupt may be lost, or may be an earlier one: only the status counts.
            status = self.bus.read(Register.STATUS)
            if status & ended:
                return status
        return None

    def _failure(self, status: int) -> str:
        """Describe the error that the engine reports, and reset the engine."""
        assert self.program is not None
        number = _bits(status, STATUS_FIELDS["cause"])
        index = _bits(status, STATUS_FIELDS["index"])
        name = Cause(number).name if number in CAUSES else str(number)
        layers = self.program.layers
        layer = f" ({layers[index].name})" if index < len(layers) else ""
        return (
            f"fpga: {self.bus.name} reports {name}, {CAUSES.get(number, 'unknown to us')}, "
            f"at descriptor {index}{layer}; {self._reset()}"
        )

    def _reset(self) -> str:
        """Stop the engine by its own reset, or else by that of the hardware; say which it was."""
        self._control("reset")
        for _ in range(RESET_POLLS):
            if not self.bus.read(Register.STATUS) & _mask(STATUS_FIELDS["busy"]):
                self.bus.write(
                    Register.STATUS,
                    _mask(STATUS_FIELDS["done"]) | _mask(STATUS_FIELDS["error"]),
                )
                return "it was reset"
        self.bus.reset()
        self._configure()
        return "it did not stop, and its hardware was reset"


def _bits(value: int, field: Field) -> int:
    return value >> field.low & ((1 << field.bits) - 1)


def _mask(field: Field) -> int:
    return ((1 << field.bits) - 1) << field.low
