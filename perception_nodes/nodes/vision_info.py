"""Publishes the classes of detections, as vision_msgs/VisionInfo."""

from rcl_interfaces.msg import ParameterDescriptor
from vision_msgs.msg import VisionInfo

from perception_nodes.networks.model import Model
from perception_nodes.nodes.base import LATCHED, PerceptionNode

CLASS_NAMES = "class_names"


class VisionInfoTopic:
    """Names the model and where its classes are: in a parameter, as VisionInfo recommends."""

    def __init__(self, node: PerceptionNode, topic: str) -> None:
        self._node = node
        self._publisher = node.add_publisher(VisionInfo, topic, LATCHED)

    def publish(self, model: Model, backend: str) -> None:
        """Publish the model that the node detects with; latched, for late subscribers too."""
        node = self._node
        if not node.has_parameter(CLASS_NAMES):
            descriptor = ParameterDescriptor(
                description="names of the model's classes, in the order of their numbers",
                read_only=True,
            )
            names = list(model.classes)
            node.declare_parameter(CLASS_NAMES, names, descriptor, ignore_override=True)
        message = VisionInfo(
            method=f"{model.name} {model.precision} ({backend})",
            database_location=f"{node.get_fully_qualified_name()}/{CLASS_NAMES}",
        )
        message.header.stamp = node.get_clock().now().to_msg()
        self._publisher.publish(message)
