"""Train a network of the `open` family, or go on with a training.

    python -m model_compression.distillation RECIPE RUN [CHECKPOINT]

RUN is a folder; a training that was stopped, by Ctrl-C or in any other way, goes on from it with
the same command, two minutes lost at most. CHECKPOINT holds the weights of an earlier training, as

    python -m model_compression.distillation checkpoint RUN FILE

writes them, in half precision.
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import torch

from model_compression.distillation.config import read_recipe
from model_compression.distillation.training import STATE, Trainer
from model_compression.errors import CompressionError


def train(recipe: Path, run: Path, start: Path | None = None) -> None:
    """Train until the end, or until SIGINT or SIGTERM."""
    run.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)  # the teacher has the other core
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def report(facts: dict[str, Any]) -> None:
        line = json.dumps({"time_s": round(time.time()), **facts})
        with (run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    Trainer(read_recipe(recipe), run, start).run(report, stopped.is_set)


def write_checkpoint(run: Path, file: Path) -> None:
    """Write the averaged weights and the adapters of a run, what a new run can start from."""
    saved = torch.load(run / STATE, map_location="cpu", weights_only=True)
    kept = {"model": saved["average"], "average": saved["average"], "adapters": saved["adapters"]}
    small: dict[str, Any] = {
        # Only weights: variances may be beyond half precision's range.
        part: {name: v.half() if v.ndim > 1 else v for name, v in values.items()}
        for part, values in kept.items()
    }
    partial = file.with_suffix(".partial")
    torch.save({"step": saved["step"], **small}, partial)
    partial.rename(file)


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["checkpoint"]:
            write_checkpoint(*map(Path, sys.argv[2:4]))
        else:
            train(*map(Path, sys.argv[1:4]))
    except (CompressionError, TypeError) as error:
        sys.exit(f"{error}; python -m model_compression.distillation RECIPE RUN [CHECKPOINT]")
