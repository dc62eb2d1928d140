"""Train a network of the `open` family and make model folders of it.

    python -m model_compression.distillation train RECIPE RUN [--start CHECKPOINT]
    python -m model_compression.distillation checkpoint RUN FILE [--begun SHARE]
    python -m model_compression.distillation prune RECIPE CHECKPOINT FILE WIDTHxHEIGHT GMAC
    python -m model_compression.distillation model RECIPE CHECKPOINT NAME WIDTHxHEIGHT \
        [--steps N] [--thresholds SET.yaml …] [--data SET.yaml …]

`train` ends with the recipe's steps, or by Ctrl-C. However it was stopped, the same command goes
on; two minutes are lost at most. `checkpoint` writes the weights in half precision, for `--start`
on another machine; with `--begun 0.5` the mean of them and of those that the run began with, which
forgets less (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). `prune` writes a
checkpoint with a short stem and fewer channels, which `train --start` heals. `model` writes
NAME-float and NAME, of 8 bits, into `--models`, with what was measured on the sets of `--data`. On
those of `--thresholds` it finds the score at which each class is best reported, and makes it 0.25.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from model_compression.distillation.config import read_recipe
from model_compression.distillation.femto import Femto
from model_compression.distillation.femto_training import FemtoTrainer
from model_compression.distillation.folders import write_folders
from model_compression.distillation.intel import Original
from model_compression.distillation.intel_training import IntelTrainer
from model_compression.distillation.pruning import write_pruned
from model_compression.distillation.training import BEGUN, STATE, Trainer, save_checkpoint
from model_compression.errors import CompressionError
from model_compression.trial import add_accuracy
from perception_nodes.evaluation.accuracy import evaluate
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.labels import DataError
from perception_nodes.networks.model import load_model


def train(trainer: Callable[[], Trainer], run: Path, threads: int = 1) -> None:
    """Train until the end, or until SIGINT or SIGTERM; a teacher has a processor of its own."""
    run.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(threads)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def report(facts: dict[str, Any]) -> None:
        line = json.dumps({"time_s": round(time.time()), **facts})
        with (run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    trainer().run(report, stopped.is_set)


def write_checkpoint(run: Path, file: Path, begun: float = 0.0) -> None:
    """Write the averaged weights of a run, what a new run can start from.

    Args:
        run: folder of the run.
        file: to write.
        begun: share of the weights that it began with.
    """
    saved = torch.load(run / STATE, map_location="cpu", weights_only=True)
    average = saved["average"]
    if begun:
        if not (run / BEGUN).is_file():
            raise CompressionError(
                f"{run / BEGUN} is not there: the run began with --start; leave --begun out"
            )
        first = torch.load(run / BEGUN, map_location="cpu", weights_only=True)
        average = {k: torch.lerp(v, first[k], begun) for k, v in average.items()}
    save_checkpoint(average, saved["step"], file)


def size_of(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT."""
    width, height = map(int, text.split("x"))
    return width, height


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m model_compression.distillation")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train")
    one.add_argument("recipe", type=Path)
    one.add_argument("run", type=Path)
    one.add_argument("--start", type=Path)
    one = commands.add_parser("checkpoint")
    one.add_argument("run", type=Path)
    one.add_argument("file", type=Path)
    one.add_argument("--begun", type=float, default=0.0, help="share of the first weights")
    one = commands.add_parser("prune")
    one.add_argument("recipe", type=Path)
    one.add_argument("checkpoint", type=Path)
    one.add_argument("file", type=Path)
    one.add_argument("size", type=size_of)
    one.add_argument("gmac", type=float)
    one = commands.add_parser("model")
    one.add_argument("recipe", type=Path)
    one.add_argument("checkpoint", type=Path)
    one.add_argument("name")
    one.add_argument("size", type=size_of)
    one.add_argument("--steps", type=int, default=0, help="of quantization-aware training")
    one.add_argument("--thresholds", action="append", default=[], help="set to choose them on")
    one.add_argument("--models", type=Path, default=Path("models"))
    one.add_argument("--data", action="append", default=[], help="set to state the accuracy on")
    given = parser.parse_args()
    match given.command:
        case "train":
            recipe = read_recipe(given.recipe)
            weights = recipe.data / recipe.teacher
            if recipe.network != "intel":
                femto = Femto(weights)
                threads = len(os.sched_getaffinity(0))
                train(
                    lambda: FemtoTrainer(recipe, given.run, femto, given.start), given.run, threads
                )
            else:
                original = Original(weights)
                train(lambda: IntelTrainer(recipe, given.run, original, given.start), given.run)
        case "checkpoint":
            write_checkpoint(given.run, given.file, given.begun)
        case "prune":
            recipe = read_recipe(given.recipe)
            write_pruned(recipe, given.checkpoint, given.file, given.size, given.gmac)
        case _:
            recipe, sets = read_recipe(given.recipe), read_sets(given.data)
            for folder in write_folders(
                recipe,
                given.checkpoint,
                given.name,
                given.size,
                given.models,
                given.steps,
                read_sets(given.thresholds),
            ):
                model = load_model(str(folder))
                add_accuracy(folder, [evaluate(model, one) for one in sets], print)
                print(folder)


if __name__ == "__main__":
    try:
        main()
    except (CompressionError, DataError) as error:
        sys.exit(str(error))
