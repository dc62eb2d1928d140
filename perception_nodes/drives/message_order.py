"""What the files of a bag have in common: parts, whose messages are put in log-time order."""

import heapq
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

Messages = Iterator[tuple[int, str, bytes]]
"""Log time in nanoseconds since the Unix epoch, topic, and the serialized message (CDR)."""
HELD_BYTES = 256 << 20
"""Parts that overlap in time are in memory together, up to this size."""
MAX_LINES = 20


class Part(NamedTuple):
    """A piece of a bag that can be read on its own.

    Attributes:
        start_ns: no message of it was logged earlier.
        size: bytes that it takes in memory while it is read.
        read: gives its messages, ordered by log time.
    """

    start_ns: int
    size: int
    read: Callable[[], Messages]


def in_log_time_order(parts: Iterable[Part], disorder: Callable[[], None]) -> Messages:
    """The messages of all parts, oldest first; those of one time in the order of the parts.

    A part is opened when the messages before it have been given. Where more than `HELD_BYTES` of
    parts would have to be open at once, the oldest message at hand is given without waiting for
    what comes behind it in the file, and `disorder` is called if one that is older follows.
    """
    heap: list[tuple[int, int, int, str, bytes, Messages]] = []
    held, last_ns = 0, -1
    ordered = sorted(parts, key=lambda part: part.start_ns)

    def advance(number: int, position: int, messages: Messages) -> bool:
        following = next(messages, None)
        if following is not None:
            log_time_ns, topic, data = following
            heapq.heappush(heap, (log_time_ns, number, position, topic, data, messages))
        return following is not None

    for number in range(len(ordered) + 1):
        part = ordered[number] if number < len(ordered) else None
        while heap and (part is None or heap[0][0] <= part.start_ns or held > HELD_BYTES):
            log_time_ns, source, position, topic, data, messages = heapq.heappop(heap)
            if log_time_ns < last_ns:
                disorder()
            last_ns = log_time_ns
            yield log_time_ns, topic, data
            if not advance(source, position + 1, messages):
                held -= ordered[source].size
        if part is not None and advance(number, 0, part.read()):
            held += part.size


class Damage:
    """What is wrong with a file, a line each; said once however often it is met."""

    def __init__(self) -> None:
        """Nothing is."""
        self._lines: dict[str, None] = {}

    def note(self, line: str) -> None:
        """Something is."""
        self._lines[line] = None

    def lines(self) -> list[str]:
        """The first ones, and how many more there are."""
        lines = list(self._lines)
        more = len(lines) - MAX_LINES
        return lines[:MAX_LINES] + ([f"and so on, in {more} more places"] if more > 0 else [])


class BagFile(Protocol):
    """An open file of a bag.

    Attributes:
        types: message type by topic.
        counts: messages by topic that are there, as far as that is known without reading them.
        recorded: messages by topic that the file's own index tells of.
        indexed: whether that index tells of all messages of the file.
        start_ns, end_ns: log times of the first and last message; 0 where there is none.
        damage: what is wrong with the file; reading may add to it.
    """

    types: dict[str, str]
    counts: Counter[str]
    recorded: Counter[str]
    indexed: bool
    start_ns: int
    end_ns: int
    damage: Damage

    def parts(self, topics: Collection[str]) -> list[Part]:
        """What holds the messages of some topics; reading it does not raise for damage."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Bytes(Protocol):
    """Bytes that records are read from."""

    size: int

    def read(self, at: int, count: int) -> bytes:
        """So many bytes, fewer at the end."""
        ...


class FileBytes:
    """Those of a file, in no more memory than is asked for."""

    def __init__(self, file: Path) -> None:
        """Open it."""
        self._stream = file.open("rb")
        self.size = os.fstat(self._stream.fileno()).st_size

    def read(self, at: int, count: int) -> bytes:
        """So many bytes, fewer at the end."""
        # A corrupt length would have memory made for it that nobody has.
        return os.pread(self._stream.fileno(), max(min(count, self.size - at), 0), at)

    def close(self) -> None:
        """Close it."""
        self._stream.close()


class MemoryBytes:
    """Those in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Take them."""
        self._data, self.size = data, len(data)

    def read(self, at: int, count: int) -> bytes:
        """So many bytes, fewer at the end."""
        return bytes(self._data[at : at + count])
