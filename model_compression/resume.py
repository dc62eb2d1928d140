"""Small checkpoints, for a training that goes on on another machine.

    python -m model_compression.resume RUN FOLDER

writes FOLDER/STEP.pt for the training that is under way in a run: the averaged weights in half
precision and the step that was reached, a twelfth of the training's own state. `checkpoint: FOLDER`
in the configuration lets a new run go on from there; only the optimizer starts afresh. The curve of
what was measured on the way goes along, and the terms of what it was made from.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from model_compression.errors import CompressionError
from model_compression.origin import FILE

STATE = "state.pt"
CURVE = "curve.csv"


def write_checkpoint(run: Path, folder: Path) -> Path:
    """Write the newest training's checkpoint, then remove the folder's older `distil-*.pt`.

    Raises:
        CompressionError: no training is under way in the run.
    """
    states = sorted(run.glob(f"*/{STATE}"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise CompressionError(f"{run} has no */{STATE}: no training is under way in it")
    saved = torch.load(states[-1], map_location="cpu", weights_only=True)
    average = _halved(saved["average"])
    small = {
        "step": saved["step"],
        "model": average,
        "average": average,
        "features": _halved(saved["features"]),
        "regression": _halved(saved["regression"]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{states[-1].parent.name}.pt"
    partial = path.with_suffix(".partial")
    torch.save(small, partial)
    partial.rename(path)
    for old in folder.glob("distil-*.pt"):
        if old != path:
            old.unlink()
    for name in (CURVE, FILE):
        if (run / name).exists():
            shutil.copyfile(run / name, folder / name)
    return path


def take_checkpoint(checkpoint: Path, training: Path) -> None:
    """Let a training, given by its folder in a run, go on from a checkpoint if it has not begun."""
    training.mkdir(parents=True, exist_ok=True)
    curve = training.parent / CURVE
    for source, target in (
        (checkpoint.with_name(CURVE), curve),
        (checkpoint, training / STATE),  # last: with it the training has begun
    ):
        if source.exists() and not (training / STATE).exists():
            partial = target.with_suffix(".partial")
            shutil.copyfile(source, partial)
            partial.rename(target)


def _halved(values: dict[str, Any]) -> dict[str, Any]:
    # Only weights: variances may be beyond half precision's range.
    return {name: v.half() if v.ndim > 1 else v for name, v in values.items()}


if __name__ == "__main__":
    try:
        print(write_checkpoint(*map(Path, sys.argv[1:3])))
    except (CompressionError, TypeError) as error:
        sys.exit(f"{error}; python -m model_compression.resume RUN FOLDER")
