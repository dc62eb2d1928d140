"""Publishes the frames of a shared-memory channel over DDS, while somebody subscribes.

It reads the channel as one more reader, after a frame's deadline, and runs when nothing else wants
the processor. So the graph's deadline depends neither on it nor on recorders that wake for its
messages. It leaves out frames for which it has no time.
"""

import time
from dataclasses import replace

import numpy as np
import simplejpeg
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from perception_nodes.cameras.channel import CameraHeader, camera_reader, view_camera_frame
from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.graph.config import RepublishSettings
from perception_nodes.graph.topics import image_topic, info_topic
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode, Publisher
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.converter import Converter
from perception_nodes.preprocess.formats import PACKED
from perception_nodes.transport.cdr import NS_PER_S
from perception_nodes.transport.cdr_writer import write_compressed_image, write_image
from perception_nodes.transport.shm import Endpoint, Reader

QUEUE = QoSProfile(depth=5)
NO_ROS_NAMES = ("i420", *PACKED)
"""Encodings that `sensor_msgs/Image` has no name for."""
LOOK_MS = 100.0
"""How often to look for subscribers while there are none."""
MAX_PAUSE_MS = 20.0
"""A frame waits at most this long for its detections to be published."""
JPEG_QUALITY = 90


class RepublishNode(PerceptionNode):
    """Reads frames only while there is a subscriber."""

    settings_type = RepublishSettings
    in_background = True
    _channel: Endpoint | None = None

    def open(self) -> None:
        """Announce the topics."""
        settings: RepublishSettings = self.settings
        topic = settings.image_topic
        self._images = self.add_publisher(Image, topic, QUEUE)
        compressed = image_topic(topic, "compressed")
        self._compressed = self.add_publisher(CompressedImage, compressed, QUEUE)
        self._infos: Publisher | None = None
        if settings.calibration_file:
            self._info = info_message(settings.calibration_file)
            self._infos = self.add_publisher(CameraInfo, info_topic(topic), QUEUE)
        self._published = self._left_out = self._next = 0
        self._converter = Converter(settings.sample_bits)

    def step(self) -> None:
        """Publish the newest frame, if somebody listens."""
        listeners = [p for p in (self._images, self._compressed) if p.get_subscription_count()]
        if not listeners:
            self._stop_reading()
            self.spin(LOOK_MS)
            return
        reader = self._reading()
        reader.wait(IDLE_WAIT_MS)
        if (sample := reader.newest()) is None:
            return
        number = sample.header.number
        passed_ms = (time.time_ns() - sample.header.stamp_ns) / 1e6
        pause_ms = min(self.settings.deadline_ms, MAX_PAUSE_MS)
        time.sleep(min(max(0.0, pause_ms - passed_ms), pause_ms) / 1e3)
        self._left_out += max(0, number - self._next) if self._published else 0
        self._next = number + 1
        try:
            self._publish(view_camera_frame(sample.header, sample.payload), listeners)
            self._published += 1
        except FrameRejected:
            self._left_out += 1  # the graph reports it as FAILED, with the reason
        finally:
            sample.release()

    def close(self) -> None:
        """Leave the channel."""
        self._stop_reading()

    def _reading(self) -> Reader[CameraHeader]:
        if self._channel is None:
            self._channel = Endpoint(self.get_name())
            self._reader = camera_reader(self._channel, self.settings.camera)
            self._published = self._left_out = self._next = 0
        return self._reader

    def _stop_reading(self) -> None:
        """Leave the channel: without subscribers the camera does not know of us."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            sent = f"{self._published} frames published over DDS"
            self.get_logger().info(f"{sent}, {self._left_out} left out")

    def _publish(self, image: ImageView, listeners: list[Publisher]) -> None:
        bgr = None
        if self._compressed in listeners:
            encoding, data = image.encoding, image.data
            if not image.file_type:
                bgr = self._converter.convert(image)
                encoding = "jpeg"
                data = memoryview(simplejpeg.encode_jpeg(bgr, JPEG_QUALITY, "BGR", "420"))
            message = write_compressed_image(image.stamp_ns, image.frame_id, encoding, data)
            self._compressed.publish(message)
        if self._images in listeners:
            if image.file_type or image.encoding in NO_ROS_NAMES:
                bgr = self._converter.convert(image) if bgr is None else bgr
                image = replace(
                    ImageView.of_pixels(bgr), stamp_ns=image.stamp_ns, frame_id=image.frame_id
                )
            self._images.publish(write_image(image))
        if self._infos is not None:
            stamp = self._info.header.stamp
            stamp.sec, stamp.nanosec = divmod(image.stamp_ns, NS_PER_S)
            self._info.header.frame_id = image.frame_id
            self._infos.publish(self._info)


def info_message(path: str) -> CameraInfo:
    """Make a message of a calibration file, for a single camera: R is the identity, P is K.

    Raises:
        UnknownLens: the file cannot be read.
    """
    info = read_calibration(path)
    fx, _, cx, _, fy, cy, *_ = info.matrix
    lens = {"distortion_model": info.model, "d": info.distortion, "k": info.matrix}
    single = {"r": np.eye(3).ravel(), "p": [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]}
    return CameraInfo(width=info.width, height=info.height, **lens, **single)


if __name__ == "__main__":
    RepublishNode.main()
