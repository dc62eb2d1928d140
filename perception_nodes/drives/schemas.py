"""The messages that recordings hold, known without a ROS installation.

Those of sensor_msgs come with rosbags, those that we build from the shipped `.msg` files. Those of
foxglove_msgs that we only write are defined here; the order of their fields is the order on the
wire.
"""

from functools import cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception_nodes.transport.definitions import definitions

DETECTIONS = "vision_msgs/msg/Detection2DArray"
FRAME_REPORT = "perception_interfaces/msg/FrameReport"
HEALTH = "perception_interfaces/msg/Health"
TRACKS = "perception_interfaces/msg/Tracks"
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
ANNOTATIONS = "foxglove_msgs/msg/ImageAnnotations"

_FOXGLOVE = {
    "foxglove_msgs/msg/Point2": "float64 x\nfloat64 y",
    "foxglove_msgs/msg/Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a",
    "foxglove_msgs/msg/CircleAnnotation": """
        builtin_interfaces/Time timestamp
        foxglove_msgs/Point2 position
        float64 diameter
        float64 thickness
        foxglove_msgs/Color fill_color
        foxglove_msgs/Color outline_color""",
    "foxglove_msgs/msg/PointsAnnotation": """
        uint8 UNKNOWN=0
        uint8 POINTS=1
        uint8 LINE_LOOP=2
        uint8 LINE_STRIP=3
        uint8 LINE_LIST=4
        builtin_interfaces/Time timestamp
        uint8 type
        foxglove_msgs/Point2[] points
        foxglove_msgs/Color outline_color
        foxglove_msgs/Color[] outline_colors
        foxglove_msgs/Color fill_color
        float64 thickness""",
    "foxglove_msgs/msg/TextAnnotation": """
        builtin_interfaces/Time timestamp
        foxglove_msgs/Point2 position
        string text
        float64 font_size
        foxglove_msgs/Color text_color
        foxglove_msgs/Color background_color""",
    ANNOTATIONS: """
        foxglove_msgs/CircleAnnotation[] circles
        foxglove_msgs/PointsAnnotation[] points
        foxglove_msgs/TextAnnotation[] texts""",
}


@cache
def typestore() -> Typestore:
    """The messages of ROS 2 Kilted, the shipped ones, and those of Foxglove."""
    store = get_typestore(Stores.ROS2_KILTED)
    for name, text in (definitions() | _FOXGLOVE).items():
        store.register(get_types_from_msg(text, name))
    return store


@cache
def schema_text(type_name: str) -> str:
    """A message's definition and those it depends on, in the `ros2msg` form of mcap."""
    return typestore().generate_msgdef(type_name, ros_version=2)[0]
