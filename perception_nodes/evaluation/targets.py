"""How long networks take on each of several targets, measured in turns.

Instructions are chosen when a process compiles its first network, so every target has a process of
its own. They take turns call by call, so that a busy machine slows all of them down alike. An FPGA
is not measured: its compiler's cycle model tells.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.fpga import compile_model
from perception_nodes.backends.pace import LONGEST_S, paced_ms
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.program import Geometry
from perception_nodes.networks.model import load_model
from perception_nodes.networks.openvino_core import VARIABLE, WITH_TILES, WITHOUT_TILES
from perception_nodes.system.processes import cpu_flags
from perception_nodes.system.realtime import RealTime
from perception_nodes.system.signals import leave_to_parent

VARIANTS = {
    "litert": ("",),
    "openvino": ("", "AVX2", "AVX512_CORE_VNNI", "AVX512_CORE_FP16", "ALL"),
    "fpga": ("512", "1024"),
}
"""Variants by backend: instructions (`ONEDNN_MAX_CPU_ISA`), or the multipliers of an engine. For
OpenVINO "" means all instructions but matrix tiles."""
FLAGS = {
    "AVX2": "avx2",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_FP16": "avx512_fp16",
    WITH_TILES: "amx_int8",
}
"""Processor flag that a variant needs; without it, another variant would be timed."""
ENGINES = {"512": Geometry(2, 64, 28672, 250.0), "1024": Geometry(4, 64, 28672, 250.0)}

T = TypeVar("T")
Steps = Callable[[str, int, int], None]
_calls: list[Callable[[], object]] = []


@dataclass(frozen=True)
class TimingTarget:
    """What runs a network: a backend, and a variant of it, see `VARIANTS`."""

    backend: str
    variant: str

    def __str__(self) -> str:
        return f"{self.backend}:{self.variant}" if self.variant else self.backend


def usual_targets() -> list[TimingTarget]:
    """What a network may run on here and elsewhere; with matrix tiles too, where they are."""
    variants = [TimingTarget("openvino", name) for name in ("", WITH_TILES, "AVX2")]
    usual = [TimingTarget("litert", ""), *variants, TimingTarget("fpga", "512")]
    return [target for target in usual if not _missing(target)]


def read_target(text: str) -> TimingTarget:
    """Read `BACKEND[:VARIANT]`.

    Raises:
        BackendError: there is no such target, or this processor lacks its instructions.
    """
    known = [TimingTarget(backend, v) for backend, variants in VARIANTS.items() for v in variants]
    for target in known:
        if text == str(target):
            if missing := _missing(target):
                raise BackendError(
                    f"target {text} needs a processor with {missing}, which this one has not; "
                    "leave it out, or measure on one that has it"
                )
            return target
    raise BackendError(f"target {text!r} is unknown; known are {', '.join(map(str, known))}")


def _missing(target: TimingTarget) -> str:
    """The flag of a processor that a target needs and this one has not; empty if there is none."""
    flag = FLAGS.get(target.variant, "")
    return "" if flag in cpu_flags() else flag


def times_of(
    folders: Sequence[Path],
    targets: Sequence[TimingTarget],
    threads: int,
    rounds: int,
    progress: Steps,
) -> NDArray[np.float64]:
    """Time each network on each target, at a camera's pace and with cold caches.

    Args:
        folders: the models.
        targets: what runs them.
        threads: number of threads for inference; 0 for one per physical core.
        rounds: timed calls of each.
        progress: called with the name of a step, how much of it is done, and its total.

    Returns:
        Medians in milliseconds, [targets, models]; NaN where an engine cannot hold a network.

    Raises:
        BackendError: a runtime refuses a model.
    """
    found = np.full((len(targets), len(folders)), np.nan)
    turns = []
    with ExitStack() as stack:
        for row, target in enumerate(targets):
            if target.backend == "fpga":
                found[row] = [_computed_ms(folder, ENGINES[target.variant]) for folder in folders]
                continue
            apart = multiprocessing.get_context("spawn")
            process = ProcessPoolExecutor(1, apart, _begin, (target.variant,))
            stack.enter_context(process)
            for number, folder in enumerate(folders):
                _answer(process, _load, target.backend, threads, folder)
                progress(f"loading for {target}", number + 1, len(folders))
            _answer(process, _begin_real_time)
            turns += [(process, row, column) for column in range(len(folders))]
        times_ms: dict[tuple[int, int], list[float]] = {turn[1:]: [] for turn in turns}
        random = np.random.default_rng(0)
        for number in range(1 + rounds):  # the first one only warms up
            for index in random.permutation(len(turns)):
                process, row, column = turns[index]
                time_ms = _answer(process, _time_ms, column)
                if number:
                    times_ms[row, column].append(time_ms)
            progress("measuring rounds", number + 1, 1 + rounds)
    for place, measured_ms in times_ms.items():
        found[place] = np.median(measured_ms)
    return found


def _answer(process: ProcessPoolExecutor, function: Callable[..., T], *arguments: object) -> T:
    try:
        return process.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise BackendError(f"a process that measures has ended: {error}") from error


def _begin(instructions: str) -> None:
    """Prepare a process that measures, in which the functions below run too."""
    leave_to_parent()
    # Replace what the caller's environment says.
    os.environ[VARIABLE] = instructions or WITHOUT_TILES


def _load(name: str, threads: int, folder: Path) -> None:
    model = load_model(str(folder))
    backend = open_backend(name, BackendSettings(threads))
    backend.load(model)
    image = np.full((model.input.height, model.input.width, 3), 127, np.uint8)
    _calls.append(partial(backend.infer, image))


def _begin_real_time() -> None:
    RealTime().begin("", -1, 0, lock_memory=False, longest_s=LONGEST_S)


def _time_ms(index: int) -> float:
    """The time of one call, after a camera's period."""
    return next(paced_ms([_calls[index]]))


def _computed_ms(folder: Path, geometry: Geometry) -> float:
    """The time that the cycle model tells; NaN if the engine cannot run the network."""
    try:
        program = compile_model(load_model(str(folder)), geometry)
    except BackendError:
        return float("nan")
    return sum(layer.cycles for layer in program.layers) / geometry.clock_mhz / 1e3
