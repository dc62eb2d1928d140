"""A process's last records in shared memory, where they outlive it and the watchdog both.

The channel to the watchdog is fast and forgets: what a dead process has sent and a watchdog that
was away has not read is gone. The journal is what the watchdog reads then.
"""

import ctypes
import os
from pathlib import Path

from perception_nodes.core.frame import FrameRecord
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped

RECORDS = 1024
"""Half a minute of a camera at 30 Hz, or half of that where every frame is refused."""


class _Pages(ctypes.Structure):
    """A ring of records; `written` counts all that ever were, and is set after each."""

    _fields_ = [("written", ctypes.c_uint64), ("records", FrameRecord * RECORDS)]


class Journal:
    """The writing end, of this process."""

    def __init__(self, camera: str, role: str) -> None:
        """Begin it."""
        path = journal_of(camera, role, os.getpid())
        self._mapped = Mapped(path, _Pages, os.O_TRUNC)

    def append(self, record: FrameRecord) -> None:
        """Write a record, over the oldest one where the ring is full."""
        pages = self._mapped.value
        pages.records[pages.written % RECORDS] = record
        pages.written += 1

    def remove(self) -> None:
        """We stop in good order: the watchdog has all we told."""
        self._mapped.path.unlink(missing_ok=True)


def journal_of(camera: str, role: str, process: int) -> Path:
    """Where a process's is, if it has one."""
    return SHM_FOLDER / f"{own_prefix()}{camera}.{role}.{process}.journal"


def journals(camera: str, role: str) -> dict[int, Path]:
    """Those of all processes of a role, dead ones too, by process."""
    found = SHM_FOLDER.glob(f"{own_prefix()}{camera}.{role}.*.journal")
    return {int(path.suffixes[-2][1:]): path for path in found}


def read_journal(path: Path) -> list[FrameRecord]:
    """Its records, oldest first; none where it is gone.

    Its process may be writing: the one record that it may be at is left out.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return []
    if len(data) != ctypes.sizeof(_Pages):
        return []
    pages = _Pages.from_buffer_copy(data)
    written = int(pages.written)
    numbers = range(max(0, written - RECORDS + 1), written)
    return [FrameRecord.from_buffer_copy(pages.records[n % RECORDS]) for n in numbers]
