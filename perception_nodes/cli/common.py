"""What the commands share: the screen, progress and outputs."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from rich import progress
from rich.console import Console
from rich.markup import escape

from perception_nodes.cli.described import as_option
from perception_nodes.core.errors import printable
from perception_nodes.graph.settings import SettingsError
from perception_nodes.system.files import try_writing, write_whole

LINE_INTERVAL_S = 5.0
"""Time between two lines of progress where stderr is no terminal."""
Page = tuple[Path | None, Callable[[Any], str]]
"""A file, if it is wanted, and what makes its text of a result."""

screen = Console(stderr=True)


def say(text: str) -> None:
    """Print a line for people on stderr; texts from foreign files in it are made harmless."""
    screen.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def give(result: Any, shown: Any, as_json: bool, out: Path | None = None, *pages: Page) -> None:
    """Print a result, as JSON or as what is shown to people; and write the JSON and the pages."""
    for file, page in pages:
        if file is not None:
            write_whole(file, page(result))
    text = json.dumps(result, indent=2)
    if out is not None:
        write_whole(out, text + "\n")
    if as_json:
        print(text)
    else:
        Console().print(shown)


def say_written(folder: Path) -> None:
    """Say what is in the folder of a run, and last its page."""
    names = ", ".join(sorted(file.name for file in folder.iterdir()))
    say(f"Written to {folder}: {names}; the page is {folder / 'report.html'}")


def say_problem(word: str, problem: object) -> None:
    """Print in one line why a command ends, after a word such as `error` or `refused`."""
    text = printable(" ".join(str(problem).split()))
    screen.print(f"[red]{word}:[/] {escape(text)}", highlight=False, soft_wrap=True)


def parse_assignments(
    assignments: Iterable[str] | None, options: Collection[str] = ()
) -> dict[str, Any]:
    """NAME:=VALUE texts as a mapping.

    Args:
        assignments: the texts.
        options: names of what this command takes as options instead.

    Raises:
        SettingsError: a text is not of that form, or names an option.
    """
    values, texts = {}, list(assignments or [])
    for index, text in enumerate(texts):
        name, separator, value = text.partition(":=")
        if separator and name in options:
            meant = as_option(name, value)
            raise SettingsError(f"{name} is an option; did you mean {meant}?", name)
        if not separator:
            meant = _meant(text, "".join(texts[index + 1 : index + 2]), options)
            hint = f"; did you mean {meant}?" if meant else ""
            raise SettingsError(f"argument {text!r} is not of the form NAME:=VALUE{hint}")
        values[name] = value
    return values


def _meant(text: str, following: str, options: Collection[str]) -> str:
    """What NAME=VALUE, --NAME VALUE or a path is in the form that is taken; empty if nothing."""
    name, _, value = text.removeprefix("--").partition("=")
    value = value or (following if text.startswith("--") else "")
    if not value and Path(text).exists():
        name, value = "bag", text
    if not value:
        return ""
    from perception_nodes.graph.graph import ALL

    name = name.replace("-", "_")
    name = next(iter(get_close_matches(name, [*options, *ALL.parameters], n=1)), name)
    return as_option(name, value) if name in options else f"{name}:={value}"


@contextmanager
def progress_bars(unit: str = "") -> Iterator[Callable[..., None]]:
    """Show on stderr how far each of several tasks is: by a bar, or by lines in a log.

    The context gives a function that takes the task's name, the steps done, their total, and what
    else there is to say.

    Args:
        unit: name of the steps whose rate is to be shown; empty for no rate.
    """
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
        console=screen,
        transient=True,
    )
    tasks: dict[str, progress.TaskID] = {}
    begin_s = logged_s = time.monotonic()

    def show(title: str, done: float, total: int, said: str = "") -> None:
        nonlocal begin_s, logged_s
        if title not in tasks:
            for task in tasks.values():
                bar.update(task, visible=False)
            tasks[title] = bar.add_task(title, total=total)
            begin_s = logged_s = time.monotonic()
            if screen.is_terminal:
                bar.start()
        now_s = time.monotonic()
        rate = done / max(now_s - begin_s, 1e-9)
        if unit and done:
            said = f" {unit}, {rate:.0f} {unit}/s{said}"
        if screen.is_terminal:
            bar.update(tasks[title], completed=done, total=total, description=title + said)
        elif done and now_s - logged_s > LINE_INTERVAL_S:
            logged_s = now_s
            say(f"{title}: {done} of {total}{said}, {(total - done) / rate:.0f} s left")

    try:
        yield show
    finally:
        if screen.is_terminal:  # else it would print an empty line
            bar.stop()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a single task is; see `progress_bars`."""
    with progress_bars() as show:
        yield partial(show, title)


def check_writable(path: Path | None, option: str) -> None:
    """Check that a file can be written, before the work for it begins.

    Args:
        path: the file; None where the option was not given.
        option: its name, for the error.

    Raises:
        SettingsError: it cannot be written.
    """
    if path is None:
        return
    with explained(path, option, "file"):
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
    with explained(path, option, "folder"):
        if path.exists() and not path.is_dir():
            raise SettingsError(f"{option} {path} is a file; name a folder")
        try_writing(path / "summary.json")


@contextmanager
def explained(path: Path, option: str, kind: str) -> Iterator[None]:
    """Turn an error of writing a file or folder into one of the option that names it."""
    try:
        yield
    except OSError as error:
        named = Path(error.filename or path)
        if not (named.is_relative_to(path) or path.is_relative_to(named.parent)):
            raise  # the error is about a file that was read
        why = f"cannot be written: {error.strerror or error}"
        raise SettingsError(f"{option} {path} {why}; name another {kind}") from error
