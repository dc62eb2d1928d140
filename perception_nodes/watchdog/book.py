"""The ledger's book in shared memory, where it outlives the watchdog."""

from pathlib import Path

from perception_nodes.core.frame import FrameStatus
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped
from perception_nodes.watchdog.ledger import LedgerBook

FORGOTTEN_AFTER_NS = 60_000_000_000
"""An older book is from another graph; one that is started as a whole removes all of them."""


class KeptBook:
    """A camera's book.

    Attributes:
        pages: as the watchdog before us left them; empty where there was none.
    """

    def __init__(self, camera: str, now_ns: int) -> None:
        self._mapped = Mapped(_book_of(camera), LedgerBook)
        self.pages = self._mapped.value
        if not 0 <= now_ns - self.pages.last_ns <= FORGOTTEN_AFTER_NS:
            self._mapped.clear()

    def close(self) -> None:
        """Close the book; it stays for the next watchdog of the graph."""
        del self.pages
        self._mapped.close()


def kept_counts(camera: str) -> dict[FrameStatus, int]:
    """How many frames watchdogs of the graph have reported with each status."""
    mapped = Mapped(_book_of(camera), LedgerBook)
    counts = {status: int(mapped.value.counts[status]) for status in FrameStatus}
    mapped.close()
    return counts


def _book_of(camera: str) -> Path:
    return SHM_FOLDER / f"{own_prefix()}{camera}.book"
