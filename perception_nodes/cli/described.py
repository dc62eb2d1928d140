"""Commands whose docstrings describe their options."""

import inspect
import re
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

Command = TypeVar("Command", bound=Callable[..., Any])
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


class Commands(typer.Typer):
    """Commands that describe their parameters in the section `Options:` of their docstrings.

    A parameter without an annotation of Typer is an option, and a flag if it is False by default.
    """

    def command(self, name: str | None = None, **attributes: Any) -> Callable[[Command], Command]:
        """Register a command, see `typer.Typer.command`."""

        def register(command: Command) -> Command:
            text = _describe(command)
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
    return "\n\n".join(paragraphs)
