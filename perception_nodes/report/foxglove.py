"""Messages for Foxglove: video of a camera, and the annotations that it draws over pictures."""

from typing import Any

import numpy as np

from perception_nodes.drives.schemas import ANNOTATIONS, COMPRESSED_VIDEO, typestore
from perception_nodes.report.annotate import bgr, class_colour
from perception_nodes.report.recording import FrameDetections

LINE_LOOP = 2
THICKNESS_PX = 2.0
FONT_SIZE_PX = 12.0


def compressed_video(stamp_ns: int, frame_id: str, packet: bytes) -> bytes:
    """Serialize a packet of H.264 as `foxglove_msgs/msg/CompressedVideo`."""
    data = np.frombuffer(packet, np.uint8)
    message = typestore().types[COMPRESSED_VIDEO](_time(stamp_ns), frame_id, data, "h264")
    return bytes(typestore().serialize_cdr(message, COMPRESSED_VIDEO))


def image_annotations(stamp_ns: int, found: FrameDetections, scale: float) -> bytes:
    """Serialize boxes and labels as `foxglove_msgs/msg/ImageAnnotations`.

    Args:
        stamp_ns: stamp of the picture, by which Foxglove pairs the two.
        found: objects, in source pixels.
        scale: picture pixels per source pixel.
    """
    stamp, white = _time(stamp_ns), _made("Color", 1.0, 1.0, 1.0, 1.0)
    points, texts = [], []
    for label, score, (x1, y1, x2, y2) in found.objects(scale):
        colour, fill, text = _colour(label, 1.0), _colour(label, 0.1), f"{label} {score:.2f}"
        corners = [_made("Point2", *at) for at in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
        looks = LINE_LOOP, corners, colour, list[Any](), fill, THICKNESS_PX
        points.append(_made("PointsAnnotation", stamp, *looks))
        texts.append(_made("TextAnnotation", stamp, corners[0], text, FONT_SIZE_PX, white, colour))
    message = _made("ImageAnnotations", [], points, texts)
    return bytes(typestore().serialize_cdr(message, ANNOTATIONS))


def _made(kind: str, *fields: Any) -> Any:
    """A message of Foxglove with its fields in the order of the definition."""
    return typestore().types[f"foxglove_msgs/msg/{kind}"](*fields)


def _time(stamp_ns: int) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return typestore().types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)


def _colour(label: str, alpha: float) -> Any:
    blue, green, red = (value / 255 for value in bgr(class_colour(label)))
    return _made("Color", red, green, blue, alpha)
