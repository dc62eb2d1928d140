"""The messages that recordings hold, known without a ROS installation.

Those of sensor_msgs come with rosbags; ours are built from the shipped `.msg` files.
"""

from functools import cache, lru_cache

from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception_nodes.core.errors import InputError
from perception_nodes.transport.definitions import definitions

DETECTIONS = "vision_msgs/msg/Detection2DArray"
FRAME_REPORT = "perception_interfaces/msg/FrameReport"
HEALTH = "perception_interfaces/msg/Health"
TRACKS = "perception_interfaces/msg/Tracks"
PROTECTED = "perception_interfaces/msg/Protected"
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
ANNOTATIONS = "foxglove_msgs/msg/ImageAnnotations"


@cache
def typestore() -> Typestore:
    """The messages of ROS 2 Kilted and the shipped ones."""
    store = get_typestore(Stores.ROS2_KILTED)
    for name, text in definitions().items():
        store.register(get_types_from_msg(text, name))
    return store


ADDED = frozenset(
    """
    incarnation report_number latency_ms stage_ms lost_after lost_before looks
    phase model_names model_shares configuration_hash changed_parameters log_lines_dropped
    """.split()
)
"""Fields that messages of the first recordings do not have."""


class DefinitionError(InputError):
    """A text that does not define a message."""


@lru_cache(maxsize=64)
def typestore_of(type_name: str, text: str) -> Typestore:
    """The messages as a recording defines them, which may be older than the shipped ones.

    Args:
        type_name: the message.
        text: its definition and those it depends on, in the `ros2msg` form of mcap; an empty one
            stands for the shipped one.

    Raises:
        DefinitionError: it is no definition, or not one that the shipped messages had before.
    """
    if not text or text == schema_text(type_name):
        return typestore()
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(text, type_name))
        store.get_msgdef(type_name)
    except (TypesysError, SyntaxError, RecursionError, LookupError, ValueError) as error:
        raise DefinitionError(f"its definition cannot be read: {error}") from error
    shipped = typestore().fielddefs
    for name in shipped.keys() & store.fielddefs.keys():
        found, known = (dict(defined[name][1]) for defined in (store.fielddefs, shipped))
        for field, kind in known.items():
            if field not in ADDED | found.keys() or found.get(field, kind) != kind:
                raise DefinitionError(f"{name} has no field {field} as it should be")
    return store


@cache
def schema_text(type_name: str) -> str:
    """A message's definition and those it depends on, in the `ros2msg` form of mcap."""
    return typestore().generate_msgdef(type_name, ros_version=2)[0]
