"""What the readers of bag files have in common, whatever the format."""

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from perception_nodes.core.errors import InputError

Messages = Iterator[tuple[int, str, bytes]]
"""Log time in nanoseconds since the Unix epoch, topic, and the serialized message (CDR)."""
MAX_LINES = 20
"""Number of findings of a file or drive that are shown."""


class BagError(InputError):
    """A bag that cannot be replayed; one line that says why and what to do."""


class Segment(NamedTuple):
    """A part of a file that can be read on its own, with its messages in log-time order.

    Attributes:
        start_ns: log time of its first message, or an earlier time.
        size: bytes that it takes in memory while it is read.
        read: returns its messages.
    """

    start_ns: int
    size: int
    read: Callable[[], Messages]


class Findings:
    """What is wrong with a file or drive, a line each; a repeated finding counts once."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def note(self, line: str) -> None:
        """Add a finding."""
        self._lines[line] = None

    def lines(self) -> list[str]:
        """Lines with the first findings and the number of the others."""
        lines = list(self._lines)
        more = len(lines) - MAX_LINES
        return lines if more <= 0 else [*lines[:MAX_LINES], f"and {more} more findings"]


class MessageList:
    """Log times of messages, and where each is: its row in a table, or its position in a file."""

    def __init__(self) -> None:
        self.times_ns, self.places = array("Q"), array("Q")

    def add(self, log_time_ns: int, place: int) -> None:
        """Add a message."""
        self.times_ns.append(log_time_ns)
        self.places.append(place)

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Log time and place of each message, oldest first."""
        for number in sorted(range(len(self.places)), key=self.times_ns.__getitem__):
            yield self.times_ns[number], self.places[number]


class BagFile(ABC):
    """An open file of a bag; the base of its formats.

    Attributes:
        types: message type by topic.
        counts: readable messages by topic, as far as that is known without reading them.
        recorded: messages by topic according to the file's own index.
        indexed: whether that index covers all messages of the file.
        start_ns, end_ns: log times of the first and last message; 0 where there is none.
        damage: what is wrong with the file; reading may add to it.
    """

    def __init__(self) -> None:
        """Know nothing of the file yet."""
        self.types: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.recorded: Counter[str] = Counter()
        self.indexed = True
        self.start_ns = self.end_ns = 0
        self.damage = Findings()

    @abstractmethod
    def segments(self, topics: Collection[str]) -> list[Segment]:
        """The segments that hold messages of some topics.

        Reading them steps over damage and notes it, except in formats without recovery.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""
