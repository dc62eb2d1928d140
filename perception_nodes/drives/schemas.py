"""Definitions of the messages that recordings hold and that no ROS installation need bring.

They have the fields of `interfaces/` (vision_msgs, perception_interfaces; a test compares the type
hashes) and of Foxglove's foxglove_msgs, in their order: the order is the wire format.
"""

from functools import cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

DETECTIONS = "vision_msgs/msg/Detection2DArray"
FRAME_REPORT = "perception_interfaces/msg/FrameReport"
HEALTH = "perception_interfaces/msg/Health"
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
ANNOTATIONS = "foxglove_msgs/msg/ImageAnnotations"

_DEFINITIONS = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": """
        vision_msgs/ObjectHypothesis hypothesis
        geometry_msgs/PoseWithCovariance pose""",
    "vision_msgs/msg/Detection2D": """
        std_msgs/Header header
        vision_msgs/ObjectHypothesisWithPose[] results
        vision_msgs/BoundingBox2D bbox
        string id""",
    DETECTIONS: "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    FRAME_REPORT: """
        uint8 OK=0
        uint8 LATE=1
        uint8 SKIPPED_LATE=2
        uint8 SUPERSEDED=3
        uint8 DEGRADED=4
        uint8 FAILED=5
        std_msgs/Header header
        string camera
        uint64 sequence
        uint8 status
        bool clock_suspect
        string reason
        string model
        uint32 source_width
        uint32 source_height
        uint8 copies
        uint16 detections
        int64 deadline_ns
        int64 capture_ns
        int64 ingested_ns
        int64 preprocessed_ns
        int64 inferred_ns
        int64 postprocessed_ns
        int64 published_ns""",
    HEALTH: """
        uint8 NOMINAL=0
        uint8 DEGRADED=1
        uint8 SKIPPING=2
        uint8 UNSAFE=3
        builtin_interfaces/Time stamp
        uint8 mode
        uint8 previous_mode
        string cause
        uint64 frames_in
        uint64 ok
        uint64 late
        uint64 skipped_late
        uint64 superseded
        uint64 degraded
        uint64 failed
        uint64 in_flight
        uint64 reports_lost
        string[] silent_processes
        string[] faults""",
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
    """The messages of ROS 2 Kilted and those above."""
    store = get_typestore(Stores.ROS2_KILTED)
    for name, text in _DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


@cache
def schema_text(type_name: str) -> str:
    """A message's definition and those it depends on, in the `ros2msg` form of mcap."""
    return typestore().generate_msgdef(type_name, ros_version=2)[0]
