"""What the steps of first_light.py look at: each returns what it found, or raises `Unexpected`."""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from perception_nodes.backends.contract import BackendSettings
from perception_nodes.backends.fpga import VARIABLE, Backend, compile_model, open_engine
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.integer import Convolution, Network
from perception_nodes.fpga.board import ENGINE
from perception_nodes.fpga.bus import EngineBus, Memory
from perception_nodes.fpga.compiler import compile_network
from perception_nodes.fpga.driver import BUSY, ENDED, EngineDriver
from perception_nodes.fpga.layout import CAUSES, CONTROL_FIELDS, STATUS_FIELDS, Cause, Register
from perception_nodes.networks.model import load_model

BOARD_MODEL, MEMORY = Path("/proc/device-tree/model"), Path("/proc/meminfo")
LEAST_CMA_BYTES = 16 << 20
CLOCK_TOLERANCE = 0.02
TIME_TOLERANCE = 0.25
"""Of the cycles that the compiler expects: the board's memory may answer later."""
POLLS = 100_000
TIMED_FRAMES = 50
ADDRESSES = (Register.DESCRIPTORS_LOW, Register.IMAGE_LOW, Register.OUTPUT_LOW, Register.TIMEOUT)
"""Registers that keep all 32 bits."""


class Unexpected(Exception):
    """A step found something else than it expects."""


@dataclass
class Bench:
    """What the steps share.

    Attributes:
        engine: a bitstream or a simulated engine.
        model: name of the detector.
        frames: how many frames the last step runs.
        bus, driver: access to the engine; set by the steps that open it.
        network: the detector as integers, set by the step that compiles it.
        outputs: what its first frame left in output memory.
    """

    engine: Path
    model: str
    frames: int
    bus: EngineBus = field(init=False)
    driver: EngineDriver = field(init=False)
    network: Network = field(init=False)
    outputs: bytes = b""

    @property
    def simulated(self) -> bool:
        """Whether there is no board."""
        return self.engine.suffix == ".so"

    def close(self) -> None:
        """Free what the steps have opened."""
        if hasattr(self, "driver"):
            self.driver.close()

    def noise(self) -> np.ndarray:
        """A picture that keeps all lanes busy, uint8 [height, width, 3]."""
        size = self.network.height, self.network.width, 3
        return np.random.default_rng(7).integers(0, 256, size).astype(np.uint8)


def files(bench: Bench) -> str:
    """The bitstream, and its description."""
    description = bench.engine.with_suffix(".hwh")
    if not description.is_file():
        raise Unexpected(f"no {description}")
    text = description.read_text(errors="replace")
    if f'INSTANCE="{ENGINE}"' not in text:
        raise Unexpected(f"{description.name} without an instance {ENGINE}")
    size_mb = bench.engine.stat().st_size / 1e6
    return f"{bench.engine.name} of {size_mb:.1f} MB, {ENGINE} in {description.name}"


def board(bench: Bench) -> str:
    """The board, and what the system gives us."""
    name = BOARD_MODEL.read_text().strip("\0") if BOARD_MODEL.is_file() else "no device tree"
    found = re.search(r"CmaFree: +(\d+) kB", MEMORY.read_text())
    cma_bytes = 1024 * int(found[1]) if found else 0
    text = f"{name}, user {os.geteuid()}, {cma_bytes >> 20} MB of contiguous memory free"
    if "KV260" not in name or os.geteuid() or cma_bytes < LEAST_CMA_BYTES:
        raise Unexpected(text)
    return text


def load(bench: Bench) -> str:
    """The bitstream goes into the FPGA."""
    begin_s = time.monotonic()
    bench.bus = open_engine(str(bench.engine))
    return f"loaded in {time.monotonic() - begin_s:.1f} s"


def identity(bench: Bench) -> str:
    """The first registers are read."""
    bench.driver = EngineDriver(bench.bus)
    geometry = bench.driver.geometry
    return (
        f"{256 * geometry.blocks} MACs, tiles of {geometry.tile}, {geometry.rows} rows, "
        f"built for {geometry.clock_mhz:g} MHz"
    )


def registers(bench: Bench) -> str:
    """Registers keep what is written, each its own."""
    for pattern in (0x5555_5540, 0xAAAA_AA80, 0xFFFF_FFC0, 0):
        for number, register in enumerate(ADDRESSES):
            bench.bus.write(register, pattern ^ number << 8)
        for number, register in enumerate(ADDRESSES):
            value = bench.bus.read(register)
            if value != pattern ^ number << 8:
                raise Unexpected(
                    f"{register.name} holds 0x{value:08X} after 0x{pattern ^ number << 8:08X}"
                )
    return f"{len(ADDRESSES)} registers keep 4 patterns"


def _answer(bench: Bench, count: int, address: int) -> str:
    """The name of the cause with which the engine ends `count` descriptors at an address."""
    write, read = bench.bus.write, bench.bus.read
    write(Register.DESCRIPTORS_LOW, address & 0xFFFF_FFFF)
    write(Register.DESCRIPTORS_HIGH, address >> 32)
    write(Register.COUNT, count)
    write(Register.TIMEOUT, 1 << 16)
    write(Register.CONTROL, CONTROL_FIELDS["start"].mask)
    for _ in range(POLLS):
        status = read(Register.STATUS)
        if status & ENDED and not status & BUSY:
            write(Register.STATUS, ENDED)
            cause = STATUS_FIELDS["cause"].of(status)
            return Cause(cause).name if cause in CAUSES else f"cause {cause}"
        bench.bus.sleep_us(1)
    raise Unexpected(f"no end, STATUS is 0x{read(Register.STATUS):08X}")


def empty(bench: Bench) -> str:
    """A start is obeyed, without the memory."""
    cause = _answer(bench, 0, 0)
    left = bench.bus.read(Register.STATUS)
    if cause != "EMPTY" or left & (BUSY | ENDED):
        raise Unexpected(f"{cause}, then STATUS 0x{left:08X}")
    return f"{cause}, then STATUS 0"


def memory_read(bench: Bench) -> str:
    """The engine reads what the processor has written, also the second time."""
    memory: Memory = bench.bus.allocate(4096)
    try:
        causes = []
        for word in (0x0000_FF01, 0x0000_0177):  # another version; an unknown opcode
            memory.array[:4] = np.frombuffer(word.to_bytes(4, "little"), np.uint8)
            memory.to_engine()
            causes.append(_answer(bench, 1, memory.address))
    finally:
        memory.free()
    text = f"{causes[0]}, then {causes[1]}, at address 0x{memory.address:X}"
    if causes != ["VERSION", "OPCODE"]:
        raise Unexpected(text)
    return text


def _one_layer() -> Network:
    rng = np.random.default_rng(3)
    layer = Convolution(
        name="layer",
        source="image",
        target="out",
        weight=rng.integers(-127, 128, (32, 3, 3, 3)).astype(np.int16),
        bias=rng.integers(-1000, 1000, 32).astype(np.int32),
        stride=1,
        pads=(1, 1, 1, 1),
        outside=-128,
        multiplier=rng.integers(1 << 16, 1 << 17, 32).astype(np.int32),
        shift=20,
        fraction=4,
        activation="none",
        store=None,
    )
    return Network("image", 32, 16, (layer,), {"out": 4}, {"out": 1.0})


def _compared(bench: Bench, image: np.ndarray) -> int:
    """Run the loaded program, compare with the integer network; the number of values compared."""
    driver, (slot, *_) = bench.driver, bench.driver.slots
    assert driver.program is not None
    slot.output.array[:] = 0xA5
    slot.output.to_engine()
    driver.put(slot, image)
    driver.start(slot)
    driver.finish()
    tensors, compared = bench.network.trace(image), 0
    for output in driver.program.outputs:
        found, wanted = output.fixed(slot.output.array), tensors[output.name]
        wrong = np.argwhere(found != wanted)
        if len(wrong):
            c, y, x = wrong[0]
            untouched = np.mean(found == np.int32(np.uint32(0xA5A5A5A5).view(np.int32)))
            raise Unexpected(
                f"{output.name}: {len(wrong)} of {wanted.size} values differ, in channels "
                f"{sorted(set(wrong[:, 0].tolist()))[:8]}, lines {wrong[:, 1].min()} to "
                f"{wrong[:, 1].max()}; first at channel {c}, y {y}, x {x}: {found[c, y, x]}, not "
                f"{wanted[c, y, x]}; {untouched:.0%} of all were not written"
            )
        compared += wanted.size
    return compared


def layer(bench: Bench) -> str:
    """One convolution, from the image to the outputs."""
    bench.network = _one_layer()
    bench.driver.load(compile_network(bench.network, bench.driver.geometry))
    return f"{_compared(bench, bench.noise())} values, all equal"


def detector(bench: Bench) -> str:
    """A whole network, on three pictures."""
    model = load_model(bench.model)
    bench.network = read_network(model.path)
    bench.driver.load(compile_model(model, bench.driver.geometry))
    noise = bench.noise()
    values = [_compared(bench, image) for image in (noise, np.zeros_like(noise), 255 - noise // 9)]
    return f"{model.name}: {sum(values)} values in 3 pictures, all equal"


def duration(bench: Bench) -> str:
    """Cycles, and the clock that they were counted with."""
    driver, (slot, *_) = bench.driver, bench.driver.slots
    assert driver.program is not None
    driver.put(slot, bench.noise())
    driver.start(slot)
    begin_us = bench.bus.now_us()
    took_us = 0.0
    while bench.bus.read(Register.STATUS) & BUSY and took_us < driver.limit_us:
        took_us = bench.bus.now_us() - begin_us
    call = driver.finish()
    expected, wanted_mhz = driver.program.cycles, driver.geometry.clock_mhz
    clock_mhz = call.cycles / took_us
    stalls = ", ".join(f"{name} {cycles}" for name, cycles in call.stalls)
    text = (
        f"{call.cycles} cycles ({call.cycles / expected - 1:+.1%}) in {took_us / 1e3:.2f} ms: a "
        f"clock of {clock_mhz:.1f} MHz; stalls: {stalls}"
    )
    slow = abs(call.cycles / expected - 1) > TIME_TOLERANCE
    if slow or abs(clock_mhz / wanted_mhz - 1) > CLOCK_TOLERANCE:
        raise Unexpected(text)
    return text


def recovery(bench: Bench) -> str:
    """A frame is given up, and the next one is right."""
    driver, (slot, *_) = bench.driver, bench.driver.slots
    driver.put(slot, bench.noise())
    driver.start(slot)
    bench.bus.sleep_us(100)
    bench.bus.write(Register.CONTROL, CONTROL_FIELDS["reset"].mask)
    for _ in range(POLLS):
        if not bench.bus.read(Register.STATUS) & BUSY:
            return f"idle after the reset, then {_compared(bench, bench.noise())} values, all equal"
        bench.bus.sleep_us(1)
    raise Unexpected("still busy after the reset")


def own_time(bench: Bench) -> str:
    """What the processor does for a frame, by `time.thread_time`, and how much later it knows."""
    os.environ[VARIABLE] = str(bench.engine)
    backend = Backend(BackendSettings())
    model = load_model(bench.model)
    backend.load(model)
    image = bench.noise()
    walls_us, own_us, late_us = [], [], []
    for _ in range(1 if bench.simulated else TIMED_FRAMES):
        begin_us, begin_own_s = time.monotonic_ns() / 1e3, time.thread_time()
        call = backend.infer(image).engine
        assert call is not None
        walls_us.append(time.monotonic_ns() / 1e3 - begin_us)
        own_us.append(1e6 * (time.thread_time() - begin_own_s))
        late_us.append(walls_us[-1] - 1e3 * call.latency_ms)
    backend.close()
    return (
        f"{median(own_us) / 1e3:.2f} ms of the processor; a frame takes "
        f"{median(walls_us) / 1e3:.2f} ms, {median(late_us) / 1e3:.2f} ms more than the engine"
    )


def endurance(bench: Bench) -> str:
    """The same frame many times: a clock that is slightly too fast shows here."""
    driver, (slot, *_) = bench.driver, bench.driver.slots
    frames = min(bench.frames, 2) if bench.simulated else bench.frames
    driver.put(slot, bench.noise())
    first, told_s = b"", time.monotonic()
    for number in range(frames):
        driver.start(slot)
        driver.finish()
        first = first or slot.output.array.tobytes()
        if slot.output.array.tobytes() != first:
            raise Unexpected(f"frame {number} differs from the first one; {_temperature()}")
        if time.monotonic() - told_s > 2:
            print(f"             frame {number} of {frames}, {_temperature()}", flush=True)
            told_s = time.monotonic()
    return f"{frames} frames, all equal; {_temperature()}"


def _temperature() -> str:
    """The chip's temperature, from the system monitor of the Zynq."""
    for raw in Path("/sys/bus/iio/devices").glob("iio:device*/in_temp*_raw"):
        name = raw.name.removesuffix("_raw")
        numbers = [
            float((raw.parent / f"{name}_{part}").read_text()) for part in ("offset", "scale")
        ]
        return f"{(float(raw.read_text()) + numbers[0]) * numbers[1] / 1e3:.0f} °C"
    return "temperature unknown"
