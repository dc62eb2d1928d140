"""Tables of figures for the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table


def figure_table(names: Sequence[str], figures: Sequence[str], title: str | None = None) -> Table:
    """A table whose figures stay whole on a narrow terminal and in a pipe.

    Args:
        names: headings of the columns of words, which are broken where there is little room.
        figures: headings of the columns of figures, one word below the other.
        title: of the table.
    """
    words = (Column(name, overflow="fold") for name in names)
    numbers = (Column(one.replace(" ", "\n"), justify="right", no_wrap=True) for one in figures)
    return Table(*words, *numbers, title=title, box=SIMPLE_HEAD, padding=0)
