"""What the commands share: options, the screen, progress, build-time tools."""

import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from perception_nodes.backends.contract import BACKENDS
from perception_nodes.graph.config import SettingsError
from perception_nodes.system.environment import share_folder
from perception_nodes.system.files import try_writing

LINE_INTERVAL_S = 5.0
"""Time between two lines of progress where stderr is no terminal."""

screen = Console(stderr=True)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model: name or folder.")]
ModelOption = Annotated[str, typer.Option(help="Model: name or folder.")]
BackendOption = Annotated[str, typer.Option(help=f"Runtime, one of {', '.join(BACKENDS)}.")]
ThreadsOption = Annotated[
    int, typer.Option(min=0, max=256, help="Threads for inference; 0: one for each core.")
]
DeadlineOption = Annotated[
    float, typer.Option(min=0.1, max=10_000, help="Deadline from capture to publish.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="PERCEPTION_DATA",
        help="Folder that the paths in a description of a set are relative to.",
    ),
]


def say(text: str) -> None:
    """Print a line for people, as it is, on stderr."""
    screen.print(text, highlight=False, markup=False, soft_wrap=True)


def say_problem(word: str, problem: object) -> None:
    """Print in one line why a command ends, after a word such as `error` or `refused`."""
    text = " ".join(str(problem).split())
    screen.print(f"[red]{word}:[/] {escape(text)}", highlight=False, soft_wrap=True)


def parse_assignments(assignments: Iterable[str] | None) -> dict[str, Any]:
    """NAME:=VALUE texts as a mapping.

    Raises:
        SettingsError: a text is not of that form.
    """
    values = {}
    for text in assignments or []:
        name, separator, value = text.partition(":=")
        if not separator:
            raise SettingsError(f"argument {text!r} is not of the form NAME:=VALUE")
        values[name] = value
    return values


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr: a bar from the first step on, or a line now and then in a log."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    )
    task = progress.add_task(title, total=None)
    said_s = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal said_s
        if screen.is_terminal:
            progress.start()
            progress.update(task, completed=done, total=total)
        elif (now_s := time.monotonic()) - said_s > LINE_INTERVAL_S:
            said_s = now_s
            say(f"{title}: {done} of {total}")

    try:
        yield show
    finally:
        progress.stop()


def compression_tool(module: str, name: str = "") -> Any:
    """Import a build-time tool, which is part of a checkout and not of an installation.

    Args:
        module: the tool's module.
        name: what to take from it; empty for the module itself.

    Raises:
        SettingsError: the tool, or a package that it needs, is missing.
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


def check_writable(path: Path | None, option: str) -> None:
    """Check that a file can be written, before the work whose result it is to hold.

    Args:
        path: the file; None where the option was not given.
        option: its name, for the error.

    Raises:
        SettingsError: it cannot be written.
    """
    if path is None:
        return
    with _explained(path, option, "file"):
        if path.is_dir():
            raise SettingsError(f"{option} {path} is a folder; name a file")
        if path.exists() and not path.is_file():
            raise SettingsError(f"{option} {path} is a device or pipe; name a file")
        try_writing(path)


def check_folder(path: Path | None, option: str) -> None:
    """Check that files can be written into a folder, which may not exist yet.

    Args:
        path: the folder; None where the option was not given.
        option: its name, for the error.

    Raises:
        SettingsError: they cannot be written.
    """
    if path is None:
        return
    with _explained(path, option, "folder"):
        if path.exists() and not path.is_dir():
            raise SettingsError(f"{option} {path} is a file; name a folder")
        try_writing(path / "summary.json")


@contextmanager
def _explained(path: Path, option: str, kind: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{option} {path} cannot be written: {error.strerror or error}; name another {kind}"
        ) from error
