"""The records of a damaged file, one behind the other, past what is damaged."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar


class _Record(Protocol):
    """A record of any format: where it ends, and whether the file holds all of it."""

    @property
    def end(self) -> int: ...

    @property
    def whole(self) -> bool: ...


R = TypeVar("R", bound=_Record)


def walked(
    at: int,
    size: int,
    *,
    read: Callable[[int], R | None],
    over: Callable[[int], bool],
    believed: Callable[[R], bool],
    resumed: Callable[[int], int | None],
    skipped: Callable[[int, int], Any],
) -> Iterator[R]:
    """All records from a byte on.

    A record's length is believed where a record follows it, or none is found before that.

    Args:
        at: the byte.
        size: of the file.
        read: the record at a byte, None where none can be.
        over: whether the records end at a byte.
        believed: whether a record that none follows is one all the same.
        resumed: the first byte from another one on where there are records again, if there is one.
        skipped: hears of the bytes from and to which there are none.
    """
    following: R | None = None
    while at < size and not over(at):
        record = following or read(at)
        following = read(record.end) if record is not None and record.whole else None
        if record is None or not (following or believed(record)):
            found = resumed(at + 1)
            if record is None or (found is not None and found < record.end):
                skipped(at, size if found is None else found)
                if found is None:
                    return
                at, following = found, None
                continue
        yield record
        at = record.end
