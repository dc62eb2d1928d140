"""Gives the clock of the stamps: this machine's, or with `use_sim_time` that of `/clock`."""

import time

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from perception_nodes.core.clock import Clock, SimulatedClock, SystemClock
from perception_nodes.nodes.base import PerceptionNode

ANY_STEP = JumpThreshold(min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1))


def ros_clock(node: PerceptionNode) -> Clock:
    """The clock of a node's stamps; with `use_sim_time` it follows `/clock` until the cleanup."""
    if not node.settings.use_sim_time:
        return SystemClock()
    ros, simulated = node.get_clock(), SimulatedClock()

    def follow(_: object) -> None:
        simulated.update(ros.now().nanoseconds, time.monotonic_ns())

    node.owned.callback(ros.create_jump_callback(ANY_STEP, post_callback=follow).unregister)
    return simulated
