"""Publishes a camera's frames with their objects, for rviz and Foxglove, while subscribed."""

import simplejpeg
from foxglove_msgs.msg import ImageAnnotations
from perception_interfaces.msg import FrameReport
from sensor_msgs.msg import CompressedImage

from perception_nodes.graph.topics import ANNOTATED, ANNOTATIONS
from perception_nodes.nodes.base import PerceptionNode, Period
from perception_nodes.report.annotate import draw
from perception_nodes.report.foxglove import image_annotations
from perception_nodes.report.recording import FrameDetections, ReportedFrame, nanoseconds
from perception_nodes.transport.cdr_writer import write_compressed_image
from perception_nodes.view.pictures import JPEG_QUALITY, Shot

QUEUE_DEPTH = 5


class AnnotationsTopic:
    """Boxes and labels that a viewer draws over the camera's images, in pixels of those."""

    def __init__(self, node: PerceptionNode, camera: str) -> None:
        """Announce the topic."""
        topic = node.settings.topic_of(ANNOTATIONS, camera)
        self._publisher = node.add_publisher(ImageAnnotations, topic, QUEUE_DEPTH)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody subscribes."""
        return bool(self._publisher.get_subscription_count())

    def publish(self, report: FrameReport, found: FrameDetections) -> None:
        """Publish the objects of a frame."""
        if self.is_wanted:
            self._publisher.publish(image_annotations(nanoseconds(report.header.stamp), found, 1.0))


class AnnotatedTopic:
    """JPEGs at a low rate, with boxes, status and latency."""

    def __init__(self, node: PerceptionNode, camera: str, rate_hz: float) -> None:
        """Announce the topic."""
        topic = node.settings.topic_of(ANNOTATED, camera)
        self._publisher = node.add_publisher(CompressedImage, topic, QUEUE_DEPTH)
        self._period = Period(round(1e9 / rate_hz))

    @property
    def is_wanted(self) -> bool:
        """Whether somebody subscribes."""
        return bool(self._publisher.get_subscription_count())

    def publish(self, report: FrameReport, shot: Shot, found: FrameDetections | None) -> None:
        """Publish a frame if it is time for one.

        Args:
            report: of the frame.
            shot: its pixels.
            found: its objects; None if nothing was published, or it is not known what.
        """
        if not self.is_wanted or not self._period.due():
            return
        picture = shot.picture.copy()
        if found is not None:
            height, width = picture.shape[:2]
            boxes = shot.place(found.boxes) * [width, height, width, height]
            found = FrameDetections(found.labels, found.scores, boxes.astype("float32"))
        draw(picture, 1.0, found, ReportedFrame.of_message(report, 0))
        data = memoryview(simplejpeg.encode_jpeg(picture, JPEG_QUALITY, "BGR", "420"))
        stamp_ns, frame_id = nanoseconds(report.header.stamp), report.header.frame_id
        self._publisher.publish(write_compressed_image(stamp_ns, frame_id, "jpeg", data))
