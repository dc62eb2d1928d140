"""What the commands share: options, the screen, progress, build-time tools."""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from perception_nodes.graph.config import SettingsError
from perception_nodes.system.environment import share_folder

screen = Console(stderr=True)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model: name or folder.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="PERCEPTION_DATA", help="Folder that the paths in a description start from."
    ),
]


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left, on stderr; it appears with the first step."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    )
    task = progress.add_task(title, total=None)

    def show(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        progress.stop()


def compression_tool(module: str, name: str = "") -> Any:
    """A build-time tool; they lie beside the package in a checkout and are not installed.

    Raises:
        SettingsError: it, or what it needs, is not there.
    """
    checkout = str(share_folder())
    if checkout not in sys.path:
        sys.path.append(checkout)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{module} cannot be imported ({error}); in a checkout of the repository, "
            "make compression installs what it needs"
        ) from error
    return getattr(found, name) if name else found


def check_writable(path: Path, option: str) -> None:
    """See that a file can be written, before the work that it is to hold the result of.

    Args:
        path: of the file; nothing is left there.
        option: that it was named with, for the error.

    Raises:
        SettingsError: it cannot.
    """
    if path.is_dir():
        raise SettingsError(f"{option} {path} is a folder; name a file")
    there = path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:32]}."):
            pass
        if not there:
            path.parent.rmdir()
    except OSError as error:
        raise SettingsError(
            f"{option} {path} cannot be written: {error.strerror or error}; name another file"
        ) from error
