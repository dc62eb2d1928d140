"""Checkpoints of Ultralytics (`.pt`): read, and exported as ONNX for `perception model import`."""

import logging
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

from ultralytics import YOLO
from ultralytics.utils import LOGGER

from model_compression.errors import CompressionError

OPSET = 17


def load_detector(checkpoint: Path) -> YOLO:
    """Read a checkpoint with the tool that wrote it.

    A checkpoint is a program: reading it runs what its author put there.

    Raises:
        CompressionError: it cannot be read, or is no detector.
    """
    LOGGER.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            network = YOLO(checkpoint, verbose=False)
    except Exception as error:  # of many kinds, from unpickling
        raise CompressionError(
            f"{checkpoint.name} cannot be read by ultralytics ({_reason(error)}); take the best.pt "
            "of a YOLO detector that it has trained"
        ) from error
    if network.task != "detect":
        task = f"{checkpoint.name} is a network for {network.task!r}"
        raise CompressionError(f"{task}; take a detector")
    return network


def class_names(checkpoint: Path) -> list[str]:
    """The names of a detector's classes by index; raises what ``load_detector`` raises."""
    return [str(name) for name in load_detector(checkpoint).names.values()]


def license_in(checkpoint: Path) -> str:
    """What a detector says of its licence, empty for nothing; raises as ``load_detector`` does."""
    return str(load_detector(checkpoint).ckpt.get("license") or "")


def export_onnx(checkpoint: Path, size: tuple[int, int] | None, folder: Path) -> Path:
    """Export a checkpoint.

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
    network = load_detector(copy)
    stride = int(network.model.stride.max())
    if size is not None and (size[0] % stride or size[1] % stride):
        raise CompressionError(
            f"{checkpoint} cannot have an input of {size[0]}x{size[1]}; give a --size of multiples "
            f"of {stride}"
        )
    sizes = {} if size is None else {"imgsz": size[::-1]}
    try:
        with redirect_stdout(sys.stderr):
            network.export(format="onnx", opset=OPSET, simplify=False, verbose=False, **sizes)
    except Exception as error:  # of many kinds, from tracing
        raise CompressionError(
            f"{checkpoint} cannot be exported ({_reason(error)}); export it to ONNX where it was "
            "trained"
        ) from error
    copy.unlink()
    return copy.with_suffix(".onnx")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
