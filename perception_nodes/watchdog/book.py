"""The ledger's book in shared memory, where it outlives the watchdog."""

from pathlib import Path

from perception_nodes.core.frame import FrameStatus
from perception_nodes.system.life import graph_life, is_supervised
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped
from perception_nodes.watchdog.ledger import LedgerBook

FORGOTTEN_AFTER_NS = 60_000_000_000
"""A book older than this is from another graph; without a supervisor nobody knows where one
ends."""


class KeptBook:
    """A camera's book.

    Attributes:
        pages: the pages that the watchdog before us left; empty if there was none.
    """

    def __init__(self, camera: str, now_ns: int) -> None:
        self._mapped = Mapped(_book_of(camera), LedgerBook)
        self.pages = self._mapped.value
        life, pages = graph_life(), self.pages
        old = not is_supervised() and not 0 <= now_ns - pages.last_ns <= FORGOTTEN_AFTER_NS
        if pages.life != life or old:
            processes = type(pages.processes).from_buffer_copy(pages.processes)
            is_of_life = pages.life == life
            self._mapped.clear()
            pages.life = life
            if is_of_life:  # perhaps the graph is the same and was silent: its numbers go on
                pages.processes = processes

    def close(self) -> None:
        """Close the book; it stays for the next watchdog of the graph."""
        del self.pages
        self._mapped.close()


class KeptCounts(Mapped[LedgerBook]):
    """How many frames watchdogs of the graph have reported; for others than the watchdog."""

    def __init__(self, camera: str) -> None:
        super().__init__(_book_of(camera), LedgerBook)

    def read(self) -> dict[FrameStatus, int]:
        """The number of frames with each status."""
        return {status: int(self.value.counts[status]) for status in FrameStatus}


def _book_of(camera: str) -> Path:
    return SHM_FOLDER / f"{own_prefix()}{camera}.book"
