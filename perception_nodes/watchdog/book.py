"""The ledger's book in shared memory, where it outlives the watchdog."""

from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped
from perception_nodes.watchdog.ledger import LedgerBook

FORGOTTEN_AFTER_NS = 60_000_000_000
"""An older book is from another graph, which was not stopped in good order."""


class KeptBook:
    """A camera's book.

    Attributes:
        pages: as the watchdog before us left them; empty where there was none.
    """

    def __init__(self, camera: str, now_ns: int) -> None:
        self._mapped = Mapped(SHM_FOLDER / f"{own_prefix()}{camera}.book", LedgerBook)
        self.pages = self._mapped.value
        if not 0 <= now_ns - self.pages.last_ns <= FORGOTTEN_AFTER_NS:
            self._mapped.clear()

    def close(self) -> None:
        """Remove the book: the graph stops in good order, and no watchdog goes on with it."""
        del self.pages
        self._mapped.close()
        self._mapped.path.unlink(missing_ok=True)
