"""A process's signs of life and its last records, in shared memory.

There they outlive it and the watchdog. A record that a dead process sent through the channel, and
that the watchdog had not read because it was restarting, is lost. The watchdog then reads it in the
process's journal. A sign of life costs three stores, and wakes nobody.
"""

import ctypes
import mmap
import os
import struct
import sys
import time
from contextlib import suppress
from ctypes import addressof, memmove, sizeof
from pathlib import Path

from perception_nodes.core.frame import FrameRecord, Record
from perception_nodes.core.records import as_sent
from perception_nodes.core.structures import fields
from perception_nodes.system.life import is_supervised, own_incarnation
from perception_nodes.system.processes import own_time_ns, was_alive
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped, is_ours

RECORDS = 1024
"""Room for half a minute of a camera at 30 Hz, or half of that if every frame is refused."""
RECORD_BYTES = sizeof(FrameRecord)


class _Pages(ctypes.Structure):
    """A sign of life, and a ring of records.

    The process was alive at `alive_ns` (0: it has stopped in good order), may be silent for
    `patience_ns`, and had used `spent_ns` of processor time. Each value is read and written in one
    piece, but a reader may see a new value beside an old one, on processors such as ARM's in any
    order. That does no harm: it judges by them only after the process was silent for its patience,
    milliseconds after the last store became visible.

    `written` counts all records ever written, and is set after each one. `process` is the number of
    the process.
    """

    _fields_ = [
        *fields("int64 alive_ns, patience_ns, spent_ns; uint64 written, process"),
        ("records", FrameRecord * RECORDS),
    ]


_SIGN = struct.Struct("3q")
_HEAD = struct.Struct("5q")
"""The sign of life, and all that stands before the records; native numbers are read in one piece
each."""


class Journal:
    """The journal that this process writes."""

    def __init__(self, camera: str, role: str) -> None:
        self._mapped = Mapped(journal_of(camera, role, own_incarnation()), _Pages)
        self._mapped.value.process = os.getpid()
        self._records_at = addressof(self._mapped.value) + _Pages.records.offset

    def sign(self, patience_ns: int) -> None:
        """Give a sign of life; `patience_ns` as in `Record`."""
        pages = self._mapped.value
        pages.patience_ns, pages.spent_ns = patience_ns, own_time_ns()
        pages.alive_ns = time.monotonic_ns()

    def leave(self) -> None:
        """Say that no more signs of life are to be expected."""
        self._mapped.value.alive_ns = 0

    def append(self, record: Record) -> None:
        """Write a record; if the ring is full, it replaces the oldest one."""
        pages = self._mapped.value
        written = pages.written
        place = self._records_at + written % RECORDS * RECORD_BYTES
        memmove(place, addressof(record), sizeof(record))
        pages.written = written + 1

    def close(self) -> None:
        """Close the journal, when this process stops in good order.

        A watchdog that is gone just now has not read it: where there is a supervisor, that one or
        the next watchdog removes it.
        """
        if not is_supervised():
            self._mapped.path.unlink(missing_ok=True)
        self._mapped.close()


class Signs:
    """Another process's signs of life, in its journal.

    Attributes:
        process: its number.
    """

    def __init__(self, path: Path) -> None:
        """Map the journal.

        Raises:
            OSError, ValueError: it is gone, or not complete yet.
        """
        with open(path, "rb") as file:
            self._memory = mmap.mmap(file.fileno(), _HEAD.size, prot=mmap.PROT_READ)
        alive_ns, *_, self.process = _HEAD.unpack_from(self._memory)
        if not self.process:
            raise ValueError(f"{path} does not name its process yet")
        self._sender = _sender_of(path)
        # If another process has this number by now, the sign is not that process's own.
        self._last_ns = 0 if was_alive(self.process, alive_ns) else alive_ns

    def new(self) -> Record | None:
        """The last sign, if it was given after the one before."""
        alive_ns, patience_ns, spent_ns = _SIGN.unpack_from(self._memory)
        if not alive_ns or alive_ns == self._last_ns:
            return None
        self._last_ns = alive_ns
        return Record(0, alive_ns, patience_ns, spent_ns, sender=self._sender, process=self.process)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()


def journal_of(camera: str, role: str, incarnation: int) -> Path:
    """Path of a process's journal, whether it exists or not."""
    return SHM_FOLDER / f"{own_prefix()}{camera}.{role}.{incarnation:016x}.journal"


def _sender_of(path: Path) -> int:
    return int(path.suffixes[-2][1:], 16)


def journals(camera: str, role: str) -> dict[int, Path]:
    """Paths of the journals of all processes of a role, living and dead, by their incarnations.

    Those of other users are left out: only our own processes journal what they have done.
    """
    found: dict[int, Path] = {}
    for path in SHM_FOLDER.glob(f"{own_prefix()}{camera}.{role}.*.journal"):
        with suppress(FileNotFoundError):  # it was removed meanwhile
            if is_ours(path.lstat()):
                found[_sender_of(path)] = path
    return found


def process_of(path: Path) -> int:
    """Number of the process that has written a journal; 0 if the journal is gone or no journal."""
    with suppress(OSError, ValueError):
        signs = Signs(path)
        signs.close()
        return int(signs.process)
    return 0


def read_journal(path: Path) -> list[Record]:
    """Records of a journal, oldest first; none if the journal is gone.

    Its process may write meanwhile: the places of those records and of the next one are left out.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = file.readall()
            after = os.pread(file.fileno(), 8, _Pages.written.offset)
    except OSError:
        return []
    if len(data) != sizeof(_Pages):
        return []
    pages = _Pages.from_buffer_copy(data)
    written, written_after = int(pages.written), int.from_bytes(after, sys.byteorder)
    numbers = range(max(0, written_after - RECORDS + 1), min(written, written_after))
    return [as_sent(FrameRecord.from_buffer_copy(pages.records[n % RECORDS])) for n in numbers]
