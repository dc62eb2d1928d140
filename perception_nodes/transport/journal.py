"""The last records of a process, in shared memory, where they outlive it and the watchdog.

A record that a dead process sent through the channel, and that the watchdog had not read because it
was restarting, is lost. The watchdog then reads it in the process's journal.
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
    """A ring of records; `written` counts all records ever written, and is set after each one."""

    _fields_ = [("written", ctypes.c_uint64), ("records", FrameRecord * RECORDS)]


class Journal:
    """The journal that this process writes."""

    def __init__(self, camera: str, role: str) -> None:
        path = journal_of(camera, role, os.getpid())
        self._mapped = Mapped(path, _Pages, os.O_TRUNC)

    def append(self, record: FrameRecord) -> None:
        """Write a record; if the ring is full, it replaces the oldest one."""
        pages = self._mapped.value
        pages.records[pages.written % RECORDS] = record
        pages.written += 1

    def close(self) -> None:
        """Remove the journal, when this process stops in good order and has sent everything."""
        self._mapped.path.unlink(missing_ok=True)
        self._mapped.close()


def journal_of(camera: str, role: str, process: int) -> Path:
    """Path of a process's journal, whether it exists or not."""
    return SHM_FOLDER / f"{own_prefix()}{camera}.{role}.{process}.journal"


def journals(camera: str, role: str) -> dict[int, Path]:
    """Paths of the journals of all processes of a role, living and dead, by process id."""
    found = SHM_FOLDER.glob(f"{own_prefix()}{camera}.{role}.*.journal")
    return {int(path.suffixes[-2][1:]): path for path in found}


def read_journal(path: Path) -> list[FrameRecord]:
    """Records of a journal, oldest first; none if the journal is gone.

    Its process may be writing a record meanwhile, so the place of the next record is left out.
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
