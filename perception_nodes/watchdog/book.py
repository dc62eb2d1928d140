"""The ledger's book in shared memory, where it outlives the process that keeps it."""

from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped
from perception_nodes.watchdog.ledger import LedgerBook

FORGOTTEN_AFTER_NS = 60_000_000_000
"""An older book is that of another graph, whose end was not in order."""


class KeptBook:
    """A camera's book; `pages` is what the last one to keep it has left."""

    def __init__(self, camera: str, now_ns: int) -> None:
        """Open it, or begin a new one.

        Args:
            camera: whose frames it is about.
            now_ns: CLOCK_MONOTONIC.
        """
        self._mapped = Mapped(SHM_FOLDER / f"{own_prefix()}{camera}.book", LedgerBook)
        self.pages = self._mapped.value
        if not 0 <= now_ns - self.pages.last_ns <= FORGOTTEN_AFTER_NS:
            self._mapped.clear()

    def close(self) -> None:
        """The graph stops in good order: nobody goes on with it."""
        del self.pages
        self._mapped.close()
        self._mapped.path.unlink(missing_ok=True)
