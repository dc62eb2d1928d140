"""Files in shared memory: free room, reserved pages, and structures that outlive a process."""

import ctypes
import errno
import mmap
import os
import shutil
import stat
from pathlib import Path
from typing import Generic, TypeVar

from perception_nodes.core.errors import PerceptionError

SHM_FOLDER = Path("/dev/shm")
NAMESPACE = "PERCEPTION_NAMESPACE"
"""Environment variable with the ROS namespace of a graph. Graphs of one domain in different
namespaces share nothing, even if their cameras have the same names."""
RESERVED_BYTES = 8_000_000
"""Bytes whose pages are reserved at the front of a mapped file. The files of iceoryx2 are smaller.
Fast DDS makes large files for images and fills them from the front: a node that sends no images
needs no more than this."""
Structure = TypeVar("Structure", bound=ctypes.Structure)


class TransportError(PerceptionError):
    """Shared memory cannot be used; the text says what to do."""


def open_own(path: Path, flags: int) -> int:
    """Open or create a file, or open a folder, that only this user can have put there.

    Everybody may put files into the folders of shared memory, under names that we will use.

    Returns:
        Its descriptor, which is closed when another program is executed.

    Raises:
        TransportError: it is another user's, or others may use it.
        OSError: it cannot be opened for another reason.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR):
            raise not_ours(path) from error
        raise
    if not is_ours(os.fstat(descriptor)):
        os.close(descriptor)
        raise not_ours(path)
    return descriptor


def is_ours(status: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user, and others cannot write to it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def not_ours(path: Path) -> TransportError:
    """The error about a file or folder in shared memory that is not ours, with its remedy."""
    return TransportError(
        f"{path} is another user's, or others may write to it; run all processes of a graph as "
        "one user, or have root remove it"
    )


def require_room(needed_bytes: int) -> None:
    """Check that /dev/shm has room; when it is full, a process that touches a new page is killed.

    Raises:
        TransportError: not enough memory is free.
    """
    free_bytes = shutil.disk_usage(SHM_FOLDER).free
    if free_bytes < needed_bytes:
        raise TransportError(
            f"{SHM_FOLDER} has {free_bytes / 1e6:.1f} MB free, {needed_bytes / 1e6:.1f} MB are "
            f"needed; remove what lies there or enlarge it (mount -o remount,size=2G {SHM_FOLDER})"
        )


def reserve() -> None:
    """Reserve pages for the files in shared memory that this process has mapped.

    A file is created without pages. The kernel finds a page when it is first written to, and if
    `/dev/shm` is full by then, the process dies of SIGBUS. It is better to fail at start, with an
    error. Files with samples are left out here, see `shm.Writer`.

    Raises:
        TransportError: not enough memory is free.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        ours = [line for line in maps if f" {SHM_FOLDER}/" in line]
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in ours}
    for path in paths:
        if not path.endswith(".data"):
            give_pages(Path(path), RESERVED_BYTES)


def give_pages(path: Path, most_bytes: int) -> None:
    """Reserve pages for the first bytes of a file.

    Raises:
        TransportError: not enough memory is free.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # the file was removed meanwhile, or belongs to another user
    size_bytes = min(os.fstat(descriptor).st_size, most_bytes)
    try:
        os.posix_fallocate(descriptor, 0, max(size_bytes, 1))
    except OSError as error:
        require_room(size_bytes)
        raise TransportError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


class Mapped(Generic[Structure]):
    """A structure in a file in shared memory; opening an existing file keeps its content.

    Attributes:
        path: the file.
        descriptor: open file descriptor of the file.
        value: the structure, in place.
    """

    def __init__(self, path: Path, kind: type[Structure], is_shared: bool = True) -> None:
        """Open the file, or create one filled with zeros.

        Args:
            path: the file.
            kind: type of the structure.
            is_shared: otherwise this process alone has the structure, and it ends with it.

        Raises:
            TransportError: it is another user's.
        """
        flags = os.O_RDWR | os.O_CREAT
        self.path = path
        self.descriptor = open_own(path, flags) if is_shared else os.memfd_create("not_shared")
        os.ftruncate(self.descriptor, ctypes.sizeof(kind))
        self._memory = mmap.mmap(self.descriptor, ctypes.sizeof(kind))
        self.value = kind.from_buffer(self._memory)

    def clear(self) -> None:
        """Fill the structure with zeros."""
        ctypes.memset(ctypes.addressof(self.value), 0, ctypes.sizeof(self.value))

    def close(self) -> None:
        """Unmap the file, which stays; no other reference to `value` may be left."""
        del self.value
        self._memory.close()
        os.close(self.descriptor)
