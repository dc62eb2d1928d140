"""The messages that recordings hold, known without a ROS installation.

Those of sensor_msgs come with rosbags; ours are built from the shipped `.msg` files.
"""

from functools import cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

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


@cache
def schema_text(type_name: str) -> str:
    """A message's definition and those it depends on, in the `ros2msg` form of mcap."""
    return typestore().generate_msgdef(type_name, ros_version=2)[0]
