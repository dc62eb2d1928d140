"""`perception model import`: a detector of another exporter becomes a model folder."""

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_nodes.cli import options
from perception_nodes.cli.common import explained, progress_bar, say, screen
from perception_nodes.core.geometry import Resize
from perception_nodes.evaluation.compression_tools import compression_tool
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.gate import MIN_AGREEMENT, Margins
from perception_nodes.graph.settings import SettingsError

STRUCTURED = (".yaml", ".yml", ".json", ".csv")
"""Suffixes of files whose lines are not names of classes."""


def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    name: str = "",
    out: options.OutFolder = Path("models"),
    head: str = "",
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT")] = "",
    classes: Annotated[str, typer.Option(metavar="NAMES|FILE")] = "",
    keep: Annotated[str, typer.Option(metavar="NAMES")] = "",
    color: Literal["RGB", "BGR"] | None = None,
    mean: Annotated[str, typer.Option(metavar="M|M,M,M")] = "",
    std: Annotated[str, typer.Option(metavar="S|S,S,S")] = "",
    resize: Resize | None = None,
    padding: Annotated[int | None, typer.Option(min=0, max=255)] = None,
    license: str = "",
    trust: bool = False,
    int8: bool = False,
    bag: options.Bags = None,
    images: options.Images = None,
    frames: Annotated[int, typer.Option(min=8, max=100_000)] = 128,
    frames_license: options.FramesLicense = "",
    data: options.ComparedData = None,
    root: options.DataRoot = None,
    max_loss: options.Share = 0.01,
    max_class_loss: options.Share = Margins.class_loss,
    min_agreement: options.Share = MIN_AGREEMENT,
    as_json: options.Json = False,
) -> None:
    """Make a model of a detector that was trained and exported elsewhere.

    Its kind of output, the head, is recognised by shapes, metadata and its answer to noise, and
    shown; the conversion of our frames (bytes, BGR) is written into the network. The heads stand in
    docs/your-detector.md.

    With --bag or --images it is tried on frames, and refused with exit status 1 if it finds nothing
    in them, or layers are all zero and it finds the same in all: damaged weights raise no error.

    With --int8 the float model is kept beside the 8-bit one as NAME-float, and the two are compared
    on the frames, and on --data. Layers that cost too much are kept float; a model that still loses
    too much is refused too.

    Options:
        file: Trained detector: ONNX, OpenVINO's .xml with its .bin, TFLite, .pt of Ultralytics,
            .safetensors of transformers, or a folder that holds one of them. For the last two an
            environment of their own is made in the cache, once, of 1.7 GB and more.
        name: Name of the model; by default that of the file.
        out: Folder of models that the model's folder is written into.
        head: Kind of output, where the file leaves it open; see above.
        size: Size of the input, for a file with dynamic axes.
        classes: Names of the classes in their order: 'car,bus,truck', or a file with one a line; by
            default those in the file's metadata.
        keep: Keep only these classes, in this order: 'person,car,truck'; several become one as in
            'person,vehicle=car+truck'.
        color: Order of the channels that it was trained with.
        mean: Subtracted from bytes of 0 to 255, by channel.
        std: What the difference is divided by: often 255.
        resize: How a frame of another shape becomes the input.
        padding: Grey of the letterbox's border.
        license: Licence of the weights; what the file says itself is kept too, and what Ultralytics
            or YOLOv7 made without saying so any more stays under AGPL-3.0 or GPL-3.0.
        trust: Run a .pt, which is a program of its author's, without asking on a terminal.
        int8: Quantize to 8 bits, on frames of --bag or --images.
        frames: Number of frames to take from them.
        max_loss: What mAP50-95 may lose, as a mean over the sets.
        max_class_loss: What AP50 or recall of a class may lose.
        min_agreement: Share of objects on the frames that both must see.

    Example: perception model import best.onnx --name forklifts

    Example: perception model import best.onnx --name forklifts --int8 --bag drives/yard

    Example: perception model import yolox_nano.onnx --name nano --license Apache-2.0
    """
    needed = "pip install onnx onnxruntime openvino"
    tool = compression_tool("perception_nodes.evaluation.model_import", remedy=needed)
    file = compression_tool("perception_nodes.networks.importer", "file_in")(file)
    if file.suffix.lower() == ".pt" and not trust:
        if not (screen.is_terminal and sys.stdin.isatty()):
            raise SettingsError(f"{file} runs a program of its author's; give --trust to let it")
        typer.confirm(f"{file} is a program of its author's; run it here?", abort=True, err=True)
    for option, given in (("--data", data), ("--frames-license", frames_license)):
        if given and not int8:
            raise SettingsError(f"{option} is for --int8; give it too")
    import_options = tool.ImportOptions(
        head=head,
        size=_size(size),
        classes=_names("--classes", classes),
        keep=_names("--keep", keep),
        color=color,
        mean=_channels("--mean", mean),
        std=_channels("--std", std),
        resize=resize,
        padding=padding,
        license=license,
    )
    margins = Margins(min_agreement, loss=max_loss, class_loss=max_class_loss)
    sets, name = read_sets(data or [], root), name or file.stem
    work = tool.ModelImport(
        file=file,
        name=name,
        out=out,
        options=import_options,
        bags=bag or [],
        images=images or [],
        frames=frames,
        int8=int8,
        sets=sets,
        margins=margins,
        frames_license=frames_license,
        bar=progress_bar,
        say=say,
    )
    with explained(out, "--out", "folder"):
        model, recognised, checks = work.run()
    if as_json:
        print(json.dumps(tool.import_facts(model, recognised, checks), indent=2))
        return
    for check in checks:
        say(f"{check.measure}: {check.value:g}, with {check.reference}")
    if not (bag or images):
        say(f"{name} has not been tried on any frame: --bag or --images would show what it finds")
    say(f"Written to {out / name}; try it: perception replay bags/road.mp4 --model {out / name}")


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    if (found := re.fullmatch(r"([1-9]\d{1,3})[xX]([1-9]\d{1,3})", text)) is None:
        raise SettingsError(f"--size {text!r} is not of the form 416x256, width and height")
    return int(found[1]), int(found[2])


def _names(option: str, text: str) -> list[str] | None:
    if not text:
        return None
    suffix, names = Path(text).suffix.lower(), []
    try:
        # pathlib raises an error if the list is too long for a file name.
        if os.path.isfile(text) and suffix not in STRUCTURED:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
            names = [line.strip() for line in lines if line.strip()]
        elif suffix not in (*STRUCTURED, ".txt", ".names") and ("," in text or "/" not in text):
            names = [name.strip() for name in text.split(",")]
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{option} {text} cannot be read: {error}") from error
    if not all(names) or not names:
        known = "a file with a name a line nor a list of names"
        raise SettingsError(f"{option} {text!r} is neither {known}")
    return names


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
