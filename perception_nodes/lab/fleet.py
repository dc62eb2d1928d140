"""`bench fleet`: how much of the bare network's speed a replay of many drives keeps."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from perception_nodes.drives.bag import BagError, open_drive
from perception_nodes.networks.model import load_model
from perception_nodes.replay.drives import Drives, ReplayRequest
from perception_nodes.replay.offline_camera import LoadedModel, ReplaySettings
from perception_nodes.replay.run import ReplayOptions
from perception_nodes.report.figures import figure_table
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.processes import machine

BARE_S = 5.0
"""So long the bare network runs in each round, or somewhat less."""
FRAMES_IN_1000_KM = 1000 / 60 * 3600 * 30
"""Of one camera with 30 frames a second, at 60 km/h."""


def run_bench(
    bag: Path,
    settings: ReplaySettings,
    options: ReplayOptions,
    workers: int,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure in turns: the bare network, a replay by one worker, and one by all.

    Each process has one thread for inference, and each worker a copy of the drive. What a process
    needs to start and to load the model does not count.

    Args:
        bag: recorded drive.
        settings: model and backend.
        options: what each replay writes, and how many frames it has.
        workers: processes at a time.
        rounds: of these turns.
        say: called with a line on each round.

    Returns:
        The median of each figure over the rounds.

    Raises:
        InputError: the drive or the settings cannot be used.
    """
    open_drive(bag).close()  # an error, if it cannot be used
    settings = replace(settings, threads=1)
    found: list[dict[str, float]] = []
    for number in range(rounds):
        one, every = (_replayed(bag, settings, options, count) for count in (1, workers))
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            calls = [round(BARE_S * every / workers)] * workers
            bare = sum(pool.map(_bare_frames_per_s, [settings] * workers, calls))
        found.append({"bare": bare, "one_worker": one, "all_workers": every})
        say(f"round {number + 1} of {rounds}: {every:.0f} frames/s, bare network {bare:.0f}")
    figures = {f"{name}_frames_per_s": median(one[name] for one in found) for name in found[0]}
    core_hours = median(workers * FRAMES_IN_1000_KM / one["all_workers"] / 3600 for one in found)
    return {
        "machine": machine(),
        "bag": str(bag),
        "model": settings.model,
        "backend": settings.backend,
        "workers": workers,
        "pictures": options.pictures,
        **figures,
        "times_the_bare_network": median(one["bare"] / one["all_workers"] for one in found),
        "times_one_worker": median(one["all_workers"] / one["one_worker"] for one in found),
        "core_hours_per_1000_km": core_hours,
    }


def result_table(result: dict[str, Any]) -> Table:
    """The figures of a result, a row each."""
    table = figure_table([f"{result['workers']} workers, {result['model']}"], ["median"])
    for name, value in result.items():
        if isinstance(value, float):
            table.add_row(name.replace("_", " "), f"{value:.2f}")
    return table


def _replayed(bag: Path, settings: ReplaySettings, options: ReplayOptions, count: int) -> float:
    """Frames in a second, of all workers together."""
    with TemporaryDirectory() as folder:
        request = ReplayRequest([bag] * count, Path(folder), workers=count)
        drives = Drives(request, load_model(settings.model), settings, options)
        replayed = drives.replay_by_workers(lambda *_: None)
    if replayed.failed:
        raise BagError("; ".join(replayed.failed.values()))
    return sum(float(one["speed"]["frames_per_s"]) for one in replayed.summaries.values())


def _bare_frames_per_s(settings: ReplaySettings, calls: int) -> float:
    """Frames in a second that one process infers beside the others."""
    with LoadedModel(settings, str(cache_folder())) as loaded:
        durations_ns = loaded.bare_inference_ns(calls)
    return 1e9 * len(durations_ns) / sum(durations_ns)
