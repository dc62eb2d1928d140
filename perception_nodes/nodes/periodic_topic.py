"""A state of the graph that is published periodically, plain and protected."""

import time
from typing import Any

from rclpy.serialization import serialize_message

from perception_nodes.nodes.protected_topic import ProtectedTopic

PERIOD_NS = 100_000_000
"""How often a state is published between its changes."""


class PeriodicTopic:
    """Publishes a state on its topic and on the protected copy."""

    def __init__(self, publisher: Any, protected: ProtectedTopic) -> None:
        """Take the publisher and the protected copy."""
        self._publisher, self._protected = publisher, protected

    @property
    def listeners(self) -> int:
        """Subscribers of either topic."""
        return int(self._publisher.get_subscription_count()) + self._protected.listeners

    def close(self) -> None:
        """Stop publishing; the node that created the publishers destroys them."""
        self._protected.close()

    def publish(self, message: Any) -> None:
        """Publish the state; the next message is due after `PERIOD_NS`."""
        data = serialize_message(message)
        self._protected.publish(data, time.monotonic_ns() + PERIOD_NS)
        self._publisher.publish(data)
