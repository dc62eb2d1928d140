"""A bag of one or several files: mcap, sqlite3 or ROS 1, also compressed."""

import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.drives import decompression
from perception_nodes.drives.bag_file import BagError, BagFile, Findings, Messages
from perception_nodes.drives.mcap_file import McapFile
from perception_nodes.drives.message_order import in_log_time_order
from perception_nodes.drives.ros1_file import Ros1File
from perception_nodes.drives.sqlite_file import JOURNALS, SqliteFile
from perception_nodes.drives.storage import Storage, Topic
from perception_nodes.system.object_path import ObjectPath

READERS: dict[str, Callable[[Path], BagFile]] = {
    ".mcap": McapFile,
    ".db3": SqliteFile,
    ".bag": Ros1File,
}
"""Reader of a file by its suffix."""
ROS2_SUFFIXES = (".mcap", ".db3")
"""Suffixes of the files in a bag folder; a ROS 1 bag is always a single file."""
METADATA = "metadata.yaml"


def storage_files(path: Path) -> list[Path]:
    """The files that hold a bag's messages, in recording order."""
    if path.is_file():
        return [path] if _format(path) in READERS else []
    if not path.is_dir():
        return []
    found = [file for file in path.iterdir() if _format(file) in ROS2_SUFFIXES and file.is_file()]
    # Splits are numbered name_0, name_1, ...: shorter names first keeps _10 behind _9.
    return sorted(found, key=lambda file: (len(file.name), file.name))


class BagStorage(Storage):
    """A rosbag2 folder, or a file of one, or a ROS 1 bag."""

    def __init__(self, path: Path) -> None:
        """Open its files.

        Raises:
            BagError: it is not a bag, or not one message can be read.
            OSError: a file cannot be read at all.
        """
        super().__init__(path)
        self._truncated = False
        self._files: dict[Path, BagFile] = {}
        self._stack = ExitStack()
        if not (files := storage_files(path)):
            missing = (
                f"no {' or '.join(ROS2_SUFFIXES)} file is in it"
                if path.is_dir()
                else f"its suffix is none of {', '.join(READERS)}"
            )
            raise BagError(f"{path} is not a bag, a video or a folder of images: {missing}")
        metadata = _metadata(path, self._notes) if path.is_dir() else {}
        if path.is_dir() and not metadata and len(files) > 1:
            self._notes.note(f"{path}: no {METADATA}; `ros2 bag reindex` writes one")
        try:
            for file in self._named(files, metadata):
                plain = self._decompressed(file)
                reader = READERS[plain.suffix](plain)
                self._stack.callback(reader.close)
                self._files[file] = reader
            self.topics = self._topics(metadata)
        except BaseException:
            self.close()
            raise
        spans_ns = [
            (f.start_ns, f.end_ns) for f in self._files.values() if f.start_ns or f.end_ns
        ] or [(0, 0)]
        self.duration_ns = max(end for _, end in spans_ns) - min(start for start, _ in spans_ns)

    @property
    def warnings(self) -> list[str]:
        """Damage and anything else a user should know, one line each."""
        damage = [f"{file}: {one}" for file, f in self._files.items() for one in f.damage.lines()]
        return [*self._notes.lines(), *damage]

    @property
    def damaged(self) -> bool:
        """Whether some of what was read so far is damaged."""
        return self._truncated or any(file.damage.lines() for file in self._files.values())

    def messages(self, topics: Collection[str]) -> Messages:
        """The messages of some topics, oldest first."""
        segments = [one for file in self._files.values() for one in file.segments(topics)]
        for log_time_ns, topic, data in in_log_time_order(segments, self._note_disorder):
            yield log_time_ns, topic, decompression.decompressed_message(data)

    def close(self) -> None:
        """Close the files and remove decompressed copies."""
        self._stack.close()

    def _note_disorder(self) -> None:
        self._notes.note(
            f"{self._path}: its log times are so far out of order that they cannot all be put in "
            "order in memory; some frames come late"
        )

    def _named(self, files: list[Path], metadata: dict[str, Any]) -> list[Path]:
        """The files that the metadata names, in its order; without metadata, all files."""
        names = metadata.get("relative_file_paths")
        if not isinstance(names, list):
            return self._once(files)
        by_name = {file.name: file for file in files}
        # With compression by file, some versions of rosbag2 name the file without the suffix.
        by_name |= {file.stem: file for file in files if file.suffix in decompression.COMPRESSED}
        wanted = [Path(str(name)).name for name in names]
        named = [by_name[name] for name in dict.fromkeys(wanted) if name in by_name]
        if not named:
            return self._once(files)
        for name in wanted:
            if name not in by_name:
                self._notes.note(f"{self._path}: {name} is not there")
        for file in files:
            if file not in named:
                self._notes.note(f"{file}: {METADATA} does not name it; it is not read")
        return list(dict.fromkeys(named))

    def _once(self, files: list[Path]) -> list[Path]:
        """Leave out a compressed file that rosbag2 was still writing when it was ended."""
        names = {file.name for file in files}
        found = []
        for file in files:
            if file.suffix in decompression.COMPRESSED and file.stem in names:
                self._notes.note(f"{file}: {file.stem} lies beside it, and is read instead")
            else:
                found.append(file)
        return found

    def _decompressed(self, file: Path) -> Path:
        if isinstance(file, ObjectPath) and file.suffix != ".mcap":
            file = file.fetched(JOURNALS if file.suffix == ".db3" else ())
        if file.suffix not in decompression.COMPRESSED:
            return file
        plain = Path(self._stack.enter_context(tempfile.TemporaryDirectory()), file.stem)
        try:
            problem = decompression.decompress_file(file, plain)
        except decompression.DecompressionError as error:
            why = f"{error}; decompress it yourself if it is one of yours"
            raise BagError(f"{file}: {why}") from error
        if problem:
            self._notes.note(f"{file}: {problem}")
            self._truncated = True
        return plain

    def _topics(self, metadata: dict[str, Any]) -> dict[str, Topic]:
        """The topics, with how many of their messages are lost by the metadata or an index.

        Raises:
            BagError: not one message can be read.
        """
        recorded = _recorded(metadata)
        types = {name: message_type for name, (message_type, _) in recorded.items()}
        for file in self._files.values():
            # The metadata may name the type of a topic whose schema is not in the file.
            types |= {
                name: type_ for name, type_ in file.types.items() if type_ or name not in types
            }
        topics = {}
        for name, message_type in types.items():
            count = sum(file.counts[name] for file in self._files.values())
            counts = ((file.recorded[name], file.counts[name]) for file in self._files.values())
            indexed = sum(map(max, counts))
            lost = max(indexed, recorded.get(name, ("", 0))[1]) - count
            counted = name in recorded or all(file.indexed for file in self._files.values())
            topics[name] = Topic(name, message_type, count, lost, counted)
        if not any(topic.count for topic in topics.values()):
            reasons = "; ".join(self.warnings) or f"{self._path}: it is empty"
            remedy = "copy the bag from the vehicle again"
            raise BagError(f"{reasons}: not one message of it can be read; {remedy}")
        return topics


def _format(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix in decompression.COMPRESSED else file.suffix


def _metadata(folder: Path, notes: Findings) -> dict[str, Any]:
    """A bag's metadata; empty if there is none, or with a note if it cannot be read."""
    file = folder / METADATA
    if not file.exists():
        return {}
    try:
        metadata = parse_yaml(file.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        if isinstance(metadata, dict):
            return metadata
        reason = "it has no rosbag2_bagfile_information"
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
    notes.note(f"{file} is damaged ({reason}); `ros2 bag reindex` writes it anew")
    return {}


def _recorded(metadata: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Message type and count of each topic in a bag's metadata, without malformed entries."""
    found = {}
    listed = metadata.get("topics_with_message_count")
    for topic in listed if isinstance(listed, list) else ():
        try:
            described = topic["topic_metadata"]
            found[str(described["name"])] = (str(described["type"]), int(topic["message_count"]))
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    return found
