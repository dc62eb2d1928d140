"""Follows the health of a graph, for a node that plays frames to it."""

from perception_interfaces.msg import Health

from perception_nodes.graph.topics import HEALTH
from perception_nodes.nodes.base import LATCHED, PerceptionNode


class GraphHealth:
    """Listens to the health of a camera's graph.

    Attributes:
        last: the last message; None before the first.
    """

    def __init__(self, node: PerceptionNode) -> None:
        """Subscribe; the callbacks run where the node spins."""
        self.last: Health | None = None
        topic = node.settings.topic_of(HEALTH)
        node.add_subscription(Health, topic, self._on_health, LATCHED, raw=False)

    @property
    def silent(self) -> list[str]:
        """Processes that are not at work yet."""
        return ["watchdog"] if self.last is None else list(self.last.silent_processes)

    def has_accounted_for(self, frames: int) -> bool:
        """Whether this number of frames has entered, and each has its status."""
        last = self.last
        return last is not None and last.frames_in >= frames and not last.in_flight

    def _on_health(self, health: Health) -> None:
        self.last = health
