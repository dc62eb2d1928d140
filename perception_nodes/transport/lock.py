"""Locks on files in shared memory, which the kernel frees when their holder ends in any way."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from perception_nodes.transport.memory import TransportError, open_own

POLL_S = 0.005


class Locked(TransportError):
    """Another process holds the lock."""


def own_file(path: Path) -> int:
    """Open or create a file."""
    return open_own(path, os.O_RDWR | os.O_CREAT)


def own_folder(path: Path) -> int:
    """Open or create a folder."""
    path.mkdir(0o700, exist_ok=True)
    return open_own(path, os.O_DIRECTORY)


def open_locked(
    path: Path, operation: int, wait_s: float = 0.0, opened: Callable[[Path], int] = own_file
) -> int:
    """Open or create a file or folder and lock it, until the returned descriptor is closed.

    Args:
        path: whoever holds its exclusive lock may remove it.
        operation: `LOCK_EX` or `LOCK_SH`.
        wait_s: how long to wait for another process.
        opened: the function that opens it, `own_file` or `own_folder`.

    Raises:
        Locked: another process holds the lock for all of that time.
        TransportError: it cannot be opened, or is another user's.
    """
    end_s = time.monotonic() + wait_s
    while True:
        try:
            descriptor = opened(path)
        except OSError as error:
            raise TransportError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= end_s:
                raise Locked(
                    f"another process holds {path} for {wait_s:g} s; is one of this domain stopped?"
                ) from None
            time.sleep(POLL_S)
            continue
        if has_name(descriptor, path):
            return descriptor
        os.close(descriptor)


def has_name(descriptor: int, path: Path) -> bool:
    """Whether a locked file still has its name: somebody may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
