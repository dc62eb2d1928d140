"""The camera that a player stands for: sends recorded frames to a topic or into shared memory."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from perception_nodes.cameras.channel import CameraHeader, camera_writer, monotonic_us
from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.drives.bag import RawFrame
from perception_nodes.graph.config import PlayerSettings
from perception_nodes.graph.topics import image_topic, info_topic
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.transport.cdr_reader import read_compressed_image, read_image
from perception_nodes.transport.cdr_writer import stamped
from perception_nodes.transport.shm import Sample

QUEUE = QoSProfile(depth=5)


class PlayedCamera:
    """Sends frames as a camera driver does.

    Attributes:
        is_shared: whether frames go into shared memory instead of to a topic.
    """

    def __init__(
        self,
        node: PerceptionNode,
        settings: PlayerSettings,
        compressed: bool,
        first_bytes: int,
        qos: QoSProfile = QUEUE,
    ) -> None:
        """Announce it.

        Args:
            node: owns the publishers.
            settings: topic, or camera and shared memory.
            compressed: whether the frames are serialized CompressedImage instead of Image.
            first_bytes: size of the first frame.
            qos: of the images.
        """
        self._compressed = compressed
        self._infos = node.add_publisher(CameraInfo, info_topic(settings.image_topic), QUEUE)
        self.is_shared = settings.source == "shm"
        if self.is_shared:
            self._channel = camera_writer(node.endpoint, settings.camera, first_bytes)
        else:
            topic = image_topic(settings.image_topic, "compressed" if compressed else "raw")
            self._images = node.add_publisher(CompressedImage if compressed else Image, topic, qos)

    def has_listener(self) -> bool:
        """Whether somebody has subscribed to the images; always true for shared memory."""
        return self.is_shared or self._images.get_subscription_count() > 0

    def prepare(self, frame: RawFrame, stamp_ns: int, number: int) -> Callable[[], object]:
        """Publish the frame's calibration, and get the frame ready.

        Args:
            frame: as recorded.
            stamp_ns: its stamp.
            number: how many frames were sent before.

        Returns:
            A function that sends the frame, whose pixels are then in place, as in a camera driver
            when it takes the stamp.
        """
        if frame.camera_info is not None:
            self._infos.publish(_stamped(frame.camera_info, stamp_ns))
        if self.is_shared:
            return partial(self._send, self._filled(frame.data, stamp_ns, number))
        return partial(self._images.publish, _stamped(frame.data, stamp_ns))

    def _send(self, sample: Sample[CameraHeader]) -> None:
        sample.header.filled_us = monotonic_us()
        self._channel.send(sample)

    def _filled(self, message: bytes, stamp_ns: int, number: int) -> Sample[CameraHeader]:
        try:
            view = (read_compressed_image if self._compressed else read_image)(message)
        except FrameRejected:
            # Send it unchanged, as over DDS: preprocessing rejects it.
            view = ImageView(stamp_ns, "", 0, 0, "unreadable", 0, memoryview(message))
        sample = self._channel.loan(len(view.data))
        sample.header.number = number
        size = view.width, view.height, view.step, len(view.data)
        sample.header.describe(stamp_ns, view.encoding, *size, view.frame_id)
        sample.payload[:] = view.data
        return sample


def _stamped(message: bytes, stamp_ns: int) -> bytes:
    with suppress(FrameRejected):  # sent as it is: preprocessing is to reject it
        return stamped(message, stamp_ns)
    return message
