"""Random access to the bytes of a file or of a chunk in memory, by position."""

import os
from pathlib import Path


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


ByteSource = FileBytes | MemoryBytes
