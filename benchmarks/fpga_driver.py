"""What the FPGA's driver takes of a processor for a frame, and how much later it knows the end.

    .venv/bin/python benchmarks/fpga_driver.py --model open-n --frames 500

The engine is pretended: a frame takes the time that the compiler expects, and nothing is computed.
Registers and memory are the processor's own, so the cache maintenance and the slow registers of a
board are not in the figures; `fpga/board/first_light.py` measures them there.
"""

import argparse
import sys
import time
from statistics import median

import numpy as np

from perception_nodes.backends import fpga
from perception_nodes.backends.contract import BackendSettings
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.compiler import compile_network
from perception_nodes.fpga.driver import EngineDriver
from perception_nodes.fpga.layout import ID, VERSION, Register
from perception_nodes.networks.model import ModelError, load_model
from perception_nodes.system.realtime import RealTime

BLOCKS, TILE, ROWS, CLOCK_MHZ = 2, 64, 28672, 250
BUSY, DONE = 1, 2


class PretendedMemory:
    """Memory of the processor's own."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(size, np.uint8)
        self.address = 0

    def to_engine(self) -> None:
        """Do nothing."""

    def from_engine(self) -> None:
        """Do nothing."""

    def free(self) -> None:
        """Do nothing."""


class PretendedEngine:
    """An engine that needs `frame_us` for a frame, during which it does nothing.

    Attributes:
        ends_us: when the frame that was started last ends.
    """

    name, simulated = "pretended", False

    def __init__(self) -> None:
        self.frame_us = self.ends_us = 0.0
        self._registers = np.zeros(64, np.uint32)
        for register, value in (
            (Register.ID, ID),
            (Register.VERSION, VERSION),
            (Register.GEOMETRY, BLOCKS | TILE << 8 | CLOCK_MHZ // 2 << 24),
            (Register.ROWS, ROWS),
        ):
            self._registers[register >> 2] = value

    def read(self, offset: int) -> int:
        """Read a register, as from a board's."""
        if offset == Register.STATUS:
            return DONE if self.now_us() >= self.ends_us else BUSY
        return int(self._registers[offset >> 2])

    def write(self, offset: int, value: int) -> None:
        """Write a register, as to a board's."""
        self._registers[offset >> 2] = value
        if offset == Register.CONTROL:
            self.ends_us = self.now_us() + self.frame_us

    def allocate(self, size: int) -> PretendedMemory:
        """Allocate memory."""
        return PretendedMemory(size)

    def now_us(self) -> float:
        """Monotonic time."""
        return time.monotonic_ns() / 1e3

    def sleep_us(self, duration_us: float) -> None:
        """Sleep at least this long."""
        time.sleep(duration_us / 1e6)

    def tell_successors(self, is_stopped: bool) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def measure(model_name: str, frames: int, fifo: bool) -> None:
    """Print the medians."""
    engine, model = PretendedEngine(), load_model(model_name)
    program = compile_network(read_network(model.path), EngineDriver(engine).geometry)
    engine.frame_us = program.cycles / CLOCK_MHZ
    engine.write(Register.WRITE_BYTES, program.written_bytes)
    fpga.open_engine = lambda name: engine
    backend = fpga.Backend(BackendSettings(max_batch=2))
    info = backend.load(model)
    driver, frame = backend.driver, backend._frames[0]
    assert driver is not None
    image = np.zeros((program.height, program.width, 3), np.uint8)
    settings = RealTime().begin("", 30 if fifo else 0, 0, lock_memory=False, longest_s=1)
    stages: dict[str, list[float]] = {}

    def note(name: str, begin_us: float, end_us: float) -> None:
        stages.setdefault(name, []).append(end_us - begin_us)

    now = engine.now_us
    for _ in range(frames):
        own_us, begin = time.thread_time_ns() / 1e3, now()
        driver.put(frame.slot, image)
        put = now()
        driver.start(frame.slot)
        started, waiting_us = now(), time.thread_time_ns() / 1e3
        call = driver.finish()
        finished, waited_us = now(), time.thread_time_ns() / 1e3
        frame.heads(call)
        end = now()
        note("put", begin, put)
        note("start", put, started)
        note("finish, behind the end of the frame", engine.ends_us, finished)
        note("finish, the processor's time", waiting_us, waited_us)
        note("heads", finished, end)
        note("all, the processor's time", own_us, time.thread_time_ns() / 1e3)
        begin = now()
        backend.infer(image)
        backend.infer(image)
        middle = now()
        backend.infer_batch([image, image])
        note("two frames, one after the other", begin, middle)
        note("two frames as a batch", middle, now())
    print(
        f"{model_name}, {info.device}, {engine.frame_us / 1e3:.2f} ms a frame", *settings, sep="; "
    )
    for name, durations_us in stages.items():
        p99 = sorted(durations_us)[len(durations_us) * 99 // 100]
        print(f"{name:36} p50 {median(durations_us):7.0f} us   p99 {p99:7.0f} us")


def main() -> int:
    """Read the arguments, measure."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="open-n")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--fifo", action="store_true", help="with SCHED_FIFO, as in the graph")
    chosen = parser.parse_args()
    try:
        measure(chosen.model, chosen.frames, chosen.fifo)
    except (ModelError, BackendError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
