"""Detectors of transformers (`.safetensors` beside a `config.json`): read, and exported as ONNX.

Run it as ``python -I of_transformers.py CHECKPOINT ONNX [WIDTHxHEIGHT]``. The files hold weights
and descriptions alone, and no program of their author's is run.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path

import onnx
import torch
from transformers import AutoConfig, AutoModelForObjectDetection
from transformers.utils import logging

OPSET = 17
BYTE = 255.0
PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of pixels from 0 to 1, as `perception model import` takes them for granted."""


class UnusableCheckpoint(Exception):
    """A checkpoint that cannot be read or exported; the text says why and what to do."""


class Detector(torch.nn.Module):
    """A detector that takes pixels as the import gives them, whatever it was trained with."""

    def __init__(self, network: torch.nn.Module, pixels: dict) -> None:
        """Take the network, and the content of its `preprocessor_config.json`."""
        super().__init__()
        self.network = network
        given = IMAGENET if has_no_object(network) else PLAIN
        scale = pixels.get("rescale_factor", 1 / BYTE) if pixels.get("do_rescale", True) else 1.0
        wanted = PLAIN
        if pixels.get("do_normalize", True):
            wanted = (
                pixels.get("image_mean") or IMAGENET[0],
                pixels.get("image_std") or IMAGENET[1],
            )
        (given_mean, given_std), (mean, std) = (map(torch.tensor, one) for one in (given, wanted))
        factor = given_std * BYTE * scale / std
        offset = (given_mean * BYTE * scale - mean) / std
        self.register_buffer("factor", factor.float()[:, None, None])
        self.register_buffer("offset", offset.float()[:, None, None])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes and logits of an image, float32 [1, 3, height, width]."""
        found = self.network(image * self.factor + self.offset)
        return found.pred_boxes, found.logits


def main() -> int:
    """Return the exit status; what is wrong is printed."""
    checkpoint, onnx_file, *size = sys.argv[1:]
    width, height = map(int, size[0].split("x")) if size else (0, 0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # of tracing, for developers
    try:
        export(Path(checkpoint), Path(onnx_file), (width, height) if size else None)
    except UnusableCheckpoint as problem:
        print(problem)
        return 2
    return 0


def export(checkpoint: Path, onnx_file: Path, size: tuple[int, int] | None) -> None:
    """Export a checkpoint.

    Args:
        checkpoint: the `.safetensors` file, beside the other files of its network.
        onnx_file: the file to write.
        size: width and height of the input; None for those of its description.

    Raises:
        UnusableCheckpoint: it cannot be read or exported, or is no detector.
    """
    folder = checkpoint.parent
    if checkpoint.name != "model.safetensors":
        raise UnusableCheckpoint(f"{checkpoint} is read as model.safetensors; name it so")
    try:
        # No program of the author's is run, nor asked for.
        own = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(folder, **own)
        config.use_pretrained_backbone = False  # the weights are in the checkpoint
        network = AutoModelForObjectDetection.from_pretrained(
            folder, config=config, use_safetensors=True, **own
        )
    except Exception as error:  # of many kinds: no detector, other weights, a damaged file
        raise UnusableCheckpoint(
            f"{checkpoint} cannot be read by transformers ({short(error)}); take the folder of a "
            "detector that it has saved"
        ) from error
    pixels = described(folder / "preprocessor_config.json")
    width, height = size or size_of(pixels, checkpoint)
    detector = Detector(network.eval().float(), pixels)
    try:
        torch.onnx.export(
            detector,
            (torch.zeros(1, 3, height, width),),
            onnx_file,
            input_names=["image"],
            output_names=["boxes", "logits"],
            opset_version=OPSET,
            dynamo=False,
        )
    except Exception as error:  # of many kinds, from tracing
        raise UnusableCheckpoint(
            f"{checkpoint} cannot be exported at {width}x{height} ({short(error)}); give another "
            "--size, in multiples of 32, or export it to ONNX where it was trained"
        ) from error
    exported = onnx.load(onnx_file)
    # Files have them in any order, and COCO's numbers of 2014 have gaps of this name.
    names = [name for _, name in sorted(config.id2label.items()) if name != "N/A"]
    head = "detr-softmax" if has_no_object(network) else "detr-queries"
    facts = {"perception_head": head, "names": str(names)}
    facts["license"] = license_in(folder / "README.md")
    onnx.helper.set_model_props(exported, {name: said for name, said in facts.items() if said})
    onnx.save(exported, onnx_file)


def has_no_object(network: torch.nn.Module) -> bool:
    """Whether its last class is for no object: scores are then those of a softmax."""
    classifier = getattr(network, "class_labels_classifier", None)
    if classifier is None:
        return False
    *_, last = classifier.modules()
    return last.out_features > network.config.num_labels


def described(path: Path) -> dict:
    """The content of the JSON file that says how pixels are scaled.

    Raises:
        UnusableCheckpoint: it is not there, or is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnusableCheckpoint(
            f"{path}, which says how pixels are scaled, is not there; take the whole folder of the "
            "network"
        ) from error
    except ValueError as error:
        raise UnusableCheckpoint(f"{path} is damaged ({short(error)}); copy it again") from error


def size_of(pixels: dict, checkpoint: Path) -> tuple[int, int]:
    """Width and height that frames are brought to.

    Raises:
        UnusableCheckpoint: they are left open.
    """
    size = pixels.get("size")
    if isinstance(size, dict) and {"width", "height"} <= {*size}:
        return int(size["width"]), int(size["height"])
    raise UnusableCheckpoint(
        f"{checkpoint} leaves the size of its input open; give --size WIDTHxHEIGHT"
    )


def license_in(card: Path) -> str:
    """What the head of a model card says of the licence; empty for nothing."""
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.S)
    found = head and re.search(r"^license:[ \t]*([^\s\[]+)", head[1], re.M)
    return found[1].strip("'\"") if found else ""


def short(error: Exception) -> str:
    """The text of an error, in one line."""
    return " ".join(str(error).split())[:200]


if __name__ == "__main__":
    sys.exit(main())
