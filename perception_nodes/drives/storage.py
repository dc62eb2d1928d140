"""The files of a bag: found, opened, and read topic by topic, whatever their format."""

import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from perception_nodes.drives.decompression import COMPRESSED, unpack_file, unpacked_message
from perception_nodes.drives.mcap_file import McapFile
from perception_nodes.drives.message_order import BagFile, Messages, in_log_time_order
from perception_nodes.drives.ros1_file import Ros1File
from perception_nodes.drives.sqlite_file import SqliteFile

__all__ = ["BagError", "BagStorage", "Messages", "Storage", "Topic", "open_storage"]

READERS: dict[str, Callable[[Path], BagFile]] = {
    ".mcap": McapFile,
    ".db3": SqliteFile,
    ".bag": Ros1File,
}
"""By the format of a file."""
METADATA = "metadata.yaml"


class BagError(ValueError):
    """A bag that cannot be replayed; one line that says why and what to do."""


@dataclass(frozen=True)
class Topic:
    """What a bag holds of a topic.

    Attributes:
        name: of the topic.
        message_type: such as `sensor_msgs/msg/Image`.
        count: messages that are there; reading them may show that some are damaged.
        lost: messages beside them that the bag's index or its metadata tells of.
        counted: whether one of these does tell.
    """

    name: str
    message_type: str
    count: int
    lost: int = 0
    counted: bool = True


class Storage(Protocol):
    """An open bag.

    Attributes:
        topics: by name.
        duration_ns: from the first message to the last.
        frame_files: of an image folder, the file of each frame.
    """

    topics: dict[str, Topic]
    duration_ns: int
    frame_files: tuple[Path, ...]

    @property
    def warnings(self) -> list[str]:
        """Damage, and what else a user should know, a line each; reading may add to it."""
        ...

    @property
    def damaged(self) -> bool:
        """Whether something of it cannot be read, as far as it was."""
        ...

    def messages(self, topics: Collection[str]) -> Messages:
        """The messages of some topics, oldest first; those that damage has taken are left out."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def open_storage(path: Path) -> Storage:
    """Open a bag, a damaged one as far as it can be read.

    Raises:
        BagError: it is no bag, or nothing of it can be read.
    """
    if not path.exists():
        raise BagError(f"{path} does not exist")
    try:
        return BagStorage(path)
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror or error}") from error


def storage_files(path: Path) -> list[Path]:
    """The files that hold a bag's messages, in recording order."""
    if path.is_file():
        return [path] if _format(path) in READERS else []
    if not path.is_dir():
        return []
    formats = (".mcap", ".db3")
    found = [file for file in path.iterdir() if file.is_file() and _format(file) in formats]
    # Splits are numbered name_0, name_1, ...: shorter names first keeps _10 behind _9.
    return sorted(found, key=lambda file: (len(file.name), file.name))


class BagStorage:
    """A rosbag2 folder, or a file of one, or a ROS 1 bag."""

    frame_files: tuple[Path, ...] = ()

    def __init__(self, path: Path) -> None:
        """Open its files.

        Raises:
            BagError: it is no bag, or not one message can be read.
            OSError: a file cannot be read at all.
        """
        self._path = path
        self._notes: list[str] = []
        self._cut = False
        self._files: dict[Path, BagFile] = {}
        self._stack = ExitStack()
        files = storage_files(path)
        if not files:
            looked_for = ", ".join(READERS)
            raise BagError(
                f"{path} is not a bag, a video or a folder of images: "
                + (f"no {looked_for} file is in it" if path.is_dir() else "its name ends otherwise")
            )
        told = _metadata(path, self._notes) if path.is_dir() else {}
        if path.is_dir() and not told and len(files) > 1:
            self._notes.append(f"{path}: no {METADATA}; `ros2 bag reindex` writes one")
        try:
            for file in self._named(files, told):
                plain = self._unpacked(file)
                reader = READERS[plain.suffix](plain)
                self._stack.callback(reader.close)
                self._files[file] = reader
            self.topics = self._topics(told)
        except BaseException:
            self.close()
            raise
        spans_ns = [
            (f.start_ns, f.end_ns) for f in self._files.values() if f.start_ns or f.end_ns
        ] or [(0, 0)]
        self.duration_ns = max(end for _, end in spans_ns) - min(start for start, _ in spans_ns)

    @property
    def warnings(self) -> list[str]:
        """Damage, and what else a user should know."""
        damage = [f"{file}: {one}" for file, f in self._files.items() for one in f.damage.lines()]
        return [*self._notes, *damage]

    @property
    def damaged(self) -> bool:
        """Whether something of it cannot be read, as far as it was."""
        return self._cut or any(file.damage.lines() for file in self._files.values())

    def messages(self, topics: Collection[str]) -> Messages:
        """The messages of some topics, oldest first."""
        parts = [part for file in self._files.values() for part in file.parts(topics)]
        for log_time_ns, topic, data in in_log_time_order(parts, self._disorder):
            yield log_time_ns, topic, unpacked_message(data)

    def close(self) -> None:
        """Close the files and remove what was unpacked."""
        self._stack.close()

    def _disorder(self) -> None:
        note = (
            f"{self._path}: its log times are so far out of order that they cannot all be put in "
            "order in memory; some frames come late"
        )
        if note not in self._notes:
            self._notes.append(note)

    def _named(self, files: list[Path], told: dict[str, Any]) -> list[Path]:
        """The files that the metadata names, in its order; without it all there are."""
        names = told.get("relative_file_paths")
        if not isinstance(names, list):
            return files
        by_name = {file.name: file for file in files}
        # With compression by file the name is with or without the suffix, by the version.
        by_name |= {file.stem: file for file in files if file.suffix in COMPRESSED}
        wanted = [Path(str(name)).name for name in names]
        named = [by_name[name] for name in dict.fromkeys(wanted) if name in by_name]
        if not named:
            return files
        for name in wanted:
            if name not in by_name:
                self._notes.append(f"{self._path}: {name} is not there")
        for file in files:
            if file not in named:
                self._notes.append(f"{file}: {METADATA} does not name it; it is not read")
        return list(dict.fromkeys(named))

    def _unpacked(self, file: Path) -> Path:
        if file.suffix not in COMPRESSED:
            return file
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        plain = Path(folder, file.stem)
        if problem := unpack_file(file, plain):
            self._notes.append(f"{file}: {problem}")
            self._cut = True
        return plain

    def _topics(self, told: dict[str, Any]) -> dict[str, Topic]:
        """What there is of each topic, beside what the metadata and the files' index tell.

        Raises:
            BagError: not one message can be read.
        """
        recorded = _recorded(told)
        types = {name: message_type for name, (message_type, _) in recorded.items()}
        for file in self._files.values():
            types |= file.types
        topics = {}
        for name, message_type in types.items():
            count = sum(file.counts[name] for file in self._files.values())
            indexed = sum(
                max(file.recorded[name], file.counts[name]) for file in self._files.values()
            )
            lost = max(indexed, recorded.get(name, ("", 0))[1]) - count
            counted = name in recorded or all(file.indexed for file in self._files.values())
            topics[name] = Topic(name, message_type, count, lost, counted)
        if not any(topic.count for topic in topics.values()):
            reasons = "; ".join(self.warnings) or f"{self._path}: it is empty"
            remedy = "copy the bag from the vehicle again"
            raise BagError(f"{reasons}: not one message of it can be read; {remedy}")
        return topics


def _format(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix


def _metadata(folder: Path, notes: list[str]) -> dict[str, Any]:
    """What a bag's metadata says; empty, and noted, where it cannot be read."""
    file = folder / METADATA
    if not file.exists():
        return {}
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        if isinstance(told, dict):
            return told
        reason = "it has no rosbag2_bagfile_information"
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
    notes.append(f"{file} is damaged ({reason}); `ros2 bag reindex` writes it anew")
    return {}


def _recorded(told: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Types and numbers of messages by topic that a bag's metadata tells of, as far as it does."""
    found = {}
    listed = told.get("topics_with_message_count")
    for topic in listed if isinstance(listed, list) else ():
        try:
            described = topic["topic_metadata"]
            found[str(described["name"])] = (str(described["type"]), int(topic["message_count"]))
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    return found
