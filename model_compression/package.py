"""Model folders: ONNX files, and `model.yaml` that says what they are and how they were made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import onnx
import yaml

from model_compression import contract
from model_compression.origin import Origin
from model_compression.quantization import RangeTable, emit, write_table
from model_compression.quantization.emit import write_files
from perception_nodes.evaluation.accuracy import Evaluation
from perception_nodes.evaluation.classes import class_losses, without_evidence
from perception_nodes.system.files import write_whole


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
        origin: what it was made from.
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
    origin: Origin
    table: RangeTable | None = None
    evaluations: tuple[Evaluation, ...] = ()
    history: dict[str, Any] = field(default_factory=dict)


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


class Settings(Protocol):
    """What a configuration or a recipe says of a model."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the input."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def seed(self) -> int:
        """Of everything random."""


def describe(
    variant: Variant, config: Settings, files: Mapping[str, dict[str, str]]
) -> dict[str, Any]:
    """Describe a model for the run time, with the facts of its making."""
    first, *others = files
    description: dict[str, Any] = {
        "name": variant.name,
        **files[first],
        **{dialect: files[dialect] for dialect in others},
        **interface(config.size, config.classes),
        "precision": "int8" if variant.table else "fp32",
        "activation": variant.activation,
        "gmac": round(variant.gmac, 4),
        "parameters": variant.parameters,
    }
    if variant.parent:
        description["parent"] = variant.parent
    description["license"] = variant.origin.license
    if variant.table:
        description["quantization"] = variant.table.facts()
    description["accuracy"] = {found.data: found.facts() for found in variant.evaluations}
    if variant.evaluations:
        objects = class_losses(config.classes, variant.evaluations, variant.evaluations)
        description["without_evidence"] = without_evidence(config.classes, objects)
    description["made"] = variant.history
    description["data"] = [
        {"name": name, "license": license} for name, license in variant.origin.data
    ]
    description["seed"] = config.seed
    return description


def write_variant(variant: Variant, config: Settings, models: Path) -> Path:
    """Write a model folder, the description last.

    Returns:
        The folder. An 8-bit model has two files of the same integers, `u8` for OpenVINO and ONNX
        Runtime and `s8` for TensorRT, and its table of ranges.
    """
    folder = models / variant.name
    graphs = {"float": variant.graph}
    if variant.table:
        graphs = {
            "u8": emit(variant.graph, variant.table, "u8"),
            "s8": emit(variant.graph, variant.table, "s8"),
        }
    files = write_files(graphs, folder)
    if variant.table:
        write_table(variant.table, folder / "ranges.yaml")
    text = yaml.safe_dump(describe(variant, config, files), sort_keys=False, width=100)
    write_whole(folder / "model.yaml", text)
    return folder
