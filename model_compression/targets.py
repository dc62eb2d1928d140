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

TARGETS = {
    "litert": "",
    "openvino": "",
    "openvino:AVX2": "avx2",
    "openvino:AVX512_CORE_VNNI": "avx512_vnni",
    "openvino:AVX512_CORE_FP16": "avx512_fp16",
    f"openvino:{WITH_TILES}": "amx_int8",
    "fpga:512": "",
    "fpga:1024": "",
}
"""Processor flag that a target needs, by its name: the backend, and a variant of it.

Without the flag other instructions would be timed under that name. Variants are instructions
(`ONEDNN_MAX_CPU_ISA`), or the multipliers of an engine. Without a variant OpenVINO has all
instructions but matrix tiles.
"""
ENGINES = {"512": Geometry(2, 64, 28672, 250.0), "1024": Geometry(4, 64, 28672, 250.0)}

T = TypeVar("T")
Steps = Callable[[str, int, int], None]
_calls: list[Callable[[], object]] = []


def usual_targets() -> list[str]:
    """What a network may run on here and elsewhere; with matrix tiles too, where they are."""
    usual = ("litert", "openvino", f"openvino:{WITH_TILES}", "openvino:AVX2", "fpga:512")
    return [target for target in usual if not _missing(target)]


def check_target(name: str) -> None:
    """Check the name of a target, and that this processor has its instructions.

    Raises:
        BackendError: there is no such target, or this processor lacks its instructions.
    """
    if name not in TARGETS:
        raise BackendError(f"target {name!r} is unknown; known are {', '.join(TARGETS)}")
    if missing := _missing(name):
        raise BackendError(
            f"target {name} needs a processor with {missing}, which this one has not; "
            "leave it out, or measure on one that has it"
        )


def _missing(target: str) -> str:
    """The flag of a processor that a target needs and this one has not; empty if there is none."""
    return "" if TARGETS[target] in cpu_flags() else TARGETS[target]


def times_of(
    folders: Sequence[Path], targets: Sequence[str], threads: int, rounds: int, progress: Steps
) -> NDArray[np.float64]:
    """Time each network on each target, at a camera's pace and with cold caches.

    Args:
        folders: the models.
        targets: what runs them, of `TARGETS`.
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
            backend, _, variant = target.partition(":")
            if backend == "fpga":
                found[row] = [_computed_ms(folder, ENGINES[variant]) for folder in folders]
                continue
            apart = multiprocessing.get_context("spawn")
            process = ProcessPoolExecutor(1, apart, _begin, (variant,))
            stack.enter_context(process)
            for number, folder in enumerate(folders):
                _answer(process, _load, backend, threads, folder)
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
    """The time of one call, which follows a pause of one camera period."""
    return next(paced_ms([_calls[index]]))


def _computed_ms(folder: Path, geometry: Geometry) -> float:
    """The time that the cycle model tells; NaN if the engine cannot run the network."""
    try:
        program = compile_model(load_model(str(folder)), geometry)
    except BackendError:
        return float("nan")
    return sum(layer.cycles for layer in program.layers) / geometry.clock_mhz / 1e3
