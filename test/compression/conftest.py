"""A small data folder and random checkpoints, made on the spot: what a compression run needs."""

import os

import pytest
import yaml
from scenes import draw_scene, write_set

from perception_nodes.networks.class_names import COCO_NAMES

# Networks are so small here that two threads wait for each other, for minutes on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Twelve labelled images to train on, and twelve to measure on, in `set/`."""
    folder = tmp_path_factory.mktemp("data")
    write_set(folder / "set", {"train": 12, "val": 12}, draw_scene)
    (folder / "set/classes.txt").write_text("car\n")
    return folder


@pytest.fixture(scope="session")
def checkpoint(data):
    """A YOLOv8n of COCO's 80 classes with random weights, in the data folder."""
    pytest.importorskip("torch", reason="needs the build tools: make compression")
    pytest.importorskip("ultralytics")
    from checkpoints import save_random

    path = data / "random.pt"
    save_random(path, "yolov8n", COCO_NAMES)
    return path


@pytest.fixture
def values(data):
    """A configuration for those images that takes seconds."""
    (data / "random.pt").touch()
    training = {"epochs": 1, "batch": 4}
    return {
        "name": "tiny",
        "parent": "tiny-dense",
        "width": 96,
        "height": 64,
        "data": str(data),
        "teacher": "random.pt",
        "labeller": "random.pt",
        "classes": ["person", "car"],
        "sources": [
            {
                "name": "set",
                "images": "set/images/train/*.png",
                "classes": {0: "car"},
                "labeller_long_side_px": 64,
                "license": "CC0",
            }
        ],
        "dense": training,
        "swap": training,
        "prune": {"gmac": 0.04, "rounds": 1, "images": 4, "healing": training},
        "distil": [training],
        "quantize": {"images": 8},
    }


@pytest.fixture
def write_config(tmp_path):
    """Write a configuration and return its path."""

    def write(values):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write
