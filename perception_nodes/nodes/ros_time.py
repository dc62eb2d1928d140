"""The clock of the stamps: this machine's, or with `use_sim_time` that of `/clock`."""

import time
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from perception_nodes.core.clock import Clock, SimulatedClock, SystemClock
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.transport.cdr import NS_PER_S

ANY_STEP = JumpThreshold(min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1))


def stamp_ns_of(message: Any) -> int:
    """`header.stamp` of a message, nanoseconds since the Unix epoch."""
    return int(message.header.stamp.sec * NS_PER_S + message.header.stamp.nanosec)


class RosTime:
    """A node's clock; kept up to date until it is closed."""

    def __init__(self, node: PerceptionNode) -> None:
        """Follow `/clock`, to which the node is subscribed, if it has `use_sim_time`."""
        self.clock: Clock = SystemClock()
        self._steps = None
        if not node.settings.use_sim_time:
            return
        ros, simulated = node.get_clock(), SimulatedClock()

        def told(_: object) -> None:
            simulated.update(ros.now().nanoseconds, time.monotonic_ns())

        self.clock = simulated
        self._steps = ros.create_jump_callback(ANY_STEP, post_callback=told)

    def close(self) -> None:
        """Stop following."""
        if self._steps is not None:
            self._steps.unregister()
            self._steps = None
