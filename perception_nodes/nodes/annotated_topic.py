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


class AnnotatedTopics:
    """JPEGs at a low rate, with boxes, status and latency; and boxes for a viewer to draw.

    The latter are in pixels of the camera's images.
    """

    def __init__(self, node: PerceptionNode, camera: str, rate_hz: float) -> None:
        """Announce the topics."""
        self._pictures, self._annotations = (
            node.add_publisher(kind, node.settings.topic_of(topic, camera), QUEUE_DEPTH)
            for kind, topic in ((CompressedImage, ANNOTATED), (ImageAnnotations, ANNOTATIONS))
        )
        self._period = Period(round(1e9 / rate_hz))

    @property
    def are_wanted(self) -> bool:
        """Whether somebody subscribes."""
        publishers = self._pictures, self._annotations
        return any(publisher.get_subscription_count() for publisher in publishers)

    def publish(self, report: FrameReport, shot: Shot, found: FrameDetections | None) -> None:
        """Publish the objects of a frame, and its picture if it is time for one.

        Args:
            report: of the frame.
            shot: its pixels.
            found: its objects; None if none were published or they are not known.
        """
        stamp_ns, frame_id = nanoseconds(report.header.stamp), report.header.frame_id
        if found is not None and self._annotations.get_subscription_count():
            self._annotations.publish(image_annotations(stamp_ns, found, 1.0))
        if not self._pictures.get_subscription_count() or not self._period.due():
            return
        picture = shot.picture.copy()
        if found is not None:
            height, width = picture.shape[:2]
            boxes = shot.place(found.boxes) * [width, height, width, height]
            found = FrameDetections(found.labels, found.scores, boxes.astype("float32"))
        draw(picture, 1.0, found, ReportedFrame.of_message(report, 0))
        data = memoryview(simplejpeg.encode_jpeg(picture, JPEG_QUALITY, "BGR", "420"))
        self._pictures.publish(write_compressed_image(stamp_ns, frame_id, "jpeg", data))
