"""Small recorded drives for the tests, written by rosbags."""

import cv2
import numpy as np
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionFormat, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_typestore

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STORE = get_typestore(Stores.ROS2_KILTED)
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000


def pixels(index, width=64, height=48):
    """A picture that tells which one it is."""
    small = np.random.default_rng(index).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def message(kind, index, width=64, height=48, store=STORE):
    """The message of a type with which frame `index` is recorded."""
    seconds, nanoseconds = divmod(START_NS + index * PERIOD_NS, 10**9)
    time = store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    sequence = {"seq": index} if store is not STORE else {}
    header = store.types["std_msgs/msg/Header"](stamp=time, frame_id="camera", **sequence)
    if kind == IMAGE:
        data = pixels(index, width, height).ravel()
        return store.types[IMAGE](header, height, width, "bgr8", 0, width * 3, data)
    if kind == COMPRESSED:
        data = cv2.imencode(".jpg", pixels(index, width, height))[1].ravel()
        return store.types[COMPRESSED](header, "jpeg", data)
    zeros = np.zeros(12)
    region = store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    intrinsics = (np.zeros(5), np.eye(3).ravel(), np.eye(3).ravel(), zeros)
    return store.types[CAMERA_INFO](header, height, width, "plumb_bob", *intrinsics, 0, 0, region)


def serialized(kind, index):
    """The same as CDR."""
    return bytes(STORE.serialize_cdr(message(kind, index), kind))


CAMERA = {"/camera/image_raw": IMAGE, "/camera/camera_info": CAMERA_INFO}


def write_ros2(path, topics=None, frames=20, storage="mcap", compress=None):
    """A rosbag2 folder with `frames` messages on each topic, or a number by topic."""
    topics = CAMERA if topics is None else topics
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    writer = Rosbag2Writer(path, version=9, storage_plugin=plugin)
    if compress is not None:
        writer.set_compression(compress, CompressionFormat.ZSTD)
    with writer:
        kinds = topics.items()
        connections = {t: writer.add_connection(t, kind, typestore=STORE) for t, kind in kinds}
        count = frames if isinstance(frames, dict) else dict.fromkeys(topics, frames)
        for index in range(max(count.values(), default=0)):
            for topic, kind in topics.items():
                if index < count[topic]:
                    log_time_ns = START_NS + index * PERIOD_NS
                    writer.write(connections[topic], log_time_ns, serialized(kind, index))
    return path


def write_mcap(file, order, topics=CAMERA, **options):
    """An mcap file with frames of these numbers on each topic, written in this order."""
    messages = (
        (topic, START_NS + index * PERIOD_NS, serialized(kind, index))
        for index in order
        for topic, kind in topics.items()
    )
    return write_messages(file, topics, messages, **options)


def write_messages(file, topics, messages, named=True, **options):
    """An mcap file of messages, each a topic, a time and CDR; the channels may name no type."""
    with file.open("wb") as stream:
        writer = McapWriter(stream, **{"chunk_size": 40_000, **options})
        writer.start("ros2")
        channels = {}
        for topic, kind in topics.items():
            schema = writer.register_schema(kind, "ros2msg", b"") if named else 0
            channels[topic] = writer.register_channel(topic, "cdr", schema)
        for topic, time_ns, data in messages:
            writer.add_message(channels[topic], time_ns, data, time_ns)
        writer.finish()
    return file


def write_ros1(path, frames=5, compression=None):
    """A ROS 1 bag."""
    store = get_typestore(Stores.ROS1_NOETIC)
    writer = Rosbag1Writer(path)
    if compression is not None:
        writer.set_compression(Rosbag1Writer.CompressionFormat[compression.upper()])
    with writer:
        kinds = CAMERA.items()
        connections = {t: writer.add_connection(t, kind, typestore=store) for t, kind in kinds}
        for index in range(frames):
            for topic, kind in CAMERA.items():
                data = store.serialize_ros1(message(kind, index, store=store), kind)
                writer.write(connections[topic], START_NS + index * PERIOD_NS, data)
    return path


def write_labels(folder, labels, classes=("car",), size=(64, 48)):
    """A labelled set of black images; the lines of each by its name."""
    for name, lines in labels.items():
        for part in ("images", "labels"):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"images/{name}.png"), np.zeros((*size[::-1], 3), np.uint8))
        (folder / f"labels/{name}.txt").write_text("\n".join(lines))
    (folder / "classes.txt").write_text("\n".join(classes))
    return folder
