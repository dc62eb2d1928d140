"""Compressed files, chunks and messages of bags, unpacked as far as their bytes are sound."""

import bz2
from pathlib import Path
from typing import Any, TypeVar

import lz4.frame
import zstandard

COMPRESSED = (".zstd", ".zst", ".lz4")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZ4_MAGIC = b"\x04\x22\x4d\x18"
MAX_MESSAGE_BYTES = 256 << 20
"""Of a message that is compressed on its own; an image of 8192 x 8192 in bgr8 is 192 MiB."""
MAX_CHUNK_BYTES = 1 << 30
BLOCK = 1 << 20
_ERRORS = (zstandard.ZstdError, RuntimeError, EOFError, OSError, ValueError)
"""What the libraries raise for bytes that they did not write."""

Data = TypeVar("Data", bound=bytes | memoryview)


class PackingError(ValueError):
    """Bytes that cannot be unpacked.

    Attributes:
        before: what was unpacked up to there.
    """

    def __init__(self, text: str, before: bytes = b"") -> None:
        """Take them."""
        super().__init__(text)
        self.before = before


def unpacked(compression: str, data: Data, limit: int) -> Data | bytes:
    """Data that may be cut off, as it was before `bz2`, `lz4`, `zstd` or no compression.

    Raises:
        PackingError: it is damaged, or longer than the limit in bytes.
    """
    if compression in ("", "none"):
        return data
    found = bytearray()
    try:
        if compression == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(data, read_size=len(data))
            while len(found) <= limit and (block := reader.read(BLOCK)):
                found += block
        elif compression in ("lz4", "bz2"):
            lz4_or_bz2: Any = (
                lz4.frame.LZ4FrameDecompressor() if compression == "lz4" else bz2.BZ2Decompressor()
            )
            given: bytes | memoryview = data
            while len(found) <= limit and not lz4_or_bz2.eof:
                block = lz4_or_bz2.decompress(given, BLOCK)
                if not block and lz4_or_bz2.needs_input:
                    break
                given = b""
                found += block
        else:
            raise PackingError(f"compression {compression!r} is not known")
    except PackingError:
        raise
    except _ERRORS as error:
        raise PackingError(f"{compression}: {error}", bytes(found)) from error
    if len(found) > limit:
        raise PackingError(f"it unpacks to more than {limit >> 20} MiB")
    return bytes(found)


def unpacked_message(data: bytes) -> bytes:
    """A message that may have been compressed on its own: CDR never starts like such a frame.

    One that cannot be unpacked stays as it is: it is refused, and counted, as a broken message.
    """
    compression = {ZSTD_MAGIC: "zstd", LZ4_MAGIC: "lz4"}.get(data[:4])
    if compression is None:
        return data
    try:
        return unpacked(compression, data, MAX_MESSAGE_BYTES)
    except PackingError:
        return data


def unpack_file(file: Path, out: Path) -> str:
    """Unpack a file as far as it is sound.

    Returns:
        Why it was not unpacked to its end, empty where it was.
    """
    with file.open("rb") as packed, out.open("wb") as plain:
        unpacking: Any
        if file.suffix == ".lz4":
            unpacking = lz4.frame.LZ4FrameFile(packed)
        else:
            unpacking = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        while True:
            try:
                block = unpacking.read(BLOCK)
            except (zstandard.ZstdError, RuntimeError, EOFError) as error:
                at = packed.tell()
                return f"it can be unpacked to about byte {at}, and not on from there: {error}"
            if not block:
                return ""
            plain.write(block)
