"""Times networks on a frame's whole way, at a camera's pace, in turns, within a given time.

One process for each runtime loads its networks and infers. The caller stands for the graph's other
processes: it copies each frame as a camera does, scales it, and waits for the detections. So a
runtime that refuses a network, crashes or hangs costs nothing but its own times.
"""

import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.pace import LONGEST_S
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import FrameHeader, ImageView
from perception_nodes.networks.model import InputSpec, load_model
from perception_nodes.networks.openvino_core import VARIABLE, WITHOUT_TILES
from perception_nodes.system.awake import kept_awake
from perception_nodes.system.children import start
from perception_nodes.system.realtime import RANKS, RealTime, allowed_priority, parse_cpus

RATE_HZ = 60.0
"""Twice a camera's pace: long enough for processors to fall asleep, and twice as many times."""
CAMERA = (1080, 1920, 3)
LARGEST_BYTES = 8192 * 8192 * 3
"""Of a network's input; memory that nothing is written to takes no room."""
SCREENING_ROUNDS = 2
HOPELESS = 1.3
"""After these rounds, a way to run a network goes that takes so many times as long as another."""
LOADING_SHARE, WAITING_SHARE = 0.4, 0.6
"""Shares of the time after which no further network is loaded, and nothing more is waited for."""


class Option(NamedTuple):
    """A way to run a network.

    Attributes:
        model: name or folder.
        backend: name of the runtime.
        threads: of inference.
        cpus: processors for it alone, such as `2,3`; empty for all.
    """

    model: str
    backend: str
    threads: int
    cpus: str = ""


@dataclass
class Times:
    """What was measured of an option.

    Attributes:
        whole_ms: from a frame's capture to its detections.
        bare_ms: of them inference alone.
        refused: why it was not measured, or no further; empty if it was.
    """

    whole_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    refused: str = ""


class _Runtime:
    """A process that loads the options of one runtime, one after the other, and runs them."""

    def __init__(self, options: Sequence[Option], memory: int, key_file: str, fifo: int) -> None:
        self.loaded: list[Option] = []
        self.is_ready = False
        self._options = options
        self._connection, theirs = Pipe()
        with theirs:
            numbers = theirs.fileno(), memory
            self.process = start(
                [sys.executable, "-m", __name__, json.dumps([numbers, options, key_file, fifo])],
                {VARIABLE: os.environ.get(VARIABLE, WITHOUT_TILES)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=numbers,
            )

    def hear(self, until_s: float, found: Mapping[Option, Times]) -> None:
        """Take what it says of its options until all are loaded, or until a time."""
        with suppress(EOFError, OSError):
            while not self.is_ready and self._connection.poll(max(0, until_s - time.monotonic())):
                number, refused = self._connection.recv()
                self.is_ready = number is None
                if refused:
                    found[self._options[number]].refused = refused
                elif not self.is_ready:
                    self.loaded.append(self._options[number])

    def begin(self) -> None:
        """Let it load no further options."""
        with suppress(OSError):
            self._connection.send("begin")

    def ask(self, told: object) -> Any:
        """Tell it something; returns its answer, None if there is none or it has ended."""
        with suppress(EOFError, OSError):
            self._connection.send(told)
            if self._connection.poll(LONGEST_S):
                return self._connection.recv()
        return None

    def turn(self, option: Option, frame: "_Frame", due_s: float) -> tuple[float, float] | None:
        """The whole and the bare time of a frame in ms, whose time it is at `due_s`."""
        if self.ask(self._options.index(option)) is None:
            return None
        time.sleep(max(0.0, due_s - time.monotonic()))
        begin_ns = time.monotonic_ns()
        frame.take()
        bare_ms = self.ask("frame")
        return None if bare_ms is None else ((time.monotonic_ns() - begin_ns) / 1e6, bare_ms)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self._connection.close()


def time_in_turns(
    options: Sequence[Option],
    limit_s: float,
    progress: Callable[[int, int], None],
    key_file: str = "",
    fifo_priority: int = 0,
    awake: Collection[int] = (),
) -> dict[Option, Times]:
    """Time options in turns until the time is up; what was not loaded by then has no times.

    Args:
        options: the first ones of each runtime are loaded first.
        limit_s: how long it may take.
        progress: called with the seconds done and their total.
        key_file: as the parameter `model_key`.
        fifo_priority: as for `RealTime.begin`.
        awake: processors that are kept awake meanwhile.
    """
    begin_s = time.monotonic()
    found = {option: Times() for option in options}
    with ExitStack() as closing:
        memory = os.memfd_create("frame")
        closing.callback(os.close, memory)
        os.ftruncate(memory, LARGEST_BYTES)
        frames = {one.model: _Frame(one.model, key_file, memory) for one in options}
        runtimes = {}
        for backend in {one.backend for one in options}:
            own = [one for one in options if one.backend == backend]
            runtimes[backend] = _Runtime(own, memory, key_file, fifo_priority)
            closing.callback(runtimes[backend].close)
        for runtime in runtimes.values():
            runtime.hear(begin_s + LOADING_SHARE * limit_s, found)
        for runtime in runtimes.values():
            runtime.begin()
        for runtime in runtimes.values():
            runtime.hear(begin_s + WAITING_SHARE * limit_s, found)
        left = [option for one in runtimes.values() if one.is_ready for option in one.loaded]
        if awake and left:
            closing.enter_context(kept_awake(awake))
        closing.enter_context(_with_priority(fifo_priority))
        due_s, until_s = time.monotonic(), begin_s + limit_s
        for rounds in count():
            for option in left:
                due_s = max(due_s + 1 / RATE_HZ, time.monotonic())
                if due_s > until_s:
                    return found
                if found[option].refused:
                    continue
                took_ms = runtimes[option.backend].turn(option, frames[option.model], due_s)
                if took_ms is None:
                    ended = f"{option.backend} ended, or hung, with {option.model}"
                    for one in runtimes[option.backend].loaded:
                        found[one].refused = found[one].refused or ended
                elif rounds:  # the first round warms up
                    found[option].whole_ms.append(took_ms[0])
                    found[option].bare_ms.append(took_ms[1])
            if rounds == SCREENING_ROUNDS:
                _leave_out_hopeless(left, found)
            if not (left := [one for one in left if not found[one].refused]):
                break
            progress(round(due_s - begin_s), round(limit_s))
    return found


def _leave_out_hopeless(left: Sequence[Option], found: Mapping[Option, Times]) -> None:
    medians_ms = {one: float(np.median(found[one].whole_ms)) for one in left if found[one].whole_ms}
    for option, median_ms in medians_ms.items():
        best_ms = min(ms for one, ms in medians_ms.items() if one.model == option.model)
        if median_ms > HOPELESS * best_ms:
            found[option].refused = f"{median_ms:.1f} ms, where others take {best_ms:.1f}"


class _Frame:
    """A camera's frame, and its way into the input of a network, which is in shared memory."""

    def __init__(self, model: str, key_file: str, memory: int) -> None:
        spec = load_model(model, key_file).input
        self._camera = np.full(CAMERA, 127, np.uint8)
        self._image, self._pixels = np.empty_like(self._camera), _pixels(memory, spec)
        self._preprocessor, self._header = spec.preprocessor(), FrameHeader()

    def take(self) -> None:
        """Copy the frame as a camera's driver does, and scale it into the input."""
        np.copyto(self._image, self._camera)
        self._preprocessor.write(ImageView.of_pixels(self._image), self._pixels, self._header)


def _pixels(memory: int, spec: InputSpec) -> NDArray[np.uint8]:
    shape = spec.height, spec.width, 3
    return np.ndarray(shape, np.uint8, mmap.mmap(memory, LARGEST_BYTES))


@contextmanager
def _with_priority(fifo_priority: int) -> Iterator[None]:
    """A context in which this thread has the priority of a camera, if the graph has one."""
    base = allowed_priority() if fifo_priority < 0 else fifo_priority
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if base:
        with suppress(OSError):  # the graph does without, too
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(base + RANKS["camera"]))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _main(facts: str) -> None:
    """The process of a runtime: load options until told to begin, and run those that are named."""
    (number, memory), given, key_file, fifo_priority = json.loads(facts)
    options, connection = [Option(*one) for one in given], Connection(number)
    calls: dict[int, tuple[Callable[[], float], str]] = {}
    for number, option in enumerate(options):
        if connection.poll():
            break
        try:
            calls[number] = _loaded(option, key_file, memory), option.cpus
        except PerceptionError as error:
            connection.send((number, str(error)))
        else:
            connection.send((number, ""))
    connection.send((None, ""))
    connection.recv()
    RealTime().begin("", fifo_priority, RANKS["detector"], lock_memory=False, longest_s=LONGEST_S)
    everywhere = os.sched_getaffinity(0)
    with suppress(EOFError):
        while True:
            call, cpus = calls[connection.recv()]
            for task in map(int, os.listdir("/proc/self/task")):
                os.sched_setaffinity(task, parse_cpus(cpus) if cpus else everywhere)
            connection.send("prepared")
            connection.recv()
            connection.send(call())


def _loaded(option: Option, key_file: str, memory: int) -> Callable[[], float]:
    """Load an option; what is returned runs it, decodes, and returns the bare time in ms."""
    model = load_model(option.model, key_file)
    backend = open_backend(option.backend, BackendSettings(option.threads))
    backend.load(model)
    decoder, image = model.decoder(DecodeSettings()), _pixels(memory, model.input)

    def call() -> float:
        begin_ns = time.monotonic_ns()
        heads = backend.infer(image)
        took_ns = time.monotonic_ns() - begin_ns
        decoder.decode(heads.boxes, heads.classes)
        return took_ns / 1e6

    return call


if __name__ == "__main__":
    _main(sys.argv[1])
