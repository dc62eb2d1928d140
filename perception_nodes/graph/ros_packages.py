"""The ROS packages that the nodes import, and how to get one that is missing."""

import importlib.util

from perception_nodes.graph.settings import SettingsError

_MESSAGES = "run `perception messages`; on a full ROS installation, colcon build"
REMEDIES = {
    "rclpy": "source a ROS 2 installation, or run `make setup`",
    "vision_msgs": _MESSAGES,
    "perception_interfaces": _MESSAGES,
}
"""How to get each package."""


def require_ros_packages() -> None:
    """Check that the nodes can import what they need from ROS.

    Raises:
        SettingsError: a package is missing.
    """
    for name, remedy in REMEDIES.items():
        if importlib.util.find_spec(name) is None:
            raise SettingsError(f"the ROS package {name} is not installed; {remedy}")
