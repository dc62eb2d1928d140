"""ROS 1 bags, read by rosbags. There is no recovery: a damaged bag is refused."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader
from rosbags.typesys import Stores, get_typestore

from perception_nodes.drives.bag_file import BagError, BagFile, Messages, Segment


class Ros1File(BagFile):
    """A ROS 1 bag, its messages converted to CDR; see `BagFile`."""

    def __init__(self, file: Path) -> None:
        """Read its index.

        Raises:
            BagError: it is damaged, or its recording was not closed.
            PermissionError: it may not be read.
        """
        super().__init__()
        self._file = file
        self._convert = get_typestore(Stores.ROS2_HUMBLE).ros1_to_cdr
        self._reader = Reader(file)
        try:
            self._reader.open()
        except PermissionError:
            raise
        # The library's parser may raise any error.
        except Exception as error:
            raise self._damaged(error) from error
        connections = self._reader.connections
        self.types = {connection.topic: connection.msgtype for connection in connections}
        for connection in connections:
            self.counts[connection.topic] += connection.msgcount
        self.recorded = self.counts
        if self.counts.total():
            # The library's end time is one past the last message.
            self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time - 1

    def segments(self, topics: Collection[str]) -> list[Segment]:
        """The bag as one segment, if it has messages of some of the topics."""
        wanted = [one for one in self._reader.connections if one.topic in topics]
        # The library would take an empty list of connections for all of them.
        return [Segment(self.start_ns, 0, partial(self._messages, wanted))] if wanted else []

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def _messages(self, wanted: Sequence[Connection]) -> Messages:
        """Messages by log time; one that cannot be converted becomes empty and is refused later.

        Raises:
            BagError: a chunk is damaged.
        """
        try:
            for connection, log_time_ns, data in self._reader.messages(wanted):
                yield log_time_ns, connection.topic, self._converted(data, connection.msgtype)
        except Exception as error:
            raise self._damaged(error) from error

    def _converted(self, data: bytes, message_type: str) -> bytes:
        try:
            return bytes(self._convert(data, message_type))
        except Exception:
            return b""

    def _damaged(self, error: Exception) -> BagError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return BagError(
            f"{self._file} is damaged, or its recording was not closed ({reason}); run `rosbag "
            f"reindex {self._file.name}` on a ROS 1 machine, or copy it from the vehicle again"
        )
