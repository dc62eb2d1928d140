"""Recordings of a run's outputs: written as mcap files, and read back."""

import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray
from rosbags.serde import SerdeError

from perception_nodes.core.errors import InputError
from perception_nodes.core.frame import FrameRecord
from perception_nodes.core.health import HealthMode
from perception_nodes.drives import schemas
from perception_nodes.transport.cdr_writer import FRAME_REPORT_FIELDS

DETECTIONS_TOPIC = "/perception/detections"
FRAME_REPORT_TOPIC = "/perception/frame_report"
HEALTH_TOPIC = "/perception/health"
TRACKS_TOPIC = "/perception/tracks"
SAFE_STOP_TOPIC = "/perception/safe_stop"
DIAGNOSTICS_TOPIC = "/diagnostics"
UNREADABLE = (SerdeError, ValueError, LookupError, OverflowError, struct.error)
"""Errors that rosbags raises for a damaged message."""


class RecordingError(InputError):
    """A recording that cannot be read; the text says why."""


class Recorder(AbstractContextManager["Recorder"]):
    """Writes an mcap file of the `ros2` profile; it appears under its name when closed."""

    def __init__(self, path: str | Path) -> None:
        """Create the file under a temporary name beside `path`, and its folder if needed."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._path.with_name(f".{self._path.name}.part")
        self._file = self._partial.open("wb")
        # Pictures are already compressed; all other messages are small.
        self._writer = Writer(self._file, compression=CompressionType.NONE)
        self._writer.start(profile="ros2", library="perception_nodes")
        self._channels: dict[tuple[str, str, str], int] = {}
        self._schemas: dict[tuple[str, str], int] = {}

    def write(
        self, topic: str, type_name: str, log_time_ns: int, cdr_bytes: bytes, definition: str = ""
    ) -> None:
        """Append a message.

        Args:
            topic: its topic.
            type_name: its type, such as `vision_msgs/msg/Detection2DArray`.
            log_time_ns: nanoseconds since the Unix epoch.
            cdr_bytes: the serialized message.
            definition: the text that it was serialized by; by default the shipped one.
        """
        key = (topic, type_name, definition)
        if key not in self._channels:
            schema = self._schema(type_name, definition)
            self._channels[key] = self._writer.register_channel(topic, "cdr", schema)
        self._writer.add_message(self._channels[key], log_time_ns, cdr_bytes, log_time_ns)

    def close(self) -> None:
        """Write the index and rename the file; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self._writer.finish()
            self._file.close()
            self._partial.replace(self._path)
        finally:  # of a full disk nothing is to be left
            self._partial.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file."""
        self._partial.unlink(missing_ok=True)
        with suppress(OSError):  # what is still to be written has no room
            self._file.close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file; after an error, discard it."""
        if kind is None:
            self.close()
        else:
            self.discard()

    def _schema(self, type_name: str, definition: str) -> int:
        key = (type_name, definition)
        if key not in self._schemas:
            text = (definition or schemas.schema_text(type_name)).encode()
            self._schemas[key] = self._writer.register_schema(type_name, "ros2msg", text)
        return self._schemas[key]


class Recorded(NamedTuple):
    """A message of a recording as it was written, and the text of its definition then."""

    topic: str
    type_name: str
    log_time_ns: int
    data: bytes
    definition: str


_TYPES = {"string": str, "bool": bool}
_HEADER = [("log_time_ns", int), ("stamp_ns", int), ("frame_id", str)]
_FIELDS = [(name, _TYPES.get(type_name, int)) for type_name, name in FRAME_REPORT_FIELDS]
_LOST = [("lost_after_ns", int), ("lost_before_ns", int)]


class Look(NamedTuple):
    """A second look at a frame, as in `Look.msg`: source pixels and milliseconds."""

    x_offset: int
    y_offset: int
    width: int
    height: int
    cost_ms: float

    @classmethod
    def all_of(cls, frame: Any) -> "tuple[Look, ...]":
        """The looks of a record or message; none by an older definition."""
        found = getattr(frame, "looks", ())
        return tuple(cls(*(getattr(look, name) for name in cls._fields)) for look in found)


_LOOKS = ("looks", tuple[Look, ...])
_ALL = [*_HEADER, *_FIELDS, *_LOST, _LOOKS]
_ReportFields: Any = make_dataclass("_ReportFields", _ALL, frozen=True, slots=True)


class ReportedFrame(_ReportFields):  # type: ignore[misc]
    """A `perception_interfaces/FrameReport` of a recording, with its log time.

    The fields are those of the message's definition; its header is `stamp_ns` and `frame_id`. What
    an older definition did not have is 0 or empty.
    """

    __slots__ = ()

    @classmethod
    def of_record(cls, record: FrameRecord, log_time_ns: int) -> "ReportedFrame":
        """The report that a closed record becomes."""
        found = [getattr(record, name) for name, _ in (*_HEADER[1:], *_FIELDS, *_LOST)]
        values = (one.decode(errors="replace") if isinstance(one, bytes) else one for one in found)
        return cls(log_time_ns, *values, Look.all_of(record))

    @classmethod
    def of_message(cls, message: Any, log_time_ns: int) -> "ReportedFrame":
        """The report that a deserialized message holds."""
        header = message.header
        values = (getattr(message, name, kind()) for name, kind in _FIELDS)
        lost = (getattr(message, f"lost_{side}", None) for side in ("after", "before"))
        around = (0 if stamp is None else nanoseconds(stamp) for stamp in lost)
        stamp_ns = nanoseconds(header.stamp)
        return cls(log_time_ns, stamp_ns, header.frame_id, *values, *around, Look.all_of(message))


class DetectedObject(NamedTuple):
    """An object of a frame: class, score, and x1 y1 x2 y2 in source pixels."""

    label: str
    score: float
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        """Class, score, corner and size as text."""
        x1, y1, x2, y2 = self.box
        return f"{self.label} {self.score:.2f} at {x1:.0f},{y1:.0f} ({x2 - x1:.0f}x{y2 - y1:.0f})"


@dataclass(frozen=True, slots=True)
class FrameDetections:
    """Objects of a frame, in the order in which they were published.

    Attributes:
        labels: class names.
        scores: float32 [n].
        boxes: float32 [n, 4], x1 y1 x2 y2 in source pixels.
    """

    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def objects(self, scale: float = 1.0) -> list[DetectedObject]:
        """The objects one by one; their boxes in pixels of a picture of this scale."""
        rows = zip(self.labels, self.scores.tolist(), (self.boxes * scale).tolist(), strict=True)
        return [DetectedObject(label, score, tuple(box)) for label, score, box in rows]

    @classmethod
    def none(cls) -> "FrameDetections":
        """No objects."""
        return cls((), np.empty(0, np.float32), np.empty((0, 4), np.float32))


class HealthChange(NamedTuple):
    """A change of the health mode; the first entry of a recording is its first known mode."""

    log_time_ns: int
    mode: HealthMode
    cause: str


@dataclass
class Recording:
    """The outputs of a run, without the pictures.

    Attributes:
        reports: one for each frame, in the order of the recording.
        detections: by the frame's stamp in nanoseconds, or by its number in the drive.
        by_number: whether the key is the number. A replay knows the number, which is unique even if
            stamps and log times are not.
        health: changes of the health mode, in the order of the recording.
    """

    reports: list[ReportedFrame] = field(default_factory=list)
    detections: dict[int, FrameDetections] = field(default_factory=dict)
    by_number: bool = False
    health: list[HealthChange] = field(default_factory=list)

    def found(self, report: ReportedFrame) -> FrameDetections | None:
        """The objects of a frame, None if no detections were published for it."""
        return self.detections.get(report.sequence if self.by_number else report.stamp_ns)


def read_messages(path: str | Path) -> Iterator[Recorded]:
    """The messages of a recording in log-time order.

    Raises:
        RecordingError: it does not exist, or is not a complete and undamaged mcap file.
    """
    try:
        with Path(path).open("rb") as stream:
            reader = make_reader(stream, validate_crcs=True)
            count = 0
            for schema, channel, message in reader.iter_messages():
                count += 1
                if schema is not None:
                    text = schema.data.decode(errors="replace")
                    yield Recorded(channel.topic, schema.name, message.log_time, message.data, text)
            summary = reader.get_summary()
    except Exception as error:  # mcap and its decompressors raise many kinds of errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecordingError(f"recording {path} cannot be read: {reason}") from error
    told = summary and summary.statistics
    if told and count != told.message_count:
        lacking = f"of {told.message_count} messages {count} are there"
        raise RecordingError(f"recording {path} is damaged: {lacking}")


def read_recording(path: str | Path, by_number: bool = False) -> Recording:
    """Read the outputs of a run.

    Args:
        path: the recording.
        by_number: see `Recording`; only for the recording of a replay.

    Raises:
        RecordingError: see `read_messages`; or a message is not as its definition says.
    """
    recording = Recording(by_number=by_number)
    unreported: dict[int, FrameDetections] = {}
    for recorded in read_messages(path):
        type_name, log_time_ns = recorded.type_name, recorded.log_time_ns
        if type_name not in (schemas.FRAME_REPORT, schemas.DETECTIONS, schemas.HEALTH):
            continue
        message = deserialized(path, recorded)
        if type_name == schemas.FRAME_REPORT:
            report = ReportedFrame.of_message(message, log_time_ns)
            recording.reports.append(report)
            # A replay writes a frame's detections before its report, with the same log time.
            if by_number and (found := unreported.pop(log_time_ns, None)) is not None:
                recording.detections[report.sequence] = found
        elif type_name == schemas.DETECTIONS:
            found = _frame_detections(message)
            if by_number:
                unreported[log_time_ns] = found
            else:
                recording.detections[nanoseconds(message.header.stamp)] = found
        elif not recording.health or recording.health[-1].mode != message.mode:
            change = HealthChange(log_time_ns, HealthMode(message.mode), message.cause)
            recording.health.append(change)
    return recording


def detections_of(data: bytes) -> tuple[int, FrameDetections]:
    """Stamp in nanoseconds and objects of a serialized `vision_msgs/msg/Detection2DArray`.

    Raises:
        RecordingError: it has another definition, or an object has no class.
    """
    try:
        message: Any = schemas.typestore().deserialize_cdr(data, schemas.DETECTIONS)
        return nanoseconds(message.header.stamp), _frame_detections(message)
    except UNREADABLE as error:
        raise RecordingError(f"{schemas.DETECTIONS} cannot be read: {error}") from error


def deserialized(path: str | Path, recorded: Recorded) -> Any:
    """A message of a recording, by the definition that the recording holds.

    Raises:
        RecordingError: it does not have that definition.
    """
    type_name = recorded.type_name
    try:
        store = schemas.typestore_of(type_name, recorded.definition)
        return store.deserialize_cdr(recorded.data, type_name)
    except (schemas.DefinitionError, *UNREADABLE) as error:
        lie = f"a message of {type_name} is not as its definition in the recording says ({error})"
        raise RecordingError(f"recording {path} is damaged: {lie}; record the run again") from error


def _frame_detections(message: Any) -> FrameDetections:
    best = [detection.results[0].hypothesis for detection in message.detections]
    return FrameDetections(
        tuple(hypothesis.class_id for hypothesis in best),
        np.array([hypothesis.score for hypothesis in best], np.float32),
        corners_of(message),
    )


def corners_of(message: Any) -> NDArray[np.float32]:
    """The boxes of a `vision_msgs/msg/Detection2DArray`, [n, 4], x1 y1 x2 y2 in source pixels.

    Centre and size are doubles, from which the exact corners can be restored.
    """
    boxes = [
        (b.center.position.x, b.center.position.y, b.size_x, b.size_y)
        for b in (detection.bbox for detection in message.detections)
    ]
    centres, sizes = np.hsplit(np.array(boxes, np.float64).reshape(-1, 4), 2)
    return np.hstack([centres - sizes / 2, centres + sizes / 2]).astype(np.float32)


def nanoseconds(stamp: Any) -> int:
    """A message's time in nanoseconds since the Unix epoch."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
