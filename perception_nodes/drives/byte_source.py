"""Random access to the bytes of a file, an object or a chunk in memory, by position."""

import os
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from perception_nodes.system.object_path import BLOCK_BYTES, ObjectPath

SMALL_BYTES = 1 << 16
"""So many bytes cost no more than one."""


class FileBytes:
    """The bytes of a file; threads may read it at the same time.

    Attributes:
        size: number of bytes.
    """

    def __init__(self, file: Path) -> None:
        self._stream = file.open("rb")
        self.size = os.fstat(self._stream.fileno()).st_size

    def read(self, at: int, count: int) -> bytes:
        """The bytes from a position on; fewer than `count` at the end."""
        # pread allocates `count` bytes first, and a damaged field may ask for any number of them.
        count = min(count, self.size - at)
        return os.pread(self._stream.fileno(), count, at) if count > 0 else b""

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class MemoryBytes:
    """Bytes in memory; see `FileBytes`."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self.size = data, len(data)

    def read(self, at: int, count: int) -> bytes:
        """The bytes from a position on; fewer than `count` at the end."""
        return bytes(self._data[at : at + count])


class ObjectBytes:
    """The bytes of an object in a store, read by ranges; those that are expected come ahead.

    See `FileBytes`.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        _, self.size, self._tag = path.version()
        self._small = (0, b"")
        self._expected: list[tuple[int, int]] = []
        thread = self._thread = ThreadPoolExecutor(1)
        # Keeps the range that is read, the next one, and the one before, which may be read again.
        self._coming = lru_cache(3)(lambda *some: thread.submit(path.read_range, *some))

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Begin and end of what will be read, in this order; neighbours are asked for together."""
        joined = list[tuple[int, int]]()
        # A damaged index may name bytes behind the end.
        for start, end in sorted((start, min(end, self.size)) for start, end in ranges):
            first, last = joined[-1] if joined else (start, start)
            if joined and start - last <= SMALL_BYTES and end - first <= BLOCK_BYTES:
                joined[-1] = first, max(end, last)
            else:
                joined.append((start, end))
        self._expected = joined

    def read(self, at: int, count: int) -> bytes:
        """The bytes from a position on; fewer than `count` at the end."""
        if (count := min(count, self.size - at)) <= 0:
            return b""
        number = bisect_right(self._expected, (at, self.size)) - 1
        if number >= 0 and at + count <= self._expected[number][1]:
            near = self._expected[number : number + 2]  # the next one is asked for meanwhile
            coming = [self._coming(start, end - start, self._tag) for start, end in near]
            start, data = near[0][0], bytes(coming[0].result())
            if at + count == self._expected[-1][1]:
                self._coming.cache_clear()  # a bag may have many files
        else:
            start, data = self._small
            if not (start <= at and at + count <= start + len(data)):
                some = min(max(count, SMALL_BYTES), self.size - at)
                start, data = self._small = at, self._path.read_range(at, some, self._tag)
        return data[at - start : at - start + count]

    def close(self) -> None:
        """Wait for a range that is coming, and drop all."""
        self._thread.shutdown(cancel_futures=True)


ByteSource = FileBytes | MemoryBytes | ObjectBytes
