"""A recorded drive: its camera frames in the order they were logged, read with no ROS."""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from perception_nodes.core.errors import listed
from perception_nodes.drives import image_storage
from perception_nodes.drives.bag_file import BagError, Findings, Messages
from perception_nodes.drives.bag_storage import BagStorage, storage_files
from perception_nodes.drives.schemas import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from perception_nodes.drives.storage import Storage, Topic
from perception_nodes.drives.synthetic_storage import SCHEME, SyntheticStorage
from perception_nodes.drives.video_packets import VIDEO_TYPES, RecordedPackets
from perception_nodes.drives.video_storage import VIDEO_SUFFIXES, VideoStorage
from perception_nodes.preprocess.lens import is_rectified
from perception_nodes.system.object_path import ObjectPath, path_of
from perception_nodes.transport.cdr_reader import read_compressed_image, read_image

__all__ = ["BagError", "Drive", "RawFrame", "image_topics", "open_drive"]

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE, *VIDEO_TYPES)
TRANSPORTS = ("compressed", "foxglove", "ffmpeg")
"""Names of image transports; the topics of images that are not raw end with them."""
LATE_INFO_S = 0.2
"""A warning is given if the first calibration is logged later than this after the first frame."""


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A camera message as it was recorded.

    Attributes:
        index: position among the frames of the drive, from 0.
        log_time_ns: when it was recorded, nanoseconds since the Unix epoch.
        data: the serialized message, CDR; for a video packet, its picture as an `Image`.
        camera_info: the last calibration logged before it, a serialized `CameraInfo`; for frames
            before the first calibration, that one; None if the drive has none.
    """

    index: int
    log_time_ns: int
    data: bytes
    camera_info: bytes | None = None


class Drive(AbstractContextManager["Drive"]):
    """The frames of one camera in a bag. Close it, or use it as a context manager.

    Attributes:
        path: the bag.
        topic: of the camera's images.
        message_type: of the frames, `sensor_msgs/msg/Image` or `sensor_msgs/msg/CompressedImage`.
        read: reads the picture of a frame's message; raises `FrameRejected` if it cannot be read.
        frame_count: number of frames that the bag states; if reading finds damage, fewer come. For
            a video that states none, an estimate.
        lost: number of frames that the bag's index or metadata names and that cannot be read. It is
            final once all frames have been read.
        recorded_count: frames that were recorded, those that are lost included.
        duration_ns: from the first to the last message of the bag.
        frame_files: of an image folder, the file of each frame.
    """

    def __init__(self, path: Path, storage: Storage, chosen: Topic, notes: Findings) -> None:
        """Take an opened bag and the topic of the camera, see `open_drive`."""
        self.path, self.topic = path, chosen.name
        self.message_type = IMAGE if chosen.message_type in VIDEO_TYPES else chosen.message_type
        self.read = read_image if self.message_type == IMAGE else read_compressed_image
        self.frame_count, self.lost = chosen.count, chosen.lost
        self.recorded_count = chosen.count + chosen.lost
        self.duration_ns, self.frame_files = storage.duration_ns, storage.frame_files
        self._storage, self._chosen, self._notes = storage, chosen, notes

    @property
    def warnings(self) -> list[str]:
        """Lines for the user about damage, lost frames and the choice of a topic.

        Reading may add to it.
        """
        lines = [*self._storage.warnings, *self._notes.lines()]
        if self.lost:
            lines.append(f"{self.path}: {self.lost} of {self.recorded_count} frames are lost")
        if not self._chosen.counted and self._storage.damaged:
            lines.append(
                f"{self.path}: how many more frames are lost is not known: neither an index nor "
                "metadata says how many there were"
            )
        return lines

    def frames(self) -> Iterator[RawFrame]:
        """Read the frames, oldest first; may be called again.

        Only some chunks of the bag are in memory at a time. If the bag is damaged, the readable
        rest is delivered, and the loss is counted in `lost` and named in `warnings`.

        Raises:
            BagError: not one frame can be read, a file cannot be read any more, or a ROS 1 bag is
                damaged.
        """
        count = 0
        recorded_type = self._chosen.message_type
        packets = RecordedPackets(recorded_type) if recorded_type in VIDEO_TYPES else None
        infos = self._info_topics()
        info_ns, info = next(self.camera_infos(), (0, None))
        for log_time_ns, topic, data in self._read({self.topic, *infos}):
            if topic != self.topic:
                info = data
                continue
            if count == 0 and (behind_s := (info_ns - log_time_ns) / 1e9) > LATE_INFO_S:
                self._notes.note(
                    f"{self.path}: the first CameraInfo was logged {behind_s:.1f} s behind the "
                    "first frame; it is used from that frame on"
                )
            frame = data if packets is None else packets.image(data)
            yield RawFrame(count, log_time_ns, frame, info)
            count += 1
        if not self._chosen.estimated:
            self.lost = max(self.recorded_count - count, 0)
        if count == 0:
            reasons = "; ".join(self._storage.warnings) or f"{self.path}: it has none"
            raise BagError(f"{reasons}: no frame of {self.topic} can be read")

    def messages(self, topic: str, message_type: str) -> Iterator[tuple[int, bytes]]:
        """The messages of another topic, oldest first: log time in nanoseconds, serialized message.

        Raises:
            BagError: the topic does not exist or is of another type.
        """
        found = self._storage.topics.get(topic)
        if found is None or found.message_type != message_type:
            problem = f"is a {found.message_type}" if found else "is not in it"
            raise BagError(
                f"{self.path}: topic {topic!r} {problem}; a {message_type} is wanted; "
                f"{_listing(self._storage)}"
            )
        return ((log_time_ns, data) for log_time_ns, _, data in self._read({topic}))

    def _read(self, topics: Collection[str]) -> Messages:
        try:
            yield from self._storage.messages(topics)
        except OSError as error:  # the disk or the network is gone
            raise BagError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def camera_infos(self) -> Iterator[tuple[int, bytes]]:
        """The calibrations recorded beside the images: log times, serialized `CameraInfo`."""
        for topic in self._info_topics():
            yield from self.messages(topic, CAMERA_INFO)

    def camera_info(self) -> bytes | None:
        """The first recorded calibration, or None."""
        return next((data for _, data in self.camera_infos()), None)

    def _info_topics(self) -> list[str]:
        """The topic of the calibrations, if there is one and the images are not rectified."""
        if is_rectified(self.topic):
            return []
        topic = camera_info_topic(self.topic)
        found = self._storage.topics.get(topic)
        return [topic] if found is not None and found.message_type == CAMERA_INFO else []

    def close(self) -> None:
        """Close the files."""
        self._storage.close()

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()


def open_drive(path: str | Path, topic: str = "") -> Drive:
    """Open a recorded drive.

    Args:
        path: a rosbag2 folder (mcap or sqlite3), a bare `.mcap` or `.db3` file, either of them
            also as `.zstd` or `.lz4`, a ROS 1 `.bag`, a video file, the URL of one of these, a
            folder of images, an image, a pattern of images such as `frames/*.jpg`, or
            `synthetic:WIDTHxHEIGHT@RATE*FRAMES[.jpeg]`.
        topic: of the images; empty for the image topic with the most frames.

    Raises:
        BagError: it has no readable frame; one line that says why and what to do.
    """
    storage = _open(path)
    try:
        return _drive(path_of(path), topic, storage)
    except BaseException:
        storage.close()
        raise


def image_topics(path: str | Path) -> list[str]:
    """The image topics of a bag that have frames.

    Raises:
        BagError: see `open_drive`.
    """
    with closing(_open(path)) as storage:
        cameras = _cameras(path_of(path), storage)
        return [camera.name for camera in cameras.values() if camera.count]


def camera_info_topic(image_topic: str) -> str:
    """Topic on which a camera publishes its calibration, beside its raw image topic."""
    base, _, last = image_topic.rpartition("/")
    raw = base if last in TRANSPORTS else image_topic
    return f"{raw.rpartition('/')[0]}/camera_info"


def _open(name: str | Path) -> Storage:
    if str(name).startswith(SCHEME):
        return SyntheticStorage(str(name))
    path = path_of(name)
    try:
        if isinstance(path, ObjectPath):
            if not path.exists():
                raise BagError(f"{path} does not exist")
            if path.suffix.lower() in VIDEO_SUFFIXES:
                return VideoStorage(path.fetched())
            return BagStorage(path)
        try:
            # Raises an error with the reason, which Path.exists does not from Python 3.14 on.
            path.stat()
        except FileNotFoundError:
            if files := image_storage.images_like(path):
                return image_storage.ImageStorage(path, files)
            is_url = ":/" in str(path)
            hint = "; fetch it, or play it by `perception run source:=URL`" if is_url else ""
            raise BagError(f"{path} does not exist{hint}") from None
        if path.is_file() and path.suffix.lower() in image_storage.IMAGE_SUFFIXES:
            return image_storage.ImageStorage(path, [path])
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            return VideoStorage(path)
        if path.is_dir() and not storage_files(path) and (files := image_storage.images_in(path)):
            return image_storage.ImageStorage(path, files)
        return BagStorage(path)
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror or error}") from error


def _cameras(path: Path, storage: Storage) -> dict[str, Topic]:
    """Image topics by name, at least one."""
    cameras = {t.name: t for t in storage.topics.values() if t.message_type in IMAGE_TYPES}
    if not cameras:
        types = " or ".join(IMAGE_TYPES)
        raise BagError(f"{path} has no image topic ({types}); {_listing(storage)}")
    return cameras


def _drive(path: Path, topic: str, storage: Storage) -> Drive:
    cameras = _cameras(path, storage)
    notes = Findings()
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
            notes.note(
                f"{path} has {len(cameras)} image topics: {chosen.name} ({chosen.count} frames) is "
                f"used, not {', '.join(others)}; name another with the option topic"
            )
    if chosen.count == 0:
        raise BagError(f"{path}: no frame of {chosen.name} can be read; {_listing(storage)}")
    return Drive(path, storage, chosen, notes)


def _listing(storage: Storage) -> str:
    """The topics of a bag, for an error text."""
    names = [f"{t.name} ({t.message_type}, {t.count} messages)" for t in storage.topics.values()]
    return f"its topics are {listed(names, 12)}" if names else "it has no topics at all"
