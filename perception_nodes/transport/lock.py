"""Locks on files in shared memory, which the kernel frees when their holder ends in any way."""

import fcntl
import os
from pathlib import Path

from perception_nodes.transport.memory import TransportError, open_own


def open_locked(path: Path, operation: int) -> int:
    """Open or create a file and lock it, until the returned descriptor is closed.

    Args:
        path: whoever holds the file's exclusive lock may remove it.
        operation: as of `flock`.

    Raises:
        BlockingIOError: `operation` says not to wait, and another process holds the lock.
        TransportError: the file cannot be opened, or is another user's.
    """
    while True:
        try:
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise TransportError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            os.close(descriptor)
            raise
        if _is_of_name(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_of_name(descriptor: int, path: Path) -> bool:
    """Whether the locked file still has that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
