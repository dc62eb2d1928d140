"""The errors whose text is for the user: one line with the thing, the value and the remedy."""

from collections.abc import Sequence
from typing import Any


def listed(items: Sequence[object], most: int = 3, separator: str = ", ") -> str:
    """The first items, and the number of the others."""
    shown = separator.join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def printable(text: str) -> str:
    """Make a text one harmless line: a foreign text may hold commands for a terminal.

    Breaks become spaces, and other characters that cannot be printed become question marks.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def in_our_words(told: str) -> str:
    """What pydantic says of a value, as our other errors say it."""
    told = told.removeprefix("Value error, ").partition(", unable to parse")[0]
    told = told.replace("Input should", "it must").replace("Field required", "it is missing")
    return told.replace("Extra inputs are not permitted", "it is unknown")


def first_problem(found: Sequence[Any]) -> str:
    """The first of the errors of a pydantic `ValidationError`: its key, with dots, and what it is.

    Args:
        found: what `ValidationError.errors()` returns.
    """
    first = found[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), in_our_words(first["msg"]))))


class PerceptionError(Exception):
    """What was asked for cannot be done with what was given, or on this machine.

    Attributes:
        word: the word with which its line in the log begins.
        status: exit status of a command that ends by it.
    """

    word, status = "error", 2

    def __str__(self) -> str:
        return printable(" ".join(line.strip() for line in super().__str__().splitlines()))


class InputError(PerceptionError):
    """One input cannot be used, such as a drive or its labels, but others may be."""
