"""The errors whose text is for the user: one line with the thing, the value and the remedy."""

from collections.abc import Sequence


def listed(items: Sequence[object], most: int = 3, separator: str = ", ") -> str:
    """The first items, and how many more there are."""
    shown = separator.join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def printable(text: str) -> str:
    """A text as one line that only shows something: foreign ones may hold commands for a terminal.

    Breaks become spaces, and what else cannot be printed question marks.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


class PerceptionError(Exception):
    """What was asked for cannot be done with what was given, or on this machine.

    Attributes:
        word: begins the line that is logged of it.
    """

    word = "error"

    def __str__(self) -> str:
        return printable(" ".join(line.strip() for line in super().__str__().splitlines()))


class InputError(PerceptionError):
    """One input cannot be used, such as a drive or its labels; the others still may be."""
