"""Follows the health of a graph, for a node that plays frames to it."""

import time

from perception_interfaces.msg import Health

from perception_nodes.graph.topics import HEALTH
from perception_nodes.nodes.base import IDLE_WAIT_MS, LATCHED, PerceptionNode


class GraphHealth:
    """Listens to the health of a camera's graph.

    Attributes:
        last: the last message; before the first one the watchdog is missing.
    """

    def __init__(self, node: PerceptionNode) -> None:
        """Subscribe; the callbacks run where the node spins."""
        self._node, self._give_up_s = node, 0.0
        self.last = Health(silent_processes=["watchdog"])
        topic = node.settings.topic_of(HEALTH)
        node.add_subscription(Health, topic, self._on_health, LATCHED, raw=False)

    def is_done_with(self, frames: int, patience_s: float) -> bool:
        """Wait a moment for the reports on all frames that were sent.

        Args:
            frames: number of frames.
            patience_s: after so long, counted from the first call, they are no longer waited for.

        Returns:
            Whether this number of frames has entered and each has its status, or the time is over,
            which is logged as an error. Health counts an outage of many frames as one.
        """
        self._node.spin(IDLE_WAIT_MS)
        last, now_s = self.last, time.monotonic()
        self._give_up_s = self._give_up_s or now_s + patience_s
        is_complete = last.frames_in >= frames and not last.in_flight
        is_over = now_s > self._give_up_s
        if is_over and not is_complete:
            found = f"only {last.frames_in - last.in_flight} of {frames} frames, an outage as one,"
            self._node.get_logger().error(f"{found} are known {patience_s:g} s after the last one")
        return is_complete or is_over

    def _on_health(self, health: Health) -> None:
        self.last = health
