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
    types = typestore().types
    stamp = _time(stamp_ns)
    points, texts = [], []
    for label, score, (x1, y1, x2, y2) in found.objects(scale):
        colour = _colour(label, 1.0)
        points.append(
            types["foxglove_msgs/msg/PointsAnnotation"](
                timestamp=stamp,
                type=LINE_LOOP,
                points=[_point(x1, y1), _point(x2, y1), _point(x2, y2), _point(x1, y2)],
                outline_color=colour,
                outline_colors=[],
                fill_color=_colour(label, 0.1),
                thickness=THICKNESS_PX,
            )
        )
        texts.append(
            types["foxglove_msgs/msg/TextAnnotation"](
                timestamp=stamp,
                position=_point(x1, y1),
                text=f"{label} {score:.2f}",
                font_size=FONT_SIZE_PX,
                text_color=types["foxglove_msgs/msg/Color"](r=1.0, g=1.0, b=1.0, a=1.0),
                background_color=colour,
            )
        )
    message = types[ANNOTATIONS](circles=[], points=points, texts=texts)
    return bytes(typestore().serialize_cdr(message, ANNOTATIONS))


def _time(stamp_ns: int) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return typestore().types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)


def _point(x: float, y: float) -> Any:
    return typestore().types["foxglove_msgs/msg/Point2"](x=x, y=y)


def _colour(label: str, alpha: float) -> Any:
    blue, green, red = (value / 255 for value in bgr(class_colour(label)))
    return typestore().types["foxglove_msgs/msg/Color"](r=red, g=green, b=blue, a=alpha)
