"""How a camera was held, as its files say it: the orientation of Exif 2.3 (tag 0x0112)."""

from collections.abc import Iterator
from typing import Literal

UPRIGHT = 1
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION, _START_OF_PIXELS, _APPLICATION_1 = 0x0112, 0xDA, 0xE1


def orientation(file: bytes) -> int:
    """The orientation of a JPEG or PNG file, 1 to 8; `UPRIGHT` where the file does not say."""
    return _of_png(file) if file.startswith(PNG_SIGNATURE) else _of_jpeg(file)


def jpeg_segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment before the picture of a JPEG file."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != _START_OF_PIXELS:
        if jpeg[at + 1] == 0xFF:  # any number of fill bytes may precede a marker
            at += 1
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        yield jpeg[at + 1], at + 4, end
        at = end


def _of_jpeg(jpeg: bytes) -> int:
    for marker, begin, end in jpeg_segments(jpeg):
        if marker == _APPLICATION_1 and jpeg[begin : begin + 6] == b"Exif\0\0":
            return _of_tiff(jpeg[begin + 6 : end])
    return UPRIGHT


def _of_png(png: bytes) -> int:
    """The orientation in the chunk `eXIf`. A chunk has its length, kind, data and a checksum."""
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        if kind == b"eXIf":
            return _of_tiff(png[at + 8 : at + 8 + length])
        at += 12 + length
    return UPRIGHT


def _of_tiff(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF structure, whose entries have 12 bytes."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
