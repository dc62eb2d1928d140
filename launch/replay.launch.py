"""Detect on a recorded drive: ros2 launch perception_nodes replay.launch.py bag:=..."""

from perception_nodes.graph.graph import REPLAY
from perception_nodes.graph.launching import describe


def generate_launch_description():
    """The live graph, with a player as its camera."""
    return describe(REPLAY)
