"""The protected copy of a topic: what is sent there, and what is received."""

import time
from typing import Any

from rclpy.qos import QoSProfile

from perception_nodes.protection.profile import data_id, protect
from perception_nodes.transport.message_counter import MessageCounter

PROTECTED = QoSProfile(depth=10)
"""Keeps nothing for late subscribers: the message would be late as well."""


class ProtectedTopic:
    """Sends the messages of a topic once more, protected, while somebody subscribes."""

    def __init__(self, publisher: Any) -> None:
        """Protect what a publisher of `Protected` sends; to be closed before it is destroyed."""
        self._publisher = publisher
        self._identity = data_id(publisher.topic_name)
        self._counter = MessageCounter(publisher.topic_name)

    @property
    def listeners(self) -> int:
        """Subscribers of the protected topic."""
        return int(self._publisher.get_subscription_count())

    def publish(self, data: bytes, deadline_ns: int) -> None:
        """Count a message, and publish it; to be called before it goes out on the plain topic.

        Of a process that dies in between, no message is out that was not counted.

        Args:
            data: the message, serialized.
            deadline_ns: when it is to be published at the latest, CLOCK_MONOTONIC.
        """
        number = self._counter.take()  # a message without a subscriber is lost, too
        if not self.listeners:
            return
        by_wall_ns = time.time_ns() - time.monotonic_ns() + deadline_ns
        self._publisher.publish(protect(data, self._identity, number, by_wall_ns))

    def close(self) -> None:
        """Close the count of the messages."""
        self._counter.close()
