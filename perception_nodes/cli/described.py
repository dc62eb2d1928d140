"""Commands whose docstrings describe their options."""

import inspect
import re
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from perception_nodes.core.errors import in_our_words
from perception_nodes.graph.settings import SettingsError

Command = TypeVar("Command", bound=Callable[..., Any])
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


SUBJECTS = ("BAG", "MODEL")
"""Arguments that may be given as the option that other commands have: --bag, --model."""


def as_option(name: str, value: str) -> str:
    """A parameter in the form of an option."""
    return f"--{name.replace('_', '-')} {value}"


class _Command(TyperCommand):
    """Takes its subject by the name of the option too, and tells parameters from options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, see `click.Command`.

        Raises:
            SettingsError: a parameter of the graph is given, and the command has none.
        """
        metavars = [str(p.metavar) for p in self.params if p.param_type_name == "argument"]
        names = (metavar.removesuffix("...") for metavar in metavars)
        subjects = {f"--{name.lower()}" for name in names if name in SUBJECTS}
        options = {name for p in self.params for name in p.opts if name.startswith("--")}
        if not any(":=" in str(p.metavar) for p in self.params):
            for name, _, value in (text.partition(":=") for text in args if ":=" in text):
                meant = as_option(name, value)
                is_one = meant.split()[0] in {*options, *subjects}
                hint = f"; did you mean {meant}?" if is_one else ""
                raise SettingsError(f"{name}:={value} is for parameters of the graph{hint}", name)
        for subject in subjects - options:
            args = [text.removeprefix(f"{subject}=") for text in args if text != subject]
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:  # typer passes on what pydantic says
            error.message = in_our_words(error.message)
            raise


class Commands(typer.Typer):
    """Commands that describe their parameters in the section `Options:` of their docstrings.

    A parameter without an annotation of Typer is an option, and a flag if it is False by default.
    """

    def command(self, name: str | None = None, **attributes: Any) -> Callable[[Command], Command]:
        """Register a command, see `typer.Typer.command`."""

        def register(command: Command) -> Command:
            text = _describe(command)
            attributes.setdefault("cls", _Command)
            return super(Commands, self).command(name, help=text, **attributes)(command)

        return register


def _describe(command: Callable[..., Any]) -> str:
    """Move the descriptions of a command's parameters from its docstring into its annotations.

    Returns:
        The docstring without them.
    """
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    hints = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    for section in [part for part in paragraphs if part.startswith("Options:\n")]:
        paragraphs.remove(section)
        for name, text in _ENTRY.findall(section):
            if get_origin(hints[name]) is Annotated:
                kind, option = get_args(hints[name])
            elif parameters[name].default is False:
                kind, option = bool, typer.Option(f"--{name.replace('_', '-')}")
            else:
                kind, option = hints[name], typer.Option()
            option = copy(option)
            option.help = " ".join(text.split())
            command.__annotations__[name] = Annotated[kind, option]
    # A line break within a paragraph would tear its lines on a narrow terminal.
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
