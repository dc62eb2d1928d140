"""Train a network of the `open` family and make model folders of it.

    python -m model_compression.distillation train RECIPE RUN [--start CHECKPOINT|NAME-float]
    python -m model_compression.distillation checkpoint RUN FILE [--begun SHARE]
    python -m model_compression.distillation prune RECIPE CHECKPOINT FILE WIDTHxHEIGHT GMAC
    python -m model_compression.distillation model RECIPE CHECKPOINT NAME WIDTHxHEIGHT
        [--steps N] [--thresholds SET.yaml …] [--data SET.yaml …]

`train` ends with the recipe's steps, or by Ctrl-C. However it was stopped, the same command goes
on; two minutes are lost at most, or what last layers learned alone. `--start` begins with the
weights of a checkpoint, or of a model folder NAME-float of any model but `open-m`. `checkpoint`
writes the weights in half precision, for another machine; with `--begun 0.5` the mean of them and
of those that the run began with, which forgets less (Wortsman et al., Robust fine-tuning of
zero-shot models, CVPR 2022). `prune` writes a checkpoint with a short stem and fewer channels,
which `train --start` heals. `model` writes NAME-float and NAME, of 8 bits, into `--models`, with
what was measured on the sets of `--data`. On those of `--thresholds` it finds the score at which
each class is best reported, and makes it 0.25.
"""

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from model_compression.contract import STRIDES
from model_compression.distillation.config import read_recipe
from model_compression.distillation.femto import Femto
from model_compression.distillation.femto_training import FemtoTrainer
from model_compression.distillation.folders import write_folders
from model_compression.distillation.intel import Original
from model_compression.distillation.intel_training import IntelTrainer
from model_compression.distillation.pruning import write_pruned
from model_compression.distillation.training import (
    BEGUN,
    STATE,
    Trainer,
    read_checkpoint,
    save_checkpoint,
)
from model_compression.errors import CompressionError
from model_compression.trial import add_accuracy, evaluated
from perception_nodes.cli.common import progress_bar
from perception_nodes.core.errors import PerceptionError
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.networks.model import load_model
from perception_nodes.system.files import staged


def train(trainer: Callable[[], Trainer], run: Path, threads: int = 1) -> None:
    """Train until the end, or until SIGINT or SIGTERM; a teacher has a processor of its own.

    Raises:
        SystemExit: with 128 and the number of the signal that stopped it.
    """
    run.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(threads)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _: signals.append(which))

    def report(facts: dict[str, Any]) -> None:
        line = json.dumps({"time_s": round(time.time()), **facts})
        with (run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    training = trainer()
    training.run(report, lambda: bool(signals))
    if training.step < training.recipe.steps:
        sys.exit(128 + signals[0])
    print(f"all {training.step} steps are done; {run / STATE} has the network")


def write_checkpoint(run: Path, file: Path, begun: float = 0.0) -> None:
    """Write the averaged weights of a run, what a new run can start from.

    Args:
        run: folder of the run.
        file: to write.
        begun: share of the weights that it began with.
    """
    saved = read_checkpoint(run / STATE)
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
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found or int(found[1]) % STRIDES[-1] or int(found[2]) % STRIDES[-1]:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give width and height, multiples of {STRIDES[-1]}, such as 416x256"
        )
    return int(found[1]), int(found[2])


def share_of(text: str) -> float:
    """Read a number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share from 0 to 1")
    return value


def parser_of() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model_compression.distillation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, what: str, **positional: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=what, description=what)
        for key, words in positional.items():
            one.add_argument(key, type=Path, help=words)
        return one

    recipe = "YAML file, such as model_compression/configs/open-n.yaml"
    size = {"type": size_of, "metavar": "WIDTHxHEIGHT", "help": "of the input, pixels"}
    run, state = "folder of the training", "state.pt of a training, checkpoint or NAME-float"
    one = add("train", "Train, or go on with it.", recipe=recipe, run=run)
    one.add_argument("--start", type=Path, help="checkpoint or NAME-float to begin with")
    one = add("checkpoint", "Write the weights of a training.", run=run, file="to write")
    one.add_argument("--begun", type=share_of, default=0.0, help="share of the first weights")
    one = add("prune", "Make a network smaller.", recipe=recipe, checkpoint=state, file="to write")
    one.add_argument("size", **size)
    one.add_argument("gmac", type=float, help="10^9 multiply-accumulates that may be left")
    one = add("model", "Write model folders.", recipe=recipe, checkpoint=state)
    one.add_argument("name", help="of the model")
    one.add_argument("size", **size)
    one.add_argument("--steps", type=int, default=0, help="of quantization-aware training")
    several = {"action": "append", "default": [], "metavar": "SET.yaml"}
    one.add_argument("--thresholds", **several, help="set to choose them on, for each again")
    one.add_argument("--data", **several, help="set to state the accuracy on, for each again")
    one.add_argument(
        "--models", type=Path, default=Path("models"), help="folder, by default models"
    )
    return parser


def main() -> None:
    """Read the command line and do what it says."""
    given = parser_of().parse_args()
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
            judged_by = read_sets(given.thresholds)
            with staged(given.models) as folder:
                for written in write_folders(
                    recipe, given.checkpoint, given.name, given.size, folder, given.steps, judged_by
                ):
                    judged = evaluated(load_model(str(written)), sets, progress_bar)
                    add_accuracy(written, judged, print)
            print(given.models / given.name)


if __name__ == "__main__":
    try:
        main()
    except (PerceptionError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
