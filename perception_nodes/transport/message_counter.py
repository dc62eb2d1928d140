"""Counts the messages of a topic in shared memory, whichever process sends them."""

import ctypes

from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped


class _Count(ctypes.Structure):
    _fields_ = [("next", ctypes.c_uint32)]


class MessageCounter(Mapped[_Count]):
    """Goes on counting where our predecessor in this role stopped; one process counts at a time."""

    def __init__(self, topic: str) -> None:
        """Open the count of a topic, given by its full name."""
        name = topic.strip("/").replace("/", ".")
        super().__init__(SHM_FOLDER / f"{own_prefix()}{name}.count", _Count)

    def take(self) -> int:
        """The next number, from 0 to 2^32 - 1 and from 0 again.

        Take it before sending the message: if we die in between, the message counts as lost.
        """
        number = int(self.value.next)
        self.value.next = number + 1
        return number
