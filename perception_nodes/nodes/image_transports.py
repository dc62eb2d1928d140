"""The types of ROS messages in which cameras publish, and their topics."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from perception_nodes.core.frame import ImageView
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, COMPRESSED_VIDEO, FFMPEG_PACKET, IMAGE
from perception_nodes.graph.settings import SettingsError
from perception_nodes.transport import cdr_reader


@dataclass(frozen=True)
class ImageTransport:
    """How a camera publishes.

    Attributes:
        message_type: such as `sensor_msgs/msg/Image`.
        read: views a serialized message.
        copies: number of copies of a frame made in our process after its receipt; the middleware
            copies an Image out of its own memory twice, see `rmw_take_serialized_message`.
        is_video: whether a message is a packet, which needs those before it.
    """

    message_type: str
    read: Callable[[cdr_reader.Buffer], ImageView]
    copies: int = 0
    is_video: bool = False


TRANSPORTS = {
    "raw": ImageTransport(IMAGE, cdr_reader.read_image, copies=2),
    "compressed": ImageTransport(COMPRESSED_IMAGE, cdr_reader.read_compressed_image),
    "foxglove": ImageTransport(COMPRESSED_VIDEO, cdr_reader.read_compressed_video, is_video=True),
    "ffmpeg": ImageTransport(FFMPEG_PACKET, cdr_reader.read_ffmpeg_packet, is_video=True),
}
"""Transports by their names for the parameter image_transport."""


def message_class(message_type: str) -> Any:
    """The class of messages of a type such as `sensor_msgs/msg/Image`.

    Raises:
        SettingsError: its package is not installed.
    """
    package, _, name = message_type.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"the messages {package} are not installed ({error}); install ros-$ROS_DISTRO-"
            f"{package.replace('_', '-')}, or build interfaces/{package}"
        ) from error
