"""What an opened drive offers, whatever it is stored in."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from perception_nodes.drives.bag_file import Findings, Messages


@dataclass(frozen=True)
class Topic:
    """What a drive holds of a topic.

    Attributes:
        name: its name.
        message_type: such as `sensor_msgs/msg/Image`.
        count: messages that are there; reading them may show that some are damaged.
        lost: number of further messages that the bag's index or metadata names.
        counted: whether the index or the metadata says how many were recorded.
        estimated: whether `count` is an estimate, from which no losses follow.
    """

    name: str
    message_type: str
    count: int
    lost: int = 0
    counted: bool = True
    estimated: bool = False


class Storage(ABC):
    """An opened drive; the base of its kinds.

    Attributes:
        topics: by name.
        duration_ns: from the first message to the last.
        frame_files: the file of each frame, for an image folder.
    """

    frame_files: tuple[Path, ...] = ()

    def __init__(self, path: Path) -> None:
        """Take the path of the drive."""
        self._path = path
        self._notes = Findings()
        self.topics: dict[str, Topic] = {}
        self.duration_ns = 0

    @property
    def warnings(self) -> list[str]:
        """Damage and anything else a user should know, one line each; reading may add to it."""
        return self._notes.lines()

    @property
    def damaged(self) -> bool:
        """Whether some of what was read so far is damaged."""
        return False

    @abstractmethod
    def messages(self, topics: Collection[str]) -> Messages:
        """The messages of some topics, oldest first; damaged ones are left out."""

    def close(self) -> None:  # noqa: B027 (not every kind holds files)
        """Close the files, if this kind holds any."""
