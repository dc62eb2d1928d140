"""A recorded drive: its camera frames in the order they were logged, read with no ROS."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from perception_nodes.replay.storage import BagError, Storage, open_storage

__all__ = ["BagError", "Drive", "RawFrame", "open_drive"]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A camera message as it was recorded.

    Attributes:
        index: position among the frames of the drive, from 0.
        log_time_ns: when it was recorded, nanoseconds since the Unix epoch.
        data: the serialized message, CDR.
    """

    index: int
    log_time_ns: int
    data: bytes


@dataclass
class Drive:
    """The frames of one camera in a bag. Close it, or use it as a context manager.

    Attributes:
        path: the bag.
        topic: of the camera's images.
        message_type: `sensor_msgs/msg/Image` or `sensor_msgs/msg/CompressedImage`.
        frame_count: frames that the bag says it holds; where reading it finds damage, fewer come.
        duration_ns: from the first to the last message of the bag.
        warnings: what a user should know, a line each: damage and what it cost, the choice of a
            topic. Reading adds to it.
    """

    path: Path
    topic: str
    message_type: str
    frame_count: int
    duration_ns: int
    warnings: list[str] = field(default_factory=list)
    _storage: Storage = field(kw_only=True, repr=False)

    def frames(self) -> Iterator[RawFrame]:
        """Read the frames, oldest first; may be called again.

        Only a chunk of the bag is in memory at a time. Where the bag turns out to be damaged the
        readable rest is delivered, and the loss is counted in `warnings`.
        """
        count, last_ns = 0, -1
        try:
            for log_time_ns, data in self._storage.messages(self.topic):
                yield RawFrame(count, log_time_ns, data)
                count, last_ns = count + 1, log_time_ns
        # The libraries raise whatever their parsers trip over in a damaged file.
        except Exception as error:
            reason = str(error) or type(error).__name__
            for log_time_ns, data in self._storage.salvage(self.topic):
                if log_time_ns > last_ns:
                    yield RawFrame(count, log_time_ns, data)
                    count, last_ns = count + 1, log_time_ns
            if count == 0:
                raise BagError(
                    f"{self.path}: no frame of {self.topic} can be read: {reason}"
                ) from error
            lost = self.frame_count - count
            self._warn(f"{self.path}: {reason}: {lost} of {self.frame_count} frames are lost")

    def camera_info(self) -> bytes | None:
        """The first calibration recorded beside the images, serialized `CameraInfo`, or None."""
        topic = camera_info_topic(self.topic)
        found = self._storage.topics.get(topic)
        if found is None or found.message_type != CAMERA_INFO:
            return None
        try:
            return next((data for _, data in self._storage.messages(topic)), None)
        except Exception as error:
            self._warn(f"{self.path}: {topic} cannot be read: {error}; frames are not rectified")
            return None

    def close(self) -> None:
        """Close the files."""
        self._storage.close()

    def __enter__(self) -> "Drive":
        """Nothing to do: `open_drive` opened it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def open_drive(path: str | Path, topic: str = "") -> Drive:
    """Open a recorded drive.

    Args:
        path: a rosbag2 folder (mcap or sqlite3), a bare `.mcap` or `.db3` file, either of them
            also as `.zstd`, or a ROS 1 `.bag`.
        topic: of the images; empty for the image topic with the most frames.

    Raises:
        BagError: there is no frame to be had; one line that says why and what to do.
    """
    storage = open_storage(Path(path))
    try:
        return _drive(Path(path), topic, storage)
    except BaseException:
        storage.close()
        raise


def camera_info_topic(image_topic: str) -> str:
    """Where a camera publishes its calibration: beside its raw image topic."""
    raw = image_topic.removesuffix("/compressed")
    return f"{raw.rpartition('/')[0]}/camera_info"


def _drive(path: Path, topic: str, storage: Storage) -> Drive:
    cameras = {t.name: t for t in storage.topics.values() if t.message_type in IMAGE_TYPES}
    warnings = list(storage.warnings)
    if not cameras:
        raise BagError(
            f"{path} has no image topic ({' or '.join(IMAGE_TYPES)}); {_listing(storage)}"
        )
    if topic and topic not in cameras:
        found = storage.topics.get(topic)
        problem = f"is a {found.message_type}, not an image" if found else "is not in it"
        raise BagError(f"{path}: topic {topic!r} {problem}; image topics: {', '.join(cameras)}")
    if topic:
        chosen = cameras[topic]
    else:
        chosen = max(cameras.values(), key=lambda t: (t.count, t.message_type == IMAGE))
        others = [f"{t.name} ({t.count})" for t in cameras.values() if t is not chosen]
        if others:
            warnings.append(
                f"{path} has {len(cameras)} image topics: {chosen.name} ({chosen.count} frames) is "
                f"used, not {', '.join(others)}; name another with the option topic"
            )
    if chosen.lost:
        recorded = chosen.count + chosen.lost
        warnings.append(f"{path}: {chosen.lost} of {recorded} frames of {chosen.name} are lost")
    if chosen.count == 0:
        raise BagError(f"{path}: no frame of {chosen.name} can be read; {_listing(storage)}")
    return Drive(
        path,
        chosen.name,
        chosen.message_type,
        chosen.count,
        storage.duration_ns,
        warnings,
        _storage=storage,
    )


def _listing(storage: Storage) -> str:
    """The topics of a bag in words."""
    names = [f"{t.name} ({t.message_type}, {t.count} messages)" for t in storage.topics.values()]
    shown, more = names[:12], len(names) - 12
    if not names:
        return "it has no topics at all"
    return f"its topics are {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
