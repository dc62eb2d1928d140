"""Where a run tells people what it does: stderr, word for word, square brackets of names too."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress

screen = Console(stderr=True, markup=False)


def bar(progress: Progress, title: str) -> Callable[[int, int], None]:
    """Add a bar and return what moves it: done, of how many."""
    task = progress.add_task(title, total=None)

    def advance(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    return advance
