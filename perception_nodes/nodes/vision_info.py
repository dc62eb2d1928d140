"""The classes of detections, as vision_msgs/VisionInfo."""

from rcl_interfaces.msg import ParameterDescriptor
from vision_msgs.msg import VisionInfo

from perception_nodes.networks.model import Model
from perception_nodes.nodes.base import PerceptionNode

CLASS_NAMES = "class_names"


def vision_info(node: PerceptionNode, model: Model, backend: str) -> VisionInfo:
    """Name the model that a node detects with, and where its classes are.

    They are in a parameter of the node, as VisionInfo recommends.
    """
    if not node.has_parameter(CLASS_NAMES):
        what = "names of the model's classes, in the order of their numbers"
        descriptor = ParameterDescriptor(description=what, read_only=True)
        node.declare_parameter(CLASS_NAMES, list(model.classes), descriptor, ignore_override=True)
    message = VisionInfo(
        method=f"{model.name} {model.precision} ({backend})",
        database_location=f"{node.get_fully_qualified_name()}/{CLASS_NAMES}",
    )
    message.header.stamp = node.get_clock().now().to_msg()
    return message
