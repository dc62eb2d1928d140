"""Detect on a live camera: ros2 launch perception_nodes perception.launch.py image_topic:=..."""

from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.launching import describe


def generate_launch_description():
    """Preprocessing, detector and watchdog."""
    return describe(VEHICLE)
