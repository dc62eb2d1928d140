"""Networks of Ultralytics (`.pt`): read, and exported as ONNX.

Run it as ``python -I of_ultralytics.py CHECKPOINT ONNX [WIDTHxHEIGHT]``.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from ultralytics import YOLO
from ultralytics.utils import LOGGER

OPSET = 17
WITH_BOXES = ("detect", "segment", "pose", "obb")


class UnusableCheckpoint(Exception):
    """A checkpoint that cannot be read or exported; the text says why and what to do."""


def main() -> int:
    """Return the exit status; what is wrong is printed."""
    checkpoint, onnx_file, *size = sys.argv[1:]
    width, height = map(int, size[0].split("x")) if size else (0, 0)
    try:
        export(Path(checkpoint), Path(onnx_file), (width, height) if size else None)
    except UnusableCheckpoint as problem:
        print(problem)
        return 2
    return 0


def load_network(checkpoint: Path) -> YOLO:
    """Read a checkpoint with the tool that wrote it, which runs what its author put there.

    Raises:
        UnusableCheckpoint: it cannot be read.
    """
    LOGGER.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            return YOLO(checkpoint, verbose=False)
    except Exception as error:  # of many kinds, from unpickling
        raise UnusableCheckpoint(
            f"{checkpoint.name} cannot be read by ultralytics ({short(error)}); take the best.pt "
            "of a YOLO detector that it has trained"
        ) from error


def export(checkpoint: Path, onnx_file: Path, size: tuple[int, int] | None) -> None:
    """Export a checkpoint.

    Args:
        checkpoint: the `.pt` file.
        onnx_file: the file to write.
        size: width and height of the input; None for those that it was trained with.

    Raises:
        UnusableCheckpoint: it cannot be read or exported, or finds no boxes.
    """
    with tempfile.TemporaryDirectory(dir=onnx_file.parent) as folder:
        # The tool writes beside the file that it reads, and knows a suffix in small letters alone.
        copy = Path(folder) / f"{checkpoint.stem}.pt"
        shutil.copy(checkpoint, copy)
        network = load_network(copy)
        if network.task not in WITH_BOXES:
            task = f"{checkpoint.name} is a network for {network.task!r}, which finds no boxes"
            raise UnusableCheckpoint(f"{task}; take a detector")
        stride = int(network.model.stride.max())
        if size is not None and (size[0] % stride or size[1] % stride):
            raise UnusableCheckpoint(
                f"{checkpoint} cannot have an input of {size[0]}x{size[1]}; give a --size of "
                f"multiples of {stride}"
            )
        sizes = {} if size is None else {"imgsz": size[::-1]}
        try:
            with redirect_stdout(sys.stderr):
                network.export(format="onnx", opset=OPSET, simplify=False, verbose=False, **sizes)
        except Exception as error:  # of many kinds, from tracing
            raise UnusableCheckpoint(
                f"{checkpoint} cannot be exported ({short(error)}); export it to ONNX where it was "
                "trained"
            ) from error
        copy.with_suffix(".onnx").rename(onnx_file)


def short(error: Exception) -> str:
    """The text of an error, in one line."""
    return " ".join(str(error).split())[:200]


if __name__ == "__main__":
    sys.exit(main())
