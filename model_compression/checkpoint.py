"""Checkpoints of Ultralytics (`.pt`), as the steps of a compression read them."""

from pathlib import Path

from ultralytics import YOLO

from model_compression.errors import CompressionError
from model_compression.exporters import of_ultralytics


def load_detector(checkpoint: Path) -> YOLO:
    """Read a checkpoint with the tool that wrote it.

    A checkpoint is a program: reading it runs what its author put there.

    Raises:
        CompressionError: it cannot be read, or is no detector.
    """
    try:
        network = of_ultralytics.load_network(checkpoint)
    except of_ultralytics.UnusableCheckpoint as problem:
        raise CompressionError(str(problem)) from problem
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
