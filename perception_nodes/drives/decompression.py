"""Compressed files, chunks and messages of bags, decompressed as far as they are undamaged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import lz4.frame
import zstandard

COMPRESSED = (".zstd", ".zst", ".lz4")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZ4_MAGIC = b"\x04\x22\x4d\x18"
MAX_MESSAGE_BYTES = 256 << 20
"""Limit of a message that is compressed on its own; 8192 x 8192 pixels in bgr8 are 192 MiB."""
MAX_CHUNK_BYTES = 1 << 30
BLOCK = 1 << 20
MAX_RATIO, ALWAYS_BYTES = 200, 1 << 30
"""A file may decompress to so many times its size, and to so many bytes in any case: a few bytes
can be made to fill every disk."""
ZSTD_STEP = 4 << 10
"""Bytes given to zstd at a time; at its best compression they decompress to 128 MiB."""
_ERRORS = (zstandard.ZstdError, RuntimeError, EOFError, OSError, ValueError)
"""What the libraries raise for damaged input."""

Data = TypeVar("Data", bound=bytes | memoryview)


class DecompressionError(ValueError):
    """Data that cannot be decompressed.

    Attributes:
        before: what was decompressed before the damage.
    """

    def __init__(self, text: str, before: bytes = b"") -> None:
        super().__init__(text)
        self.before = before


def decompressed(compression: str, data: Data, limit: int) -> Data | bytes:
    """Decompress data, which may be cut off.

    Args:
        compression: `lz4`, `zstd`, or empty for data that is not compressed.
        data: all that there is.
        limit: largest size after decompression, in bytes.

    Raises:
        DecompressionError: it is damaged, it exceeds the limit, or the compression is unknown.
    """
    if not compression:
        return data
    if compression not in ("zstd", "lz4"):
        raise DecompressionError(f"compression {compression!r} is not known")
    found = bytearray()
    try:
        if compression == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(data, read_size=len(data))
            while len(found) <= limit and (block := reader.read(BLOCK)):
                found += block
        else:
            decompressor = lz4.frame.LZ4FrameDecompressor()
            given: bytes | memoryview = data
            while len(found) <= limit and not decompressor.eof:
                block = decompressor.decompress(given, BLOCK)
                if not block and decompressor.needs_input:
                    break
                given = b""
                found += block
    except _ERRORS as error:
        raise DecompressionError(f"{compression}: {error}", bytes(found)) from error
    if len(found) > limit:
        raise DecompressionError(f"it decompresses to more than {limit >> 20} MiB")
    return bytes(found)


def decompressed_message(data: bytes) -> bytes:
    """Decompress a message if it was compressed on its own; CDR never starts like such a frame.

    A message that cannot be decompressed stays as it is, so that it is refused as broken.
    """
    compression = {ZSTD_MAGIC: "zstd", LZ4_MAGIC: "lz4"}.get(data[:4])
    if compression is None:
        return data
    try:
        return decompressed(compression, data, MAX_MESSAGE_BYTES)
    except DecompressionError:
        return data


def decompress_file(file: Path, out: Path) -> str:
    """Decompress a file as far as it is undamaged.

    Returns:
        Why the end of the file was not reached; empty if it was.

    Raises:
        DecompressionError: it decompresses to much more than any recording does.
    """
    limit = max(ALWAYS_BYTES, MAX_RATIO * file.stat().st_size)
    with file.open("rb") as compressed, out.open("wb") as plain:
        blocks = _lz4_blocks(compressed) if file.suffix == ".lz4" else _zstd_blocks(compressed)
        try:
            for block in blocks:
                if plain.tell() + len(block) > limit:
                    raise DecompressionError(f"it decompresses to more than {limit >> 20} MiB")
                plain.write(block)
        except (zstandard.ZstdError, RuntimeError, EOFError) as error:
            return f"it can be decompressed up to about byte {compressed.tell()} only: {error}"
    return ""


def _lz4_blocks(compressed: BinaryIO) -> Iterator[bytes]:
    stream = lz4.frame.LZ4FrameFile(compressed)
    while block := stream.read(BLOCK):
        yield block


def _zstd_blocks(compressed: BinaryIO) -> Iterator[bytes]:
    """Decompress the frames of a file; the library's own reader takes a cut-off frame for whole.

    Raises:
        EOFError: the file ends within a frame.
    """
    frame: Any = None
    data = b""
    while data := data or compressed.read(ZSTD_STEP):
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        yield frame.decompress(data)
        data = frame.unused_data
        if frame.eof:
            frame = None
    if frame is not None:
        raise EOFError("it ends within a frame")
