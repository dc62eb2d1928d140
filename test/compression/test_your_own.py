"""The tutorial, command by command, on painted forklifts and pallets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from refused import refused
from scenes import write_set

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics")

from checkpoints import save, save_random

from model_compression.config import Training
from model_compression.dataset import read_labels, write_sample
from model_compression.model import build_model
from model_compression.pipeline import compress
from model_compression.train import Samples, train
from perception_nodes.core.errors import PerceptionError
from perception_nodes.networks.model import load_model

ROOT = Path(__file__).parents[2]
NAMES = ("forklift", "pallet")
SIZE = WIDTH, HEIGHT = 96, 64
TINY = {
    "width": WIDTH,
    "height": HEIGHT,
    "swap": {"epochs": 10, "features": 2.0},
    "prune": {"gmac": 0.045, "rounds": 1, "healing": {"epochs": 3, "features": 2.0}},
    "distil": [{"epochs": 10, "features": 2.0}],
    "quantize": {"images": 16, "finetune_steps": 20},
}
"""The tutorial's configuration, but for sizes and times."""


def paint(rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """An upright yellow box and a flat brown one on noise, uint8 [64, 96, 3] BGR, and labels."""
    image = rng.integers(60, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = []
    for label, (color, sides) in enumerate((((20, 200, 240), (18, 30)), ((30, 60, 110), (36, 14)))):
        width, height = (side + int(rng.integers(-3, 4)) for side in sides)
        left = label * WIDTH // 2 + int(rng.integers(0, WIDTH // 2 - width))
        top = int(rng.integers(0, HEIGHT - height))
        image[top : top + height, left : left + width] = color
        centre = (left + width / 2) / WIDTH, (top + height / 2) / HEIGHT
        labels.append(f"{label} {centre[0]} {centre[1]} {width / WIDTH} {height / HEIGHT}")
    return image, labels


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder as the tutorial shows it, and a detector of a few classes more."""
    tmp_path = tmp_path_factory.mktemp("own")
    write_set(tmp_path / "yard", {"train": 48, "val": 16}, paint)
    (tmp_path / "yard/data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [forklift, pallet]\n"
    )
    train_detector(tmp_path)
    return tmp_path


def train_detector(folder: Path) -> None:
    """Leave a best.pt that has learned from the folder's labels what is painted there."""
    path, samples = folder / "best.pt", folder / "samples"
    save_random(path, "yolov8n", NAMES)
    for kind in ("images", "labels"):
        (samples / kind).mkdir(parents=True)
    for image in sorted((folder / "yard/images/train").iterdir()):
        labels = read_labels(folder / f"yard/labels/train/{image.stem}.txt", WIDTH, HEIGHT)
        write_sample(samples, image.stem, cv2.imread(str(image)), labels, WIDTH)
    learned = train(
        build_model(path, NAMES),
        build_model(path, NAMES),
        Samples(samples),
        Training(epochs=50, learning_rate=2e-3, distillation=0, mosaic=0.2, warm_up_steps=10),
        size_px=SIZE,
        seed=0,
        state=folder / "state.pt",
        report=lambda _: None,
    )
    model = torch.load(path, weights_only=False)["model"]
    names = ((".box.", ".cv2."), (".classes.", ".cv3."))
    weights = learned.state_dict()
    for ours, theirs in names:
        weights = {key.replace(ours, theirs): value for key, value in weights.items()}
    model.load_state_dict(weights, strict=False)
    save(path, model, NAMES)


def commands() -> list[str]:
    """Those of the tutorial that need no camera."""
    text = (ROOT / "docs/tutorials/your-model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.ros
@pytest.mark.timeout(900)
def test_the_tutorial(drawn: Path) -> None:
    (drawn / "bin").mkdir()
    script = drawn / "bin/perception"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m perception_nodes "$@"\n')
    script.chmod(0o755)
    (drawn / "model_compression").symlink_to(ROOT / "model_compression")
    environment = os.environ | {
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(drawn / "cache"),
    }
    for command in commands():
        how = {"shell": True, "cwd": drawn, "env": environment}
        found = subprocess.run(command, **how, capture_output=True, text=True)
        assert not found.returncode, f"{command}: {found.stdout[-2000:]} {found.stderr[-2000:]}"
        print(f"$ {command}", found.stdout, found.stderr, sep="\n")
        if command.startswith("cp "):
            path = drawn / "forklift.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | TINY))
    models = drawn / "runs/forklift/models"
    small = load_model(str(models / "forklift-n"))
    whole = load_model(str(models / "forklift-float"))
    assert (small.classes, small.precision, small.parent) == ([*NAMES], "int8", whole.name)
    assert small.map50_95["yard/data.yaml"] > 0.5
    assert small.gmac < 0.8 * whole.gmac
    assert (drawn / "out/yard/summary.json").is_file()


BAD = {
    "names that differ": (
        "data.yaml", "names: [forklift, pallet]", "names: [forklift, palette]",
        "class 1 of set yard is 'palette', which is none of forklift, pallet",
    ),
    "swapped names": ("data.yaml", "[forklift, pallet]", "[pallet, forklift]", "as each other"),
    "a class without a name": (
        "labels/train/03.txt", "\n1 ", "\n2 ", r"03.txt:2: class '2' is not one of 0 to 1",
    ),
    "a polygon": ("labels/train/03.txt", "\n1 ", "\n1 0.1 0.1 0.2 ", "03.txt:2: 8 values are a po"),
    "no val": ("data.yaml", "val: images/val\n", "", "data.yaml: val is None; write class names"),
    "val is train": ("data.yaml", "images/val", "images/train", "48 of the 48 images of yard/"),
    "no such folder": ("data.yaml", "images/train", "images/nowhere", "is not a folder; name"),
}  # fmt: skip
"""What is changed in which file, and what is said then."""


@pytest.fixture
def spoiled(drawn: Path, tmp_path: Path) -> Path:
    """A folder of one's own to spoil."""
    subprocess.run(["cp", "-r", drawn / "yard", drawn / "best.pt", tmp_path], check=True)
    values = yaml.safe_load((ROOT / "model_compression/configs/own.yaml").read_text()) | TINY
    (tmp_path / "forklift.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_told_at_once(spoiled: Path, case: str) -> None:
    name, old, new, said = BAD[case]
    path = spoiled / "yard" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert said in refused(PerceptionError, compress, spoiled / "forklift.yaml", spoiled / "run")
    assert not (spoiled / "run").exists()


def test_a_copy_of_an_image_that_is_trained_on_is_noticed(spoiled: Path) -> None:
    images = spoiled / "yard/images"
    (images / "val/00.png").write_bytes((images / "train/07.png").read_bytes())
    with pytest.raises(PerceptionError, match=r"1 of the 16 images of .*val/00\.png for one"):
        compress(spoiled / "forklift.yaml", spoiled / "run")


def test_images_are_looked_at_first(spoiled: Path) -> None:
    path = spoiled / "yard/images/train/05.png"
    path.write_bytes(b"")
    with pytest.raises(PerceptionError, match=r"1 of 48 images are cut off, .*05\.png"):
        compress(spoiled / "forklift.yaml", spoiled / "run")
    for label in (spoiled / "yard/labels/train").iterdir():
        label.write_text("")
    path.unlink()
    with pytest.raises(PerceptionError, match="set yard: not one of 47 images has labels"):
        compress(spoiled / "forklift.yaml", spoiled / "run")
