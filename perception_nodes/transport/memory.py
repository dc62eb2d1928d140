"""Files in shared memory: room for them, their pages, and structures that outlive a process."""

import ctypes
import mmap
import os
import shutil
from pathlib import Path
from typing import Generic, TypeVar

SHM_FOLDER = Path("/dev/shm")
RESERVED_BYTES = 8_000_000
"""Of a file that we have mapped. iceoryx2's are smaller; Fast DDS makes large ones, for images, and
fills them from the front: a node that sends no images needs no more."""
Structure = TypeVar("Structure", bound=ctypes.Structure)


class TransportError(RuntimeError):
    """Shared memory cannot be had; the text says what to do."""


def require_room(needed_bytes: int) -> None:
    """Check /dev/shm before pages are touched: a full one kills the process that writes.

    Raises:
        TransportError: not enough is free.
    """
    free_bytes = shutil.disk_usage(SHM_FOLDER).free
    if free_bytes < needed_bytes:
        raise TransportError(
            f"{SHM_FOLDER} has {free_bytes / 1e6:.1f} MB free, {needed_bytes / 1e6:.1f} MB are "
            f"needed; remove what lies there or enlarge it (mount -o remount,size=2G {SHM_FOLDER})"
        )


def reserve() -> None:
    """Give the files in shared memory that this process has mapped the pages that they may need.

    They are made without: a page is found when it is first written to, and where `/dev/shm` is full
    by then the process dies of SIGBUS. It is better told when it starts. Samples are not meant
    here, see `shm.Writer`.

    Raises:
        TransportError: not enough is free.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {
            line.split(maxsplit=5)[5].rstrip("\n") for line in maps if f" {SHM_FOLDER}/" in line
        }
    for path in paths:
        if not path.endswith(".data"):
            give_pages(Path(path), RESERVED_BYTES)


def give_pages(path: Path, most_bytes: int) -> None:
    """Give the first bytes of a file their pages.

    Raises:
        TransportError: not enough is free.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # removed meanwhile, or another user's
    size_bytes = min(os.fstat(descriptor).st_size, most_bytes)
    try:
        os.posix_fallocate(descriptor, 0, max(size_bytes, 1))
    except OSError as error:
        require_room(size_bytes)
        raise TransportError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


class Mapped(Generic[Structure]):
    """A structure in a file in shared memory; what was in it when it was opened still is.

    Attributes:
        path: the file.
        descriptor: of it, open.
        value: the structure, in place.
    """

    def __init__(self, path: Path, kind: type[Structure], flags: int = 0) -> None:
        """Open the file, or make one of zeros; `flags` as for `os.open`."""
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        os.ftruncate(self.descriptor, ctypes.sizeof(kind))
        self._memory = mmap.mmap(self.descriptor, ctypes.sizeof(kind))
        self.value = kind.from_buffer(self._memory)

    def clear(self) -> None:
        """Make it all zeros."""
        ctypes.memset(ctypes.addressof(self.value), 0, ctypes.sizeof(self.value))

    def close(self) -> None:
        """Unmap it; nobody else may hold `value` any more. The file stays."""
        del self.value
        self._memory.close()
        os.close(self.descriptor)
