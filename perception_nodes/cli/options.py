"""Options that several commands share; those that name outputs try whether they can be written."""

from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.backends.auto import CHOICES
from perception_nodes.cli.common import check_folder, check_writable

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model: name or folder; or --model.")
]
Model = Annotated[str, typer.Option(help="Model: name or folder.")]
Backend = Annotated[str, typer.Option(help=f"Runtime, one of {', '.join(CHOICES)}.")]
Threads = Annotated[
    int, typer.Option(min=0, max=256, help="Threads for inference; 0: one per physical core.")
]
Deadline = Annotated[
    float, typer.Option(min=0.1, max=10_000, help="Deadline from capture to publish.")
]
ScoreThreshold = Annotated[
    float, typer.Option(min=0.01, max=0.99, help="Lowest score of an object to report.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Assignments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME:=VALUE]...", help="Parameters, as for ros2 launch; --parameters lists them."
    ),
]
RunAssignments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME:=VALUE]... [--ros-args ...]",
        help="Parameters, as for ros2 launch, which --parameters lists; and ROS arguments.",
    ),
]
ListParameters = Annotated[
    bool, typer.Option("--parameters", help="List the parameters and their ranges, and stop.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="PERCEPTION_DATA",
        help="Folder that the paths in a description of a set are relative to.",
    ),
]
Share = Annotated[float, typer.Option(min=0, max=1)]
Bags = Annotated[
    list[Path] | None, typer.Option(help="Recorded drive to take frames from; may be repeated.")
]
Images = Annotated[
    list[Path] | None, typer.Option(help="Folder of images to take frames from; may be repeated.")
]
ComparedData = Annotated[
    list[Path] | None,
    typer.Option(
        help="Labelled set to compare on, as for `perception model evaluate`; may be repeated. "
        "Without it, objects on the frames are compared alone."
    ),
]
FramesLicense = Annotated[
    str, typer.Option(help="Licence of these frames, which an 8-bit model takes its ranges from.")
]


def writable(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a file that cannot be written."""
    check_writable(path, param.opts[0])
    return path


def folder(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a folder into which nothing can be written."""
    check_folder(path, param.opts[0])
    return path


FrameSize = Annotated[str, typer.Option(help="Size of the camera's frames, WIDTHxHEIGHT.")]
FrameRate = Annotated[float, typer.Option(min=1, max=240, help="Frames a second.")]
WrittenFile = Annotated[Path | None, typer.Option(callback=writable)]
WrittenFolder = Annotated[Path | None, typer.Option(callback=folder)]
OutFolder = Annotated[Path, typer.Option(callback=folder)]
OutFile = Annotated[
    Path | None, typer.Option("--out", help="Write the JSON into this file too.", callback=writable)
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", help="Write the result here, as a page.", callback=writable)
]
