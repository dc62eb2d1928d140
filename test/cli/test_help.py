"""What --help tells: a purpose and examples that work, for every command."""

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from perception_nodes.cli.app import app

TOP = typer.main.get_command(app)


def commands(group, *names):
    """The names of every command below a group."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, *names, name)
        else:
            yield (*names, name)


def command_of(names):
    """A command by its names."""
    found = TOP
    for name in names:
        found = found.get_command(None, name)
    return found


@pytest.mark.parametrize("names", list(commands(TOP)), ids=" ".join)
def test_every_command_teaches(names: tuple[str, ...]) -> None:
    command = command_of(names)
    paragraphs = [" ".join(part.split()) for part in command.help.split("\n\n")]
    marker = f"Example: perception {' '.join(names)}"
    examples = [part for part in paragraphs if part.startswith(marker)]
    assert examples, f"the help lacks a paragraph that begins with {marker!r}"
    for example in examples:
        arguments = shlex.split(example.removeprefix(marker))
        with command.make_context(" ".join(names), arguments) as context:  # parses, runs nothing
            assert context.params
    assert [p.name for p in command.params if not p.help] == []


def test_the_first_help_groups_the_commands():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"})
    titles = re.findall(r"╭─ (.+?) ─", result.stdout)
    assert titles == ["Options", "Detect", "Prepare", "Measure and test"]
    for name in TOP.list_commands(None):
        assert re.search(rf"^│ {name} ", result.stdout, re.MULTILINE)
