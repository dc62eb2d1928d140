"""Checkpoints as Ultralytics writes them, of networks that were never near its training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from ultralytics.nn.tasks import DetectionModel, yaml_model_load


def save_random(path: Path, network: str, names: Sequence[str]) -> None:
    """Save a network of random weights with these classes."""
    torch.manual_seed(0)
    model = DetectionModel(yaml_model_load(f"{network}.yaml") | {"nc": len(names)}, verbose=False)
    save(path, model, names)


def save(path: Path, model: DetectionModel, names: Sequence[str]) -> None:
    """Save a network with these classes."""
    model.names = dict(enumerate(names))
    torch.save({"model": model, "train_args": {}}, path)
