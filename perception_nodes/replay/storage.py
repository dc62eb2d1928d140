"""The files of a bag: found, opened, and read topic by topic, whatever their format."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lz4.frame
import yaml
import zstandard
from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag2 import Reader as Rosbag2Reader
from rosbags.typesys import Stores, get_typestore

from perception_nodes.replay import salvage, salvage_ros1

FORMATS = (".mcap", ".db3")
COMPRESSED = (".zstd", ".zst", ".lz4")
METADATA = "metadata.yaml"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZ4_MAGIC = b"\x04\x22\x4d\x18"

Messages = Iterator[tuple[int, bytes]]
"""Log time in nanoseconds since the Unix epoch, and the serialized message (CDR)."""


class BagError(ValueError):
    """A bag that cannot be replayed; one line that says why and what to do."""


@dataclass(frozen=True)
class Topic:
    """What a bag holds of a topic.

    Attributes:
        name: of the topic.
        message_type: such as `sensor_msgs/msg/Image`.
        count: messages that can be read.
        lost: messages that the bag's metadata tells of and that cannot be read.
    """

    name: str
    message_type: str
    count: int
    lost: int = 0


class Storage(Protocol):
    """An open bag.

    Attributes:
        topics: by name.
        duration_ns: from the first message to the last.
        warnings: damage that opening it found.
        frame_files: of an image folder, the file of each frame.
    """

    topics: dict[str, Topic]
    duration_ns: int
    warnings: list[str]
    frame_files: tuple[Path, ...]

    def messages(self, topic: str) -> Messages:
        """The messages of a topic, oldest first."""
        ...

    def salvage(self, topic: str) -> Messages:
        """What can be read of them where `messages` raised: the same order, holes left out."""
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
    files = storage_files(path)
    if not files:
        looked_for = ", ".join((*FORMATS, ".bag"))
        raise BagError(
            f"{path} is not a bag, a video or a folder of images: "
            + (f"no {looked_for} file is in it" if path.is_dir() else f"it is no {looked_for} file")
        )
    try:
        if files[0].suffix == ".bag":
            return Ros1Storage(files[0])
        described = path.is_file() or (path / METADATA).is_file()
        if files[0].suffix in COMPRESSED and (path.is_file() or not described):
            return SalvagedStorage(files, "")
        if path.is_dir() and _metadata(path).get("compression_format") == "lz4":
            # The library knows zstd alone.
            return SalvagedStorage(files, "")
        if not described and len(files) > 1:
            return SalvagedStorage(files, f"no {METADATA}; `ros2 bag reindex` writes one")
        return Ros2Storage(path if described else files[0], files)
    except PermissionError as error:
        raise BagError(f"{path} cannot be read: {error.strerror}") from error
    # The libraries raise whatever their parsers trip over in a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return SalvagedStorage(files, reason)


def storage_files(path: Path) -> list[Path]:
    """The files that hold a bag's messages, in recording order."""
    if path.is_file():
        return [path] if _format(path) in (*FORMATS, ".bag") else []
    found = [file for file in path.iterdir() if file.is_file() and _format(file) in FORMATS]
    # Splits are numbered name_0, name_1, ...: shorter names first keeps _10 behind _9.
    return sorted(found, key=lambda file: (len(file.name), file.name))


class Ros2Storage:
    """A sound rosbag2 folder or file."""

    frame_files: tuple[Path, ...] = ()

    def __init__(self, path: Path, files: list[Path]) -> None:
        """Open it; raises what rosbags raises."""
        self._files = files
        self._reader = Rosbag2Reader(path)
        self._reader.open()
        self.warnings: list[str] = []
        self.duration_ns = max(self._reader.duration - 1, 0)
        self.topics = _topics(self._reader)

    def messages(self, topic: str) -> Messages:
        """The messages of a topic, oldest first; raises what rosbags raises."""
        connections = [c for c in self._reader.connections if c.topic == topic]
        for _, log_time_ns, data in self._reader.messages(connections):
            yield log_time_ns, decompressed(data)

    def salvage(self, topic: str) -> Messages:
        """What can be read of them past damage."""
        storage = SalvagedStorage(self._files, "")
        try:
            yield from storage.messages(topic)
        finally:
            storage.close()

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


class Ros1Storage:
    """A sound ROS 1 bag; its messages are converted to CDR."""

    frame_files: tuple[Path, ...] = ()

    def __init__(self, path: Path) -> None:
        """Open it; raises what rosbags raises."""
        self._path = path
        self._reader = Rosbag1Reader(path)
        self._reader.open()
        self._convert = get_typestore(Stores.ROS2_HUMBLE).ros1_to_cdr
        self.warnings: list[str] = []
        self.duration_ns = max(self._reader.duration - 1, 0)
        self.topics = _topics(self._reader)

    def messages(self, topic: str) -> Messages:
        """The messages of a topic, oldest first; raises what rosbags raises."""
        connections = [c for c in self._reader.connections if c.topic == topic]
        for connection, log_time_ns, data in self._reader.messages(connections):
            yield log_time_ns, bytes(self._convert(data, connection.msgtype))

    def salvage(self, topic: str) -> Messages:
        """What can be read of them past damage."""
        return salvage_ros1.read_ros1(self._path, topic)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


@dataclass
class SalvagedStorage:
    """Files without a usable index or metadata, read from front to back.

    Attributes:
        files: in recording order.
        reason: what was found wrong with them, empty where nothing was.
    """

    files: list[Path]
    reason: str
    topics: dict[str, Topic] = field(default_factory=dict)
    duration_ns: int = 0
    warnings: list[str] = field(default_factory=list)
    frame_files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Read the files through once, to know what is in them.

        Raises:
            BagError: not one message can be read.
        """
        self._stack = ExitStack()
        try:
            self._plain = [self._uncompressed(file) for file in self.files]
            surveys = [_survey(plain) for plain in self._plain]
        except BaseException:
            self.close()
            raise
        bag = self.files[0] if len(self.files) == 1 else self.files[0].parent
        recorded = _recorded_counts(self.files[0].parent)
        for file, survey in zip(self.files, surveys, strict=True):
            self.warnings += [f"{file}: {text}" for text in survey.damage]
            for name, message_type in survey.types.items():
                earlier = self.topics[name].count if name in self.topics else 0
                count = earlier + survey.counts[name]
                lost = max(recorded.get(name, 0) - count, 0)
                self.topics[name] = Topic(name, message_type, count, lost)
        total = sum(topic.count for topic in self.topics.values())
        if total == 0:
            self.close()
            reasons = "; ".join(self.warnings) or f"{bag}: {self.reason or 'it is empty'}"
            raise BagError(
                f"{reasons}: not one message of it can be read; copy the bag from the vehicle again"
            )
        if self.reason:
            text = f"{bag} is damaged ({self.reason}): {total} messages of it can be read"
            self.warnings.insert(0, text)
        starts = [survey.start_ns for survey in surveys if survey.counts]
        self.duration_ns = max(survey.end_ns for survey in surveys) - min(starts)

    def messages(self, topic: str) -> Messages:
        """The readable messages of a topic; never raises for damage."""
        for plain in self._plain:
            for log_time_ns, data in _reader_of(plain)(plain, topic):
                yield log_time_ns, decompressed(data)

    salvage = messages

    def close(self) -> None:
        """Remove what was unpacked."""
        self._stack.close()

    def _uncompressed(self, file: Path) -> Path:
        if file.suffix not in COMPRESSED:
            return file
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        plain = Path(folder, file.stem)
        with file.open("rb") as packed, plain.open("wb") as out:
            if file.suffix == ".lz4":
                unpacked: Any = lz4.frame.LZ4FrameFile(packed)
            else:
                unpacked = zstandard.ZstdDecompressor().stream_reader(
                    packed, read_across_frames=True
                )
            # What comes before the damage in a cut-off file is still good.
            with suppress(zstandard.ZstdError, RuntimeError, EOFError):
                while block := unpacked.read(1 << 20):
                    out.write(block)
        return plain


_SALVAGE: dict[str, tuple[Callable[[Path], salvage.Survey], Callable[[Path, str], Messages]]] = {
    ".mcap": (salvage.survey_mcap, salvage.read_mcap),
    ".db3": (salvage.survey_sqlite, salvage.read_sqlite),
    ".bag": (salvage_ros1.survey_ros1, salvage_ros1.read_ros1),
}
"""By the format of a file: what surveys it, what reads a topic of it."""


def decompressed(data: bytes) -> bytes:
    """A message that may have been compressed on its own: CDR never starts like such a frame.

    One that cannot be unpacked stays as it is: it is refused, and counted, as a broken message.
    """
    try:
        if data[:4] == ZSTD_MAGIC:
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if data[:4] == LZ4_MAGIC:
            return bytes(lz4.frame.decompress(data))
    except (zstandard.ZstdError, RuntimeError, EOFError):
        pass
    return data


def _format(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix


def _survey(file: Path) -> salvage.Survey:
    return _SALVAGE[file.suffix][0](file)


def _reader_of(file: Path) -> Callable[[Path, str], Messages]:
    return _SALVAGE[file.suffix][1]


def _metadata(folder: Path) -> dict[str, Any]:
    """What a bag's metadata says, empty where it cannot be read."""
    try:
        text = (folder / METADATA).read_text(encoding="utf-8")
        told = yaml.safe_load(text)["rosbag2_bagfile_information"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return {}
    return told if isinstance(told, dict) else {}


def _recorded_counts(folder: Path) -> dict[str, int]:
    """Messages by topic that a bag's metadata tells of, as far as it can be read."""
    try:
        return {
            str(topic["topic_metadata"]["name"]): int(topic["message_count"])
            for topic in _metadata(folder)["topics_with_message_count"]
        }
    except (ValueError, TypeError, KeyError):
        return {}


def _topics(reader: Any) -> dict[str, Topic]:
    """Topics of a rosbags reader; several connections may share one."""
    topics: dict[str, Topic] = {}
    for connection in reader.connections:
        count = connection.msgcount
        if connection.topic in topics:
            count += topics[connection.topic].count
        topics[connection.topic] = Topic(connection.topic, connection.msgtype, count)
    return topics
