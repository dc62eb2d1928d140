"""The cache of compiled models, kernels, measurements and the sample drive: listed and limited.

What is removed is made again when it is needed, at the cost of its first start.
"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from perception_nodes.system.environment import cache_folder

LIMIT_BYTES = 4_000_000_000
"""What was not used for the longest time is removed when the cache is larger."""


class Cached(NamedTuple):
    """A file of the cache.

    Attributes:
        path: the file.
        size: in bytes.
        used_s: when it was last read or written, seconds since the Unix epoch.
    """

    path: Path
    size: int
    used_s: float


def cached() -> list[Cached]:
    """The files of the cache, the last used first."""
    found = []
    for path in cache_folder().rglob("*"):
        with suppress(OSError):  # another process has just removed it
            status = path.lstat()
            if not path.is_dir():
                found.append(Cached(path, status.st_size, max(status.st_atime, status.st_mtime)))
    return sorted(found, key=lambda one: -one.used_s)


def trim(limit_bytes: int = LIMIT_BYTES) -> int:
    """Remove files until the rest is within the limit; returns the bytes removed.

    Raises:
        OSError: a file cannot be removed.
    """
    kept = removed = 0
    for one in cached():
        if kept + one.size > limit_bytes:
            one.path.unlink(missing_ok=True)
            removed += one.size
        else:
            kept += one.size
    return removed
