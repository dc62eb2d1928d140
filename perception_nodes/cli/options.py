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
_THREADS = "Threads for inference; 0: one per physical core."
Threads = Annotated[int, typer.Option(min=0, max=256, help=_THREADS)]
_DEADLINE = "Deadline from capture to publish."
Deadline = Annotated[float, typer.Option(min=0.1, max=10_000, help=_DEADLINE)]
_SCORE = "Lowest score of an object to report."
ScoreThreshold = Annotated[float, typer.Option(min=0.01, max=0.99, help=_SCORE)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_ASSIGNED = "Parameters, as for ros2 launch; --parameters lists them."
Assignments = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME:=VALUE]...", help=_ASSIGNED)
]
_WITH_ROS = "Parameters, as for ros2 launch, which --parameters lists; and ROS arguments."
_FORM = "[NAME:=VALUE]... [--ros-args ...]"
RunAssignments = Annotated[list[str] | None, typer.Argument(metavar=_FORM, help=_WITH_ROS)]
_LISTED = "List the parameters and their ranges, and stop."
ListParameters = Annotated[bool, typer.Option("--parameters", help=_LISTED)]
_ROOT = "Folder that the paths in a description of a set are relative to."
DataRoot = Annotated[Path | None, typer.Option(envvar="PERCEPTION_DATA", help=_ROOT)]
Share = Annotated[float, typer.Option(min=0, max=1)]
_BAGS = "Recorded drive to take frames from; may be repeated."
Bags = Annotated[list[Path] | None, typer.Option(help=_BAGS)]
_IMAGES = "Folder of images to take frames from; may be repeated."
Images = Annotated[list[Path] | None, typer.Option(help=_IMAGES)]
_COMPARED = (
    "Labelled set to compare on, as for `perception model evaluate`; may be repeated. "
    "Without it, objects on the frames are compared alone."
)
ComparedData = Annotated[list[Path] | None, typer.Option(help=_COMPARED)]
_LICENSE = "Licence of these frames, which an 8-bit model takes its ranges from."
FramesLicense = Annotated[str, typer.Option(help=_LICENSE)]


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
_OUT, _HTML = "Write the JSON into this file too.", "Write the result here, as a page."
OutFile = Annotated[Path | None, typer.Option("--out", help=_OUT, callback=writable)]
HtmlFile = Annotated[Path | None, typer.Option("--html", help=_HTML, callback=writable)]
