"""A topic with its protected copy, see `perception_nodes.protection`."""

import time
from typing import Any

from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message

from perception_nodes.protection.profile import SENDER_BITS, data_id, protect
from perception_nodes.system.life import graph_life
from perception_nodes.transport.message_counter import MessageCounter

PROTECTED = QoSProfile(depth=10)
"""No message is kept for late subscribers: it would reach them too late."""
PERIOD_NS = 100_000_000
"""How often a state of the graph is published between its changes."""


class ProtectedTopic:
    """Publishes each message plain, and protected while somebody subscribes to the copy.

    Attributes:
        publishers: of the topic and of its copy.
    """

    def __init__(self, plain: Any, copy: Any) -> None:
        """Take the publishers; to be closed before these are destroyed."""
        self.publishers: tuple[Any, ...] = plain, copy
        self._identity = data_id(copy.topic_name, graph_life() >> 64 - SENDER_BITS)
        self._counter = MessageCounter(copy.topic_name)

    @property
    def listeners(self) -> int:
        """Subscribers of either topic."""
        return sum(publisher.get_subscription_count() for publisher in self.publishers)

    def publish(self, data: bytes, deadline_ns: int) -> None:
        """Count a message and publish it; the copy first.

        If the process dies in between, every message that is out was counted.

        Args:
            data: the message, serialized.
            deadline_ns: when it is to be published at the latest, CLOCK_MONOTONIC.
        """
        plain, copy = self.publishers
        number = self._counter.take()  # a message without a subscriber counts as lost too
        if copy.get_subscription_count():
            by_wall_ns = time.time_ns() - time.monotonic_ns() + deadline_ns
            copy.publish(protect(data, self._identity, number, by_wall_ns))
        plain.publish(data)

    def publish_report(self, data: bytes) -> None:
        """Publish what became of a frame; a report is due within `PERIOD_NS` from now."""
        self.publish(data, time.monotonic_ns() + PERIOD_NS)

    def wait_for_all_acked(self, timeout: Any) -> None:
        """Wait until those who listen have all messages, or until the timeout, for each topic."""
        for publisher in self.publishers:
            publisher.wait_for_all_acked(timeout)

    def publish_state(self, message: Any) -> None:
        """Publish a state of the graph; the next message is due after `PERIOD_NS`."""
        self.publish(serialize_message(message), time.monotonic_ns() + PERIOD_NS)

    def close(self) -> None:
        """Close the count of the messages."""
        self._counter.close()
