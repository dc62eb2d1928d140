"""Checkpoints as Ultralytics writes them, of networks that were never near its training."""

import torch
from ultralytics.nn.tasks import DetectionModel, yaml_model_load


def save_random(path, network, names):
    """Save a network of random weights with these classes."""
    torch.manual_seed(0)
    model = DetectionModel(yaml_model_load(f"{network}.yaml") | {"nc": len(names)}, verbose=False)
    save(path, model, names)


def save(path, model, names):
    """Save a network with these classes."""
    model.names = dict(enumerate(names))
    torch.save({"model": model, "train_args": {}}, path)
