"""A checkpoint of Ultralytics (`.pt`) as ONNX, for `perception model import`."""

import logging
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

from ultralytics import YOLO
from ultralytics.utils import LOGGER

from compression.errors import CompressionError

OPSET = 17


def export_onnx(checkpoint: Path, size: tuple[int, int] | None, folder: Path) -> Path:
    """Export a checkpoint with the tool that wrote it.

    A checkpoint is a program: reading it runs what its author put there.

    Args:
        checkpoint: the `.pt` file.
        size: width and height of the input; None for those that it was trained with.
        folder: where the ONNX file goes.

    Raises:
        CompressionError: it cannot be read or exported, or is no detector.
    """
    if not checkpoint.is_file():
        raise CompressionError(f"{checkpoint} is not there")
    # The tool writes beside the file that it reads, which it knows by a suffix in small letters.
    copy = folder / f"{checkpoint.stem}.pt"
    shutil.copy(checkpoint, copy)
    LOGGER.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            network = YOLO(copy, verbose=False)
            task = network.task
            if task == "detect":
                sizes = {} if size is None else {"imgsz": size[::-1]}
                network.export(format="onnx", opset=OPSET, simplify=False, verbose=False, **sizes)
    except Exception as error:  # of many kinds, from unpickling to tracing
        reason = " ".join(str(error).split())[:200]
        raise CompressionError(
            f"{checkpoint} cannot be exported ({reason}); export it to ONNX where it was trained"
        ) from error
    if task != "detect":
        raise CompressionError(f"{checkpoint} is a network for {task!r}; take a detector")
    copy.unlink()
    return copy.with_suffix(".onnx")
