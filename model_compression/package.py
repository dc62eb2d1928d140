"""Model folders: ONNX files, and `model.yaml` that says what they are and how they were made."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import yaml

from model_compression import contract
from model_compression.config import Config
from model_compression.errors import CompressionError
from model_compression.quantization import RangeTable, emit, write_table
from perception_nodes.backends.model import (
    UNSTATED,
    Model,
    ModelError,
    forbids_commerce,
    load_model,
)
from perception_nodes.evaluation import Evaluation
from perception_nodes.evaluation.classes import class_losses, without_evidence

IN_PART = "; made in part of non-commercial material: non-commercial use"
PARTLY = re.compile(
    r"; (made|trained) in part (of|on) non-commercial material: non-commercial use$"
)
MODEL = "model:"
"""Before the name of a model folder that a step starts from, where no run of it is left."""


@dataclass(frozen=True)
class Variant:
    """A network of a run, to be written as a model folder.

    Attributes:
        name: of the model.
        parent: the dense FP32 model it is compared with; none for that one itself.
        activation: hardswish, relu or silu.
        gmac: 10^9 multiply-accumulates a frame.
        parameters: how many.
        graph: float ONNX.
        table: ranges, for an 8-bit model.
        evaluations: as measured, set by set.
        history: facts of the steps that made it.
    """

    name: str
    parent: str | None
    activation: str
    gmac: float
    parameters: int
    graph: onnx.ModelProto
    table: RangeTable | None = None
    evaluations: tuple[Evaluation, ...] = ()
    history: dict[str, Any] = field(default_factory=dict)


def start_model(given: str) -> Model:
    """The model folder of a start that names one.

    Raises:
        CompressionError: it is not there.
    """
    try:
        return load_model(given.removeprefix(MODEL))
    except ModelError as error:
        raise CompressionError(f"start: {error}") from error


def start_models(config: Config) -> list[Model]:
    """The model folders that a run starts from."""
    return [start_model(given) for given in config.start.values() if given.startswith(MODEL)]


def license_of(config: Config) -> str:
    """Say under which terms a model may be used: all of the weights that it was made from.

    It begins with "unknown" where nobody has said those of a model that it starts from.
    """
    inherited = [model.license for model in start_models(config)]
    images = [source.license for source in config.sources]
    # A start's own clause is said once, at the end.
    weights = dict.fromkeys([config.license, *(PARTLY.sub("", license) for license in inherited)])
    known = [license for license in weights if not license.startswith(UNSTATED)]
    said = " and ".join(known)
    if len(weights) == 1:
        said = config.license
    elif len(known) < len(weights):
        said = f"unknown in part; else {said or UNSTATED[-1]}"
    return said + IN_PART * any(map(forbids_commerce, [config.license, *inherited, *images]))


def interface(size_px: tuple[int, int], classes: Sequence[str]) -> dict[str, Any]:
    """What goes into a network of that width and height, and what comes out."""
    return {
        "input": {
            "name": contract.INPUT_NAME,
            "width": size_px[0],
            "height": size_px[1],
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
        "classes": list(classes),
    }


def describe(variant: Variant, config: Config, files: dict[str, Path]) -> dict[str, Any]:
    """Describe a model for the run time, with the facts of its making."""
    hashes = {
        dialect: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for dialect, path in files.items()
    }
    description: dict[str, Any] = {
        "name": variant.name,
        **hashes.pop("u8" if variant.table else "float"),
        **hashes,
        **interface(config.size, config.classes),
        "precision": "int8" if variant.table else "fp32",
        "activation": variant.activation,
        "gmac": round(variant.gmac, 4),
        "parameters": variant.parameters,
    }
    if variant.parent:
        description["parent"] = variant.parent
    description["license"] = license_of(config)
    if variant.table:
        description["quantization"] = variant.table.facts()
    description["accuracy"] = {found.data: found.facts() for found in variant.evaluations}
    if variant.evaluations:
        objects = class_losses(config.classes, variant.evaluations, variant.evaluations)
        description["without_evidence"] = without_evidence(config.classes, objects)
    description["made"] = variant.history
    teacher = Path(config.teacher).name
    description["data"] = [
        {"name": f"{config.teacher_data} (through the weights of {teacher})"},
        *({"name": source.name, "license": source.license} for source in config.sources),
        *(
            {"name": f"weights of {model.name}", "license": model.license}
            for model in start_models(config)
        ),
    ]
    description["seed"] = config.seed
    return description


def write_variant(variant: Variant, config: Config, models: Path) -> Path:
    """Write a model folder; the description last, so that it never names a missing file.

    Returns:
        The folder. An 8-bit model has two files of the same integers, `u8` for OpenVINO and ONNX
        Runtime and `s8` for TensorRT, and its table of ranges.
    """
    folder = models / variant.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").unlink(missing_ok=True)
    graphs = {"float": variant.graph}
    if variant.table:
        graphs = {
            "u8": emit(variant.graph, variant.table, "u8"),
            "s8": emit(variant.graph, variant.table, "s8"),
        }
        write_table(variant.table, folder / "ranges.yaml")
    files = {}
    for dialect, graph in graphs.items():
        files[dialect] = folder / f"{variant.name}.{dialect}.onnx"
        partial = files[dialect].with_suffix(".partial")
        onnx.save(graph, partial)
        os.replace(partial, files[dialect])
    partial = folder / "model.partial"
    text = yaml.safe_dump(describe(variant, config, files), sort_keys=False, width=100)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / "model.yaml")
    return folder
