"""`perception model import`: a detector of another exporter becomes a model folder."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from perception_nodes.backends.model import Model
from perception_nodes.cli.common import JsonFlag, check_folder, say
from perception_nodes.graph.config import SettingsError

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,30}")
MODELS = Path("models")


def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ONNX file of a trained detector.")],
    name: Annotated[str, typer.Option(help="Name of the model; by default that of the file.")] = "",
    out: Annotated[
        Path, typer.Option(help="Folder of models that the model's folder is written into.")
    ] = MODELS,
    head: Annotated[
        str, typer.Option(help="Kind of output, where the file leaves it open; see below.")
    ] = "",
    size: Annotated[
        str,
        typer.Option(
            metavar="WIDTHxHEIGHT", help="Size of the input, for a file with dynamic axes."
        ),
    ] = "",
    classes: Annotated[
        str,
        typer.Option(
            metavar="NAMES|FILE",
            help="Names of the classes in their order: 'car,bus,truck', or a file with one a line; "
            "by default those in the file's metadata.",
        ),
    ] = "",
    color: Annotated[
        str, typer.Option(metavar="RGB|BGR", help="Order of the channels that it was trained with.")
    ] = "",
    mean: Annotated[
        str, typer.Option(metavar="M|M,M,M", help="Subtracted from bytes of 0 to 255, by channel.")
    ] = "",
    std: Annotated[
        str, typer.Option(metavar="S|S,S,S", help="What the difference is divided by: often 255.")
    ] = "",
    resize: Annotated[
        str,
        typer.Option(
            metavar="letterbox|stretch", help="How a frame of another shape becomes the input."
        ),
    ] = "",
    padding: Annotated[
        int | None, typer.Option(min=0, max=255, help="Grey of the letterbox's border.")
    ] = None,
    license: Annotated[
        str, typer.Option(help="Licence of the weights; by default what the metadata says.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make a model of a detector that was trained and exported elsewhere.

    Its kind of output is recognised by metadata and shapes, and said; the conversion of our frames
    (bytes, BGR) is written into the network. Heads: ultralytics (YOLOv5u to 12, and 26),
    ultralytics-nms (NMS inside, or one-to-one), ultralytics-rtdetr, yolov5 (and v7), yolov6, yolox,
    yolox-raw, nanodet-plus, detr (labels, boxes, scores), detr-queries (logits, boxes).

    Example: perception model import best.onnx --name forklifts

    Example: perception model import yolox_nano.onnx --name nano --license Apache-2.0
    """
    from perception_nodes.importing.importer import Options, understand, write_model

    name = name or file.stem
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot name a model: letters, digits and '._-', at most 31; give --name"
        )
    folder = out / name
    if folder.exists():
        raise SettingsError(f"{folder} is there already; give another --name, or remove it")
    options = Options(
        head=head,
        size=_size(size),
        classes=_names(classes),
        color=_one_of("--color", color, ("RGB", "BGR")),
        mean=_channels("--mean", mean),
        std=_channels("--std", std),
        resize=_one_of("--resize", resize, ("letterbox", "stretch")),
        padding=padding,
        license=license,
    )
    check_folder(folder, "--out")
    imported = understand(file, options)
    for note in imported.notes:
        say(note)
    model = write_model(imported, folder)
    if as_json:
        print(json.dumps(_facts(model, imported.head.name), indent=2))
        return
    say(f"{file.name} is {imported.head.title}: {len(model.classes)} classes, {_input(model)}")
    say(f"licence of the weights: {imported.license}")
    say(f"Written to {folder}; try it: perception replay bags/sample --model {folder}")


def _facts(model: Model, head: str) -> dict[str, Any]:
    return {
        "model": model.name,
        "folder": str(model.folder),
        "head": head,
        "input": f"{model.input.width}x{model.input.height}",
        "classes": model.classes,
        "license": model.license,
    }


def _input(model: Model) -> str:
    how = "stretched" if model.input.resize == "stretch" else "letterboxed"
    return f"input {model.input.width}x{model.input.height}, {how}"


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d{2,4})[xX](\d{2,4})", text)
    if found is None:
        raise SettingsError(f"--size {text!r} is not of the form 416x256, width and height")
    return int(found[1]), int(found[2])


def _names(text: str) -> list[str] | None:
    if not text:
        return None
    try:
        if Path(text).is_file():
            lines = Path(text).read_text(encoding="utf-8").splitlines()
            names = [line.strip() for line in lines if line.strip()]
        else:
            names = [name.strip() for name in text.split(",")]
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--classes {text} cannot be read: {error}") from error
    if not all(names) or not names or any(Path(name).suffix == ".txt" for name in names):
        raise SettingsError(f"--classes {text!r} is neither a file nor a list of names")
    return names


def _one_of(option: str, text: str, allowed: tuple[str, ...]) -> str | None:
    if text and text not in allowed:
        raise SettingsError(f"{option} {text!r} is unknown; it may be {' or '.join(allowed)}")
    return text or None


def _channels(option: str, text: str) -> tuple[float, float, float] | None:
    if not text:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or (option == "--std" and not all(value > 0 for value in values)):
        raise SettingsError(f"{option} {text!r} is not one number or three, by channel")
    return values[0], values[1], values[2]
