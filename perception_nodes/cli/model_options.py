"""Options that several commands of `perception model` share, and how a refusal ends one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.cli.common import say_problem
from perception_nodes.networks.model import ModelRefused

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


@contextmanager
def refusals() -> Iterator[None]:
    """A model that is refused ends the command with exit status 1."""
    try:
        yield
    except ModelRefused as error:
        say_problem("refused", error)
        raise typer.Exit(1) from error
