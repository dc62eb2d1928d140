"""Charts as files, by Matplotlib; imported only where one is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

INK, SOFT, LINE = "#1d2433", "#727a89", "#e4e7ee"
_STYLE = {
    "text.parse_math": False,  # a `$` in a file's name begins no formula
    "text.color": INK,
    **dict.fromkeys(("axes.edgecolor", "grid.color"), LINE),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.axisbelow", "axes.grid"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    "svg.fonttype": "none",
    "svg.hashsalt": "perception_nodes",  # make the same file of the same chart
}


@contextmanager
def drawing(width: float, height: float, dpi: int) -> Iterator[Figure]:
    """A figure of a size in inches, to be drawn and saved within the context."""
    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), dpi=dpi)


def saved(figure: Figure, kind: str, **options: Any) -> bytes:
    """The bytes of a figure as `png` or `svg`."""
    stream = BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()
