"""The protected copy of a topic, as a planner in rclpy takes it in."""

from collections.abc import Callable
from typing import Any

from perception_interfaces.msg import Protected

from perception_nodes.core.health import HealthMode
from perception_nodes.graph.topics import protected
from perception_nodes.nodes.protected_topic import PROTECTED
from perception_nodes.protection.consumer import Consumer, Content, Limits, Verdict

DEMANDED = Limits()


class ConsumedTopic:
    """Has a consumer judge each message that comes."""

    def __init__(
        self,
        node: Any,
        topic: str,
        take: Callable[[Verdict], None] = lambda _: None,
        content: Content = Content.OBJECTS,
        limits: Limits = DEMANDED,
    ) -> None:
        """Subscribe.

        Args:
            node: an rclpy node, which is spun elsewhere.
            topic: name of the plain topic, such as `/perception/detections`.
            take: receives the verdict on each message, in the node's executor.
            content: what the messages are about.
            limits: what messages must meet.
        """
        self._take = take
        subscription = node.create_subscription(
            Protected, protected(topic), self._on_message, PROTECTED, raw=True
        )
        self._consumer = Consumer(subscription.topic_name, content, limits)

    def mode(self) -> HealthMode:
        """The mode to be in at this moment; to be asked for periodically, every 50 ms or so."""
        return self._consumer.check().mode

    def _on_message(self, message: bytes) -> None:
        self._take(self._consumer.check(message))
