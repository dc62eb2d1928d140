"""Names of topics, and what becomes of them for one of several cameras."""

ANY_CAMERA = "{camera}"
"""Stands for the camera's name in topics and file names."""
FRAME_REPORTS = "perception/frame_report"
HEALTH = "perception/health"
SAFE_STOP = "perception/safe_stop"
TRACKS = "perception/tracks"
TRACKED_DETECTIONS = "perception/tracked_detections"
VISION_INFO = "perception/vision_info"
ANNOTATED = "perception/annotated/compressed"
ANNOTATIONS = "perception/annotations"
ENABLE = "perception/enable"
"""Topics and a service, before a camera's name is put into them: see `camera_topic`."""


def camera_topic(topic: str, camera: str, named: bool) -> str:
    """The topic of one camera.

    Args:
        topic: may contain `{camera}`.
        camera: the camera's name.
        named: put the name before the last part of a topic that does not contain `{camera}`.
    """
    if ANY_CAMERA in topic:
        return topic.replace(ANY_CAMERA, camera)
    if not named:
        return topic
    base, separator, last = topic.rpartition("/")
    return f"{base}{separator}{camera}/{last}"


def is_annotated(topic: str) -> bool:
    """Whether a topic has a graph's annotated pictures, of any camera and namespace."""
    return f"/{ANNOTATED.rpartition('/')[0]}/" in topic


def protected(topic: str) -> str:
    """Name of a topic's protected copy."""
    return f"{topic}/protected"


def image_topic(topic: str, transport: str) -> str:
    """The topic of a camera's images; if they are not raw, a topic of their own beside it."""
    return topic if transport == "raw" else f"{topic}/{transport}"


def info_topic(topic: str) -> str:
    """The topic of a camera's CameraInfo, in the same namespace as its images."""
    base, separator, _ = topic.rpartition("/")
    return f"{base}{separator}camera_info"
