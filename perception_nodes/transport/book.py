"""The ledger's book in shared memory, where it outlives the process that keeps it."""

import ctypes
import mmap
import os

from perception_nodes.core.ledger import LedgerBook
from perception_nodes.transport.shm import SHM_FOLDER, own_prefix

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
        self._path = SHM_FOLDER / f"{own_prefix()}{camera}.book"
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, ctypes.sizeof(LedgerBook))
            self._memory = mmap.mmap(descriptor, ctypes.sizeof(LedgerBook))
        finally:
            os.close(descriptor)
        self.pages = LedgerBook.from_buffer(self._memory)
        if not 0 <= now_ns - self.pages.last_ns <= FORGOTTEN_AFTER_NS:
            ctypes.memset(ctypes.addressof(self.pages), 0, ctypes.sizeof(self.pages))

    def close(self) -> None:
        """The graph stops in good order: nobody goes on with it."""
        del self.pages
        self._memory.close()
        self._path.unlink(missing_ok=True)
