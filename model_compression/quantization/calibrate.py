"""Calibrate a model folder again, on the user's own frames; needs no training framework."""

import hashlib
import re
from pathlib import Path
from typing import Any

import onnx
import yaml

from model_compression.errors import CompressionError
from model_compression.quantization.emit import (
    Dialect,
    emit,
    float_convolutions,
    float_of,
    write_files,
)
from model_compression.quantization.ranges import Frames, measure
from model_compression.quantization.sources import calibrated_on
from model_compression.quantization.table import WEIGHT_BITS, RangeTable, write_table
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.system.files import write_whole

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,30}$")
DIALECTS: tuple[Dialect, ...] = ("u8", "s8")


def calibrate(
    model_folder: Path,
    frames: Frames,
    table_path: Path,
    out: Path | None = None,
    frames_license: str = "",
) -> RangeTable:
    """Measure a model's table of ranges, and make the model anew with it.

    Args:
        model_folder: with ``model.yaml`` and its file, u8 or float.
        frames: where each comes from, and its pixels letterboxed to the model's input, uint8
            [height, width, 3] BGR.
        table_path: the table to write, by custom ``calibration/int8/<model>.yaml``.
        out: a model folder to write, with the files of both dialects; its name is the model's.
        frames_license: of the frames, which the ranges are taken from.

    Raises:
        CompressionError: the frames or the model cannot be used.
    """
    if out is not None and out.resolve() == model_folder.resolve():
        raise CompressionError(f"{out} holds the model that is calibrated; write to another folder")
    if out is not None and not NAME.match(out.name):
        raise CompressionError(f"{out.name!r} cannot name a model; letters, digits, '._-', 31 long")
    description = _describe(model_folder)
    if out is not None:
        _check_names(description, model_folder, out.name)
    model = _load(model_folder / description["file"], description["sha256"])
    kept: tuple[str, ...] = ()
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        kept = float_convolutions(model)
        model = float_of(model)
    bits = description.get("quantization", {}).get("weight_bits", WEIGHT_BITS)
    frames = list(frames)
    table = measure(model, frames, description["name"], weight_bits=bits, float_convolutions=kept)
    write_table(table, table_path)
    if out is not None:
        calibration, data = calibrated_on(frames, frames_license, description.get("data"))
        description |= {"quantization": table.facts() | calibration, "data": data}
        _write_model(model, table, description, out)
    return table


def _describe(folder: Path) -> dict[str, Any]:
    path = folder / "model.yaml"
    try:
        description = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise CompressionError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    for key in ("name", "file", "sha256"):
        if not isinstance(description, dict) or not isinstance(description.get(key), str):
            raise CompressionError(f"{path} lacks {key!r}; it describes no model")
    return description


def _parent_of(description: dict[str, Any]) -> str:
    """The FP32 model that an 8-bit one is compared with; empty if none is known."""
    usual = description["name"] if description.get("precision") == "fp32" else ""
    return str(description.get("parent") or usual)


def _check_names(description: dict[str, Any], folder: Path, name: str) -> None:
    """Refuse a name or an origin with which a gate would find no parent, or the model itself."""
    parent = _parent_of(description)
    if not parent:
        raise CompressionError(
            f"{folder / 'model.yaml'} names no parent, so nothing would tell what 8 bits cost; add "
            "`parent: NAME`, the FP32 model that it was made from"
        )
    if name == parent:
        raise CompressionError(
            f"the 8-bit model cannot have the name {name!r} of the model that it is made from or "
            "compared with; give the folder another name"
        )


def _load(path: Path, sha256: str) -> onnx.ModelProto:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CompressionError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CompressionError(
            f"{path} is not the file that model.yaml describes (sha256 differs); restore it"
        )
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, which has no public name
        raise CompressionError(f"{path} is not an ONNX file: {error}") from error


def _write_model(
    model: onnx.ModelProto, table: RangeTable, description: dict[str, Any], out: Path
) -> None:
    files = write_files({dialect: emit(model, table, dialect) for dialect in DIALECTS}, out)
    write_table(table, out / "ranges.yaml")
    # What was measured before does not hold for the new ranges.
    measured = ("accuracy", "without_evidence")
    kept = {key: value for key, value in description.items() if key not in measured}
    facts = {
        **kept,
        "name": out.name,
        **files["u8"],
        "s8": files["s8"],
        "precision": "int8",
        "parent": _parent_of(description),
    }
    write_whole(out / "model.yaml", yaml.safe_dump(facts, sort_keys=False, width=100))
