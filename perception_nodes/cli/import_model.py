"""`perception model import`: a detector of another exporter becomes a model folder."""

import json
import math
import os
import re
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from perception_nodes.backends.contract import open_model
from perception_nodes.cli.common import (
    DataRoot,
    JsonFlag,
    check_folder,
    compression_tool,
    explained,
    progress_bar,
    say,
    say_problem,
)
from perception_nodes.core.errors import listed
from perception_nodes.core.frame import Detections
from perception_nodes.evaluation import LabelledSet
from perception_nodes.evaluation.agreement import detect
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.gate import Check, Margins
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import Model, ModelError, load_model
from perception_nodes.system.files import staged

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,30}")
MODELS = Path("models")
FLOAT = "-float"
MIN_AGREEMENT = 0.8
"""Of the same network in 8 bits and in float."""
STRUCTURED = (".yaml", ".yml", ".json", ".csv")
"""Files whose lines are no names."""
Frames = list[tuple[str, NDArray[np.uint8]]]


def import_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Trained detector: ONNX, OpenVINO's .xml with its .bin, or .pt of Ultralytics. "
            "A .pt is a program of its author's, which is run.",
        ),
    ],
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
    keep: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Keep only these classes, in this order: 'person,car,truck'."
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
        str, typer.Option(help="Licence of the weights; what the file says itself is kept too.")
    ] = "",
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize to 8 bits, on frames of --bag or --images.")
    ] = False,
    bag: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded drive to try it on, and to quantize on; may be repeated."),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of images to try it on, and to quantize on; may be repeated."),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=8, max=100_000, help="Number of frames to take from them.")
    ] = 128,
    frames_license: Annotated[
        str, typer.Option(help="Licence of these frames, which --int8 takes ranges from.")
    ] = "",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labelled set to compare 8 bits with float on, as for `perception model "
            "evaluate`; may be repeated."
        ),
    ] = None,
    root: DataRoot = None,
    max_loss: Annotated[
        float, typer.Option(min=0, max=1, help="What mAP50-95 may lose, as a mean over the sets.")
    ] = 0.01,
    max_class_loss: Annotated[
        float, typer.Option(min=0, max=1, help="What AP50 or recall of a class may lose.")
    ] = Margins.class_loss,
    min_agreement: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of objects on the frames that both must see."),
    ] = MIN_AGREEMENT,
    as_json: JsonFlag = False,
) -> None:
    """Make a model of a detector that was trained and exported elsewhere.

    Its kind of output is recognised by metadata and shapes, and said; the conversion of our frames
    (bytes, BGR) is written into the network. Heads: ultralytics (YOLOv5u to 12, and 26),
    ultralytics-nms (NMS inside, or one-to-one), ultralytics-rtdetr, ultralytics-rtdetr-rows, yolov5
    (and v7), yolov6, yolox, yolox-raw, nanodet-plus, detr (labels, boxes, scores), detr-queries
    (logits, boxes).

    With --bag or --images it is tried on frames, and refused with exit status 1 if it finds nothing
    in them, or layers are all zero and it finds the same in all: damaged weights raise no error.

    With --int8 the float model is kept beside the 8-bit one as NAME-float, and the two are compared
    on the frames, and on --data. Layers that cost too much are kept float; a model that still loses
    too much is refused too.

    Example: perception model import best.onnx --name forklifts

    Example: perception model import best.onnx --name forklifts --int8 --bag drives/yard

    Example: perception model import yolox_nano.onnx --name nano --license Apache-2.0
    """
    try:
        from perception_nodes.networks.importer import ImportOptions, understand, write_model
    except ImportError as error:
        raise SettingsError(
            f"import needs a package that is not installed ({error}); install it with: pip install "
            "onnx onnxruntime openvino"
        ) from error
    check_folder(out, "--out")
    name = name or file.stem
    names = [f"{name}{FLOAT}", name] if int8 else [name]
    for one in names:
        if not NAME.fullmatch(one):
            raise SettingsError(
                f"{one!r} cannot name a model: letters, digits and '._-', at most 31; give --name"
            )
        _check_free(out / one)
    if int8 and not (bag or images):
        raise SettingsError("--int8 needs frames like those it is to work on: --bag or --images")
    for option, given in (("--data", data), ("--frames-license", frames_license)):
        if given and not int8:
            raise SettingsError(f"{option} is for --int8; give it too")
    if int8 and file.suffix.lower() == ".xml":
        raise SettingsError("--int8 needs the detector as ONNX, not as OpenVINO's files")
    if data:
        require_pycocotools()
    sets = read_sets(data or [], root)
    options = ImportOptions(
        head=head,
        size=_size(size),
        classes=_names("--classes", classes),
        keep=_names("--keep", keep),
        color=_one_of("--color", color, ("RGB", "BGR")),
        mean=_channels("--mean", mean),
        std=_channels("--std", std),
        resize=_one_of("--resize", resize, ("letterbox", "stretch")),
        padding=padding,
        license=license,
    )
    with tempfile.TemporaryDirectory() as scratch:
        exported = None
        if file.suffix.lower() == ".pt":
            export_onnx = compression_tool("model_compression.checkpoint", "export_onnx")
            say(f"{file.name} is being exported by ultralytics")
            exported = export_onnx(file, options.size, Path(scratch))
        imported = understand(file, options, exported)
    dead = imported.exported.dead
    zeros = f"the weights of {len(dead)} convolutions are all zero ({listed(dead)})"
    if dead and not (bag or images):
        raise ModelError(
            f"{file}: {zeros}: it is damaged; export or copy it again. If it is meant to be so, "
            "let it show with --bag or --images that it finds objects"
        )
    for note in imported.notes:
        say(note)
    if dead:
        say(zeros)
    classes_said = f"{len(imported.classes)} classes"
    say(f"{file.name} is {imported.head.title}: {classes_said}, {_input(imported.exported)}")
    say(f"licence of the weights: {imported.license}")
    with explained(out, "--out", "folder"), staged(out, last=name) as folder:
        model = write_model(imported, folder / names[0], open_model)
        checks = []
        chosen = _chosen(model, bag or [], images or [], frames) if bag or images else []
        if chosen:
            _tried(model, chosen, dead=bool(dead))
        if int8:
            margins = Margins(min_agreement, loss=max_loss, class_loss=max_class_loss)
            checks = _quantized(model, folder / name, chosen, sets, margins, frames_license)
        for one in names:  # another import may have been faster
            _check_free(out / one)
    model = load_model(str(out / name))
    if as_json:
        print(json.dumps(_facts(model, imported.head.name, checks), indent=2))
        return
    for check in checks:
        say(f"{check.measure}: {check.value:g}, with {check.reference}")
    if not chosen:
        say(f"{name} has not been tried on any frame: --bag or --images would show what it finds")
    say(f"Written to {out / name}; try it: perception replay bags/sample --model {out / name}")


def _check_free(folder: Path) -> None:
    if folder.exists():
        raise SettingsError(f"{folder} is there already; give another --name, or remove it")


def _chosen(model: Model, bags: list[Path], images: list[Path], count: int) -> Frames:
    """Frames that differ from each other."""
    from perception_nodes.evaluation.diversity import choose_frames

    with progress_bar("looking at frames") as progress:
        chosen = choose_frames(bags, images, count, model.input, progress)
    for note in chosen.notes:
        say(note)
    return list(zip(chosen.names, chosen.frames, strict=True))


def _tried(model: Model, frames: Frames, dead: bool) -> None:
    """Say what a model finds in frames; exit status 1 if that is nothing.

    Or, of one with convolutions of zeros, if it is the same in all frames.
    """
    with (
        open_model("openvino", model) as backend,
        progress_bar(f"{model.name} on {len(frames)} frames") as progress,
    ):
        found = detect(model, backend, [frame for _, frame in frames], progress)
    counts = Counter(model.classes[label] for one in found for label in one.classes.tolist())
    if not counts:
        say_problem(
            "refused",
            f"{model.name} finds nothing in {len(frames)} frames: its weights are damaged, it "
            "expects other pixels (--color, --mean, --std), or nothing that it knows is there: "
            "give --bag or --images that show its classes",
        )
        raise typer.Exit(1)
    if dead and all(_alike(found[0], one) for one in found):
        say_problem(
            "refused",
            f"{model.name} finds the same in all {len(frames)} frames, and convolutions of it are "
            "all zero: it is damaged; export or copy it again",
        )
        raise typer.Exit(1)
    objects = ", ".join(f"{count} {label}" for label, count in counts.most_common(8))
    say(f"it finds in {len(frames)} frames: {objects}")


def _alike(one: Detections, two: Detections) -> bool:
    """Whether two frames show the same objects, to a pixel."""
    same = np.array_equal(one.classes, two.classes)
    return same and np.allclose(one.boxes, two.boxes, rtol=0, atol=1)


def _quantized(
    parent: Model,
    made: Path,
    frames: Frames,
    sets: list[LabelledSet],
    margins: Margins,
    frames_license: str,
) -> list[Check]:
    """Make the 8-bit model; exit status 1 if it is refused."""
    errors = compression_tool("model_compression.errors")
    tool = compression_tool("model_compression.imported")
    trial = tool.Trial(parent, frames, sets, margins, progress_bar)
    try:
        checks: list[Check] = tool.quantize_imported(parent, made, trial, say, frames_license)
    except errors.GateRefused as error:
        say_problem("refused", error)
        raise typer.Exit(1) from error
    return checks


def _facts(model: Model, head: str, checks: list[Check]) -> dict[str, Any]:
    return {
        "model": model.name,
        "folder": str(model.folder),
        "head": head,
        "input": f"{model.input.width}x{model.input.height}",
        "classes": model.classes,
        "license": model.license,
        "precision": model.precision,
        "checks": [asdict(check) for check in checks],
    }


def _input(source: Any) -> str:
    return f"input {source.width}x{source.height}"


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"([1-9]\d{1,3})[xX]([1-9]\d{1,3})", text)
    if found is None:
        raise SettingsError(f"--size {text!r} is not of the form 416x256, width and height")
    return int(found[1]), int(found[2])


def _names(option: str, text: str) -> list[str] | None:
    if not text:
        return None
    suffix, names = Path(text).suffix.lower(), []
    try:
        # pathlib raises where a list is too long for a name.
        if os.path.isfile(text) and suffix not in STRUCTURED:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
            names = [line.strip() for line in lines if line.strip()]
        elif suffix not in (*STRUCTURED, ".txt", ".names") and ("," in text or "/" not in text):
            names = [name.strip() for name in text.split(",")]
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{option} {text} cannot be read: {error}") from error
    if not all(names) or not names:
        raise SettingsError(
            f"{option} {text!r} is neither a file with a name a line nor a list of names"
        )
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
    sound = all(math.isfinite(value) and (value > 0 or option != "--std") for value in values)
    if len(values) != 3 or not sound:
        raise SettingsError(f"{option} {text!r} is not one number or three, by channel")
    return values[0], values[1], values[2]
