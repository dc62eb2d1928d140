"""A fake engine: registers around the plain interpreter; and a fake pynq with it in its bitstreams.

It keeps memory that was not flushed or not invalidated separate, as a cache does.
"""

import asyncio
import types
from pathlib import Path

import numpy as np
from interpreter import Interpreter

from perception_nodes.fpga import layout
from perception_nodes.fpga.layout import Register

BLOCKS, TILE, ROWS, CLOCK_MHZ = 2, 64, 28672, 250
START, RESET, BUSY, DONE, ERROR = 1, 2, 1, 2, 4


class FakeEngine:
    """Registers of an engine that computes a frame at once and then raises the interrupt.

    Attributes:
        fault: what the next frames meet: `""`, `hang`, `stuck` (a reset does not help either), or
            a cause.
    """

    def __init__(self):
        self.memory = {}  # address -> bytes as the engine sees them
        self.fault = ""
        self.resets = 0
        self.hardware_reset()

    def hardware_reset(self):
        self.registers = dict.fromkeys(Register, 0)
        self.registers[Register.ID] = layout.ID
        self.registers[Register.VERSION] = layout.VERSION
        self.registers[Register.GEOMETRY] = BLOCKS | TILE << 8 | CLOCK_MHZ // 2 << 24
        self.registers[Register.ROWS] = ROWS
        self.raised = False

    def read(self, offset):
        return self.registers[offset]

    def write(self, offset, value):
        if offset == Register.CONTROL:
            if value & RESET and self.fault != "stuck":
                self.registers[Register.STATUS] &= ~BUSY
                self.resets += 1
            if value & START and not self.registers[Register.STATUS] & BUSY:
                self.start()
        elif offset == Register.STATUS:
            self.registers[Register.STATUS] &= ~(value & (DONE | ERROR))
        else:
            self.registers[offset] = value

    def start(self):
        self.raised = False
        if self.fault in ("hang", "stuck"):
            self.registers[Register.STATUS] = BUSY
            return
        if self.fault:
            cause = layout.Cause[self.fault]
            self.registers[Register.STATUS] = ERROR | cause << 8 | 3 << 16
        else:
            content, image, output = (
                self.memory[self.registers[low] | self.registers[low + 4] << 32]
                for low in (Register.DESCRIPTORS_LOW, Register.IMAGE_LOW, Register.OUTPUT_LOW)
            )
            words = content[: layout.DESCRIPTOR_BYTES].view("<u4")
            width, height = int(words[1]) & 0xFFFF, int(words[1]) >> 16
            engine = Interpreter(ROWS, BLOCKS, TILE)
            count = self.registers[Register.COUNT]
            pixels = image.reshape(height, width, 3)
            output[:] = engine.run(content.tobytes(), count, pixels, len(output))
            self.registers[Register.STATUS] = DONE
            self.registers[Register.CYCLES] = 1_000_000
            self.registers[Register.STALL_PORT] = 77
        self.raised = True


class Buffer(np.ndarray):
    """The result of pynq.allocate: memory behind a cache."""

    def flush(self):
        self.engine.memory[self.device_address][:] = self

    def invalidate(self):
        self[:] = self.engine.memory[self.device_address]

    def freebuffer(self):
        del self.engine.memory[self.device_address]


def fake_pynq(engine, lost_interrupts=0, largest=1 << 30):
    """A module pynq whose bitstreams have `engine` as engine_0."""
    lost = iter(range(lost_interrupts))

    class Interrupt:
        async def wait(self):
            # As in PYNQ: it works only in the loop that waits, and a lost interrupt never arrives.
            while not engine.raised or next(lost, None) is not None:
                engine.raised = False
                await asyncio.sleep(0.001)

    class Overlay:
        def __init__(self, path):
            name = Path(path).name
            if "broken" in name:
                raise RuntimeError("no bitstream\nat all")
            if "other" not in name:
                self.engine_0 = types.SimpleNamespace(
                    read=engine.read, write=engine.write, interrupt=Interrupt()
                )

        def download(self):
            engine.hardware_reset()

    def allocate(shape, dtype):
        if shape[0] > largest:
            raise MemoryError("no CMA")
        buffer = np.full(shape, 0xAA, dtype).view(Buffer)
        buffer.engine = engine
        buffer.device_address = (1 << 33) + 4096 * len(engine.memory) * 1024
        engine.memory[buffer.device_address] = np.full(shape, 0x55, np.uint8)
        return buffer

    return types.SimpleNamespace(Overlay=Overlay, allocate=allocate)


def named(name, folder, monkeypatch):
    """A bitstream of this name, which is selected by the environment variable."""
    path = folder / name
    path.touch()
    path.with_suffix(".hwh").touch()
    monkeypatch.setenv("PERCEPTION_FPGA", str(path))
    return path
