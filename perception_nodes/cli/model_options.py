"""Options that several commands of `perception model` share, and how a refusal ends one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from perception_nodes.cli.common import say_problem
from perception_nodes.networks.model import ModelRefused


def share(text: str) -> Any:
    """An option whose value is a share, from 0 to 1."""
    return typer.Option(min=0, max=1, help=text)


Bags = Annotated[
    list[Path] | None, typer.Option(help="Recorded drive to take frames from; may be repeated.")
]
Images = Annotated[
    list[Path] | None, typer.Option(help="Folder of images to take frames from; may be repeated.")
]
LabelledData = Annotated[
    list[Path],
    typer.Option(help="A labelled set, as for `perception model evaluate`; may be repeated."),
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
Page = Annotated[
    Path | None, typer.Option(help="Write the page here; by default into the folder out.")
]


@contextmanager
def refusals() -> Iterator[None]:
    """A model that is refused ends the command with exit status 1."""
    try:
        yield
    except ModelRefused as error:
        say_problem("refused", error)
        raise typer.Exit(1) from error
