"""What the nodes need from ROS: packages, middleware, a domain; and how to get what is missing."""

import importlib.util
import os
from ctypes.util import find_library
from pathlib import Path

from perception_nodes.graph.settings import SettingsError
from perception_nodes.system.environment import prefixes

_MESSAGES = "run `perception messages`; on a full ROS installation, colcon build"
REMEDIES = {
    "rclpy": "source a ROS 2 installation, or run `make setup`",
    "vision_msgs": _MESSAGES,
    "perception_interfaces": _MESSAGES,
}
"""How to get each package."""
MIDDLEWARE, DOMAIN = "RMW_IMPLEMENTATION", "ROS_DOMAIN_ID"
HIGHEST_DOMAIN = 232
"""The ports of the next one would be above 65,535."""
DOMAIN_REMEDY = f"set it to a whole number from 0 to {HIGHEST_DOMAIN}, or unset it"


def require_ros() -> None:
    """Check that nodes can start here, so that a graph says once what they would say each.

    Raises:
        SettingsError: a package or the middleware is not installed, or the domain is none.
    """
    for name, remedy in REMEDIES.items():
        if importlib.util.find_spec(name) is None:
            raise SettingsError(f"the ROS package {name} is not installed; {remedy}")
    name, there = middleware()
    # A default that is not where we look is not refused: rclpy may have one of its own.
    if not there and os.environ.get(MIDDLEWARE):
        raise SettingsError(f"{MIDDLEWARE}={name} is not installed; {middleware_remedy(name)}")
    domain, is_one = ros_domain()
    if not is_one:
        raise SettingsError(f"{DOMAIN}={domain} is not allowed; {DOMAIN_REMEDY}")


def middleware() -> tuple[str, bool]:
    """Name of the ROS middleware that nodes use, and whether it is installed."""
    name = os.environ.get(MIDDLEWARE) or "rmw_fastrtps_cpp"
    folders = [prefix / "lib" for prefix in prefixes()]
    folders += [Path(f) for f in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]
    found = any((folder / f"lib{name}.so").exists() for folder in folders)
    return name, found or find_library(name) is not None


def ros_domain() -> tuple[str, bool]:
    """The ROS domain that nodes join, and whether there is such a one."""
    text = os.environ.get(DOMAIN) or "0"
    return text, text.isascii() and text.isdigit() and int(text) <= HIGHEST_DOMAIN


def middleware_remedy(name: str) -> str:
    """How to get a middleware, or do without it."""
    return f"install {name}, or unset {MIDDLEWARE}"
