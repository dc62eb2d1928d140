"""Label road images with detectors under permissive licences, and with what people labelled.

    python -m model_compression.label calibrate RECIPE --data DATA --out FOLDER
    python -m model_compression.label label RECIPE --data DATA --out FOLDER
    python -m model_compression.label measure RECIPE --data DATA --out FOLDER

`calibrate` learns how probable an object is from what the detectors say, on the sets that people
labelled; `label` writes a label file for each frame (see `labels.py`); `measure` compares what the
detectors say with people's labels that nobody learns from. What detectors saw is kept in
FOLDER/looks, so that each goes on where it was stopped.
"""

import argparse
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import cv2

from model_compression.errors import CompressionError
from model_compression.labelling.boxes import GROUP_NAMES
from model_compression.labelling.calibrate import (
    Samples,
    read_calibrations,
    right_objects,
    write_calibrations,
)
from model_compression.labelling.calibration import Calibration
from model_compression.labelling.frames import Frame, frames_of
from model_compression.labelling.held_out import HeldOut
from model_compression.labelling.measure import Measurement, judged_sets
from model_compression.labelling.people import read_people
from model_compression.labelling.recipe import VIEWS, Recipe, read_recipe
from model_compression.labelling.worker import Seen, Worker
from model_compression.screen import screen
from perception_nodes.cli.common import progress_bar
from perception_nodes.core.errors import PerceptionError

CALIBRATION = "calibration.json"
INTERRUPTED = 130
NOTHING = HeldOut.read([])
T = TypeVar("T")
_worker: Worker


def calibrate(recipe: Recipe, given: argparse.Namespace) -> None:
    """Fit the probabilities of objects, where people labelled all and every voice has looked."""
    samples = {group: Samples() for group in GROUP_NAMES}
    full = [one for one in recipe.sets if one.groups and not one.partial]
    sets = {one.name: one for one in full if len(one.views) == len(VIEWS)}
    if lacking := {*GROUP_NAMES}.difference(*(one.groups for one in sets.values())):
        raise CompressionError(
            f"no set that all voices look at has people's labels of {min(lacking)}; add one"
        )
    frames = [
        frame for one in sets.values() for frame in frames_of(given.data, one.name, one.images)
    ]
    for frame, size_px, found in watched(_see, frames, given):
        images, people = sets[frame.set_name], read_people(given.data, frame, size_px)
        for group in images.groups:
            right, judged = right_objects(found[group], group, people, images)
            samples[group].add(found[group], right, judged, size_px[1])
    calibrations = {
        group: one.calibration([voice.trust_in(group) for voice in recipe.by_voice()])
        for group, one in samples.items()
    }
    for group, other in recipe.constants.items():
        calibrations[group].weights[-1] = calibrations[other].weights[-1]
    write_calibrations(calibrations, recipe, given.out / CALIBRATION)


def label(recipe: Recipe, given: argparse.Namespace) -> None:
    """Write the label files; frames that are nearly held back are refused, and counted."""
    calibrations = read_calibrations(given.out / CALIBRATION, recipe)
    found = {one: sorted(given.data.glob(one)) for one in recipe.held_out}
    for one in (one for one, paths in found.items() if not paths):
        screen.print(f"held_out: no file matches {one}", markup=False)
    paths = [path for some in found.values() for path in some]
    held_out = HeldOut.read(paths)
    used = given.recipe, given.out / CALIBRATION, *{path.parent for path in paths}
    newest = max(path.stat().st_mtime for path in used)
    for one in recipe.sets:
        if given.sets and one.name not in given.sets:
            continue
        frames = frames_of(given.data, one.name, one.images)
        refused = 0
        todo = [frame for frame in frames if not _is_newer(frame.file(given.out), newest)]
        for taken in watched(_label, todo, given, one.name, held_out, calibrations):
            refused += not taken
        screen.print(f"{one.name}: {len(frames)} frames, {refused} refused as nearly held back")


def measure(recipe: Recipe, given: argparse.Namespace) -> None:
    """Print average precision on people's labels, by group and height."""
    calibrations = read_calibrations(given.out / CALIBRATION, recipe)
    for one in judged_sets(given.data):
        measurement = Measurement(one, calibrations, recipe)
        for seen in watched(_see, measurement.frames(given.data), given, one.name):
            measurement.add(*seen)
        print(measurement.report(), flush=True)


def watched(
    work: Callable[[Frame], T],
    frames: Sequence[Frame],
    given: argparse.Namespace,
    title: str = "frames",
    held_out: HeldOut = NOTHING,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Iterator[T]:
    """Do work with each frame in several processes, and show how far it is."""
    context = multiprocessing.get_context("spawn")
    given_to_all = (given.recipe, given.data, given.out, held_out, calibrations or {})
    with progress_bar(title) as progress, context.Pool(given.workers, _begin, given_to_all) as pool:
        for done, one in enumerate(pool.imap(work, frames), start=1):
            progress(done, len(frames))
            yield one


def _begin(
    recipe: Path, data: Path, out: Path, held_out: HeldOut, calibrations: Mapping[str, Calibration]
) -> None:
    """Prepare a process; Ctrl-C is left to the one that started it."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _worker = Worker(read_recipe(recipe), data, out, calibrations, held_out)


def _see(frame: Frame) -> Seen:
    return _worker.see(frame)


def _label(frame: Frame) -> bool:
    return _worker.label(frame)


def _is_newer(path: Path, time_s: float) -> bool:
    return path.exists() and path.stat().st_mtime > time_s


ACTIONS = {"calibrate": calibrate, "label": label, "measure": measure}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("recipe", type=Path, help="YAML file, such as configs/labels.yaml")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("PERCEPTION_DATA"),
        help="folder of images and weights; by default $PERCEPTION_DATA",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of labels and looks")
    parser.add_argument("--sets", nargs="+", default=[], help="label these alone")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data is missing, and $PERCEPTION_DATA is not set")
    if given.workers < 1:
        parser.error(f"--workers {given.workers}: give 1 or more")
    try:
        recipe = read_recipe(given.recipe)
        if unknown := {*given.sets} - {one.name for one in recipe.sets}:
            raise CompressionError(f"the recipe has no set {min(unknown)}; correct --sets")
        ACTIONS[given.action](recipe, given)
    except (PerceptionError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, "stopped; the same command goes on from here\n")


if __name__ == "__main__":
    main()
