"""A fake engine, registers around the plain interpreter; and a fake PYNQ with it in its bitstreams.

The fake PYNQ does what PYNQ 3.0.1 does, which Kria-PYNQ installs, read from its source: overlay.py,
mmio.py, buffer.py and pl_server/ of github.com/Xilinx/PYNQ. Where a real board would crash or spoil
memory, the fake fails.
"""

import os
import threading
import types
from itertools import count
from pathlib import Path

import numpy as np
from interpreter import Interpreter

from perception_nodes.fpga import board, layout
from perception_nodes.fpga.layout import Register

BLOCKS, TILE, ROWS, CLOCK_MHZ = 2, 64, 28672, 250
START, RESET, BUSY, DONE, ERROR = 1, 2, 1, 2, 4
BASE = 0xA000_0000
READ_US = 1
COMPUTED = {}
"""Outputs by content of the memory and image: the interpreter is slow."""
LINE_BYTES = 64
"""A line of the processor's caches."""


class FakeEngine:
    """Registers of an engine.

    Attributes:
        memory: bytes as the engine sees them, by address.
        built: the registers that tell what was built.
        buffers: what `allocate` gave to the processor, by address.
        fault: what the next frames meet: `""`, `hang`, `stuck` (a reset does not help either),
            `idle` (they end, and nothing is written), or a cause.
        resets, downloads: how often the engine was reset, and a bitstream loaded.
        time_us: the time; it passes while the driver sleeps or reads.
        descriptor_cycles, clock_mhz: how long a descriptor of a frame takes.
        looks: how often the status was read while a frame ran.
    """

    def __init__(self):
        self.memory, self.buffers = {}, {}
        self.fault = ""
        self.time_us = self.looks = 0
        self.descriptor_cycles, self.clock_mhz = 8700, CLOCK_MHZ
        self.resets = self.downloads = 0
        self.built = {
            Register.ID: layout.ID,
            Register.VERSION: layout.VERSION,
            Register.GEOMETRY: BLOCKS | TILE << 8 | CLOCK_MHZ // 2 << 24,
            Register.ROWS: ROWS,
        }
        self.hardware_reset()

    def hardware_reset(self):
        self.registers = dict.fromkeys(Register, 0) | self.built

    @property
    def frame_cycles(self):
        return round(self.descriptor_cycles * self.registers[Register.COUNT])

    @property
    def busy(self):
        return bool(self.registers[Register.STATUS] & BUSY)

    def read(self, offset):
        self.time_us += READ_US
        if offset == Register.STATUS and self.busy:
            self.looks += 1
            if self.time_us >= self.ends_us and self.fault not in ("hang", "stuck"):
                self.end()
        return self.registers[offset]

    def write(self, offset, value):
        if offset == Register.CONTROL:
            if value & RESET and self.fault != "stuck":
                self.registers[Register.STATUS] = 0
                self.resets += 1
            if value & START and not self.registers[Register.COUNT]:
                self.registers[Register.STATUS] = ERROR | layout.Cause.EMPTY << 8
            elif value & START and not self.busy:
                self.registers[Register.WRITE_BYTES] = 0
                self.registers[Register.STATUS] = BUSY
                self.ends_us = self.time_us + self.frame_cycles / self.clock_mhz
        elif offset == Register.STATUS:
            self.registers[Register.STATUS] &= ~(value & (DONE | ERROR))
        else:
            self.registers[offset] = value

    def sleep(self, duration_us):
        self.time_us += duration_us

    def at(self, low):
        return self.memory[self.registers[low] | self.registers[low + 4] << 32]

    def refusal(self, words):
        """The cause for which the first descriptor is refused, of those that need no context."""
        if words[0] >> 8 & 0xFF != layout.VERSION:
            return layout.Cause.VERSION
        return 0 if words[0] & 0xFF == layout.Opcode.LOAD else layout.Cause.OPCODE

    def end(self):
        """Compute the frame with what is in memory by now: nothing may change while it runs."""
        if self.fault not in ("", "idle"):
            cause = layout.Cause[self.fault]
            self.registers[Register.STATUS] = ERROR | cause << 8 | 3 << 16
            return
        content = self.at(Register.DESCRIPTORS_LOW)
        words = content[: layout.DESCRIPTOR_BYTES].view("<u4")
        if cause := self.refusal(words):
            self.registers[Register.STATUS] = ERROR | cause << 8
            return
        image, output = self.at(Register.IMAGE_LOW), self.at(Register.OUTPUT_LOW)
        key = content.tobytes(), image.tobytes()
        if key not in COMPUTED:
            pixels = image.reshape(int(words[1]) >> 16, int(words[1]) & 0xFFFF, 3)
            engine, number = Interpreter(ROWS, BLOCKS, TILE), self.registers[Register.COUNT]
            computed = engine.run(content.tobytes(), number, pixels, len(output))
            COMPUTED[key] = computed, engine.sent_bytes
        if self.fault != "idle":
            output[:], self.registers[Register.WRITE_BYTES] = COMPUTED[key]
        for buffer in self.buffers.values():
            buffer.evict()
        self.registers[Register.STATUS] = DONE
        self.registers[Register.CYCLES] = self.frame_cycles
        self.registers[Register.STALL_PORT] = 77


class Buffer(np.ndarray):
    """A `PynqBuffer` of cached memory: the processor and the engine see different bytes."""

    def flush(self):
        """Write dirty lines to memory; lines that are clean stay as they are there."""
        self.evict()

    def evict(self):
        """What a cache may do with dirty lines at any time."""
        now, memory = np.asarray(self), self.engine.memory[self.device_address]
        lines = np.logical_or.reduceat(now != self.clean, np.arange(0, len(now), LINE_BYTES))
        dirty = np.repeat(lines, LINE_BYTES)[: len(now)]
        memory[dirty] = self.clean[dirty] = now[dirty]

    def invalidate(self):
        """Drop all lines, dirty ones too."""
        self[:] = self.clean[:] = self.engine.memory[self.device_address]

    def freebuffer(self):
        """Unmap: who reads it afterwards ends with a segmentation fault, here with 0xDD."""
        assert not self.engine.busy, "memory is freed that the engine writes into"
        self[:] = 0xDD
        del self.engine.memory[self.device_address], self.engine.buffers[self.device_address]


class Registers:
    """`MMIO.array`: the registers as an array of uint32."""

    def __init__(self, engine, length):
        self.engine, self.count = engine, length // 4

    def __getitem__(self, index):
        assert 0 <= index < self.count
        return np.uint32(self.engine.read(4 * index))

    def __setitem__(self, index, value):
        assert 0 <= index < self.count
        self.engine.write(4 * index, int(np.uint32(value)))


def fake_pynq(engine, pieces=99):
    """A module pynq whose bitstreams have `engine` as engine_0, with memory for so many pieces."""
    addresses = count(1 << 33, 1 << 24)

    class Overlay:
        def __init__(self, path):
            assert isinstance(path, str)
            # pl_server asks for an event loop, which only the main thread has.
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("There is no current event loop in this thread.")
            if not Path(path).with_suffix(".hwh").is_file():
                raise RuntimeError("Unable to find metadata for bitstream")
            name = Path(path).name
            if "broken" in name:
                raise RuntimeError("no bitstream\nat all")
            place = {"phys_addr": BASE, "addr_range": 4096, "type": "user:engine_wrapper:1.0"}
            self.ip_dict = {} if "other" in name else {"engine_0": place}
            self.download()

        def download(self):
            engine.downloads += 1
            engine.hardware_reset()

    class MMIO:
        def __init__(self, base_addr, length):
            assert (base_addr, length) == (BASE, 4096)
            assert engine.downloads, "a read of an address where nothing answers hangs the board"
            self.array = Registers(engine, length)

    def allocate(shape, dtype, cacheable=0):
        if not engine.downloads:
            raise RuntimeError("Overlay is not downloaded")
        if len(engine.buffers) == pieces:
            raise RuntimeError("Allocate failed: 4294967295")
        assert cacheable, "reads of memory that is not cached take milliseconds"
        buffer = np.full(shape, 0xAA, dtype).view(Buffer)
        buffer.engine, buffer.clean = engine, np.array(buffer)
        buffer.device_address = next(addresses)
        engine.memory[buffer.device_address] = np.array(buffer)
        engine.buffers[buffer.device_address] = buffer
        return buffer

    clocks = types.SimpleNamespace(fclk0_mhz=249.9975)
    return types.SimpleNamespace(Overlay=Overlay, MMIO=MMIO, allocate=allocate, Clocks=clocks)


def named(name, folder, monkeypatch):
    """A bitstream of this name, which is selected by the environment variable."""
    path = folder / name
    path.touch()
    path.with_suffix(".hwh").touch()
    monkeypatch.setenv("PERCEPTION_FPGA", str(path))
    return path


def end_of_process():
    """Forget the bitstream and give the lock back, as the kernel does."""
    board._loaded.cache_clear()
    if board._lock.cache_info().currsize:
        os.close(board._lock())
        board._lock.cache_clear()
