"""Where a run tells people what it does: stderr, word for word, square brackets of names too."""

from rich.console import Console

screen = Console(stderr=True, markup=False)
