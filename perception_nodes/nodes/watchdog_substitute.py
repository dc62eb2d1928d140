"""Speaks for the watchdog while it is gone: the health is UNSAFE, and the vehicle is to stop."""

import time
from typing import Any

from perception_interfaces.msg import Health as HealthMessage
from std_msgs.msg import Bool

from perception_nodes.core.frame import FrameRecord, RecordKind
from perception_nodes.graph.config import HEALTH
from perception_nodes.nodes.base import LATCHED
from perception_nodes.transport.channels import record_reader
from perception_nodes.watchdog.faults import HealthMode
from perception_nodes.watchdog.guard import ROLE, WatchdogGuard


class WatchdogSubstitute:
    """Publishes the watchdog's topics in its place."""

    def __init__(self, node: Any) -> None:
        """Listen to the watchdog's heartbeats, for a `RedundantNode`."""
        self._node = node
        heartbeats = record_reader(node.endpoint, node.seats[0].camera, ROLE)
        self._guard = WatchdogGuard(heartbeats, time.monotonic_ns())
        self._publishers: list[Any] = []

    def update(self, speaks: bool) -> None:
        """Look after the watchdog; to be called every few milliseconds.

        Args:
            speaks: we are the one that tells the vehicle.
        """
        why = self._guard.update(time.monotonic_ns(), self._node.records.patience_ns)
        if speaks and why:
            if not self._publishers:
                self._speak(why)
        elif self._publishers:
            # Otherwise listeners that come late would still get our latched messages.
            for publisher in self._publishers:
                self._node.destroy_publisher(publisher)
            self._publishers.clear()

    def _speak(self, why: str) -> None:
        cause = f"the watchdog is gone: {why}"
        self._node.get_logger().error(cause)
        settings = self._node.settings
        healths = [
            self._node.create_publisher(
                HealthMessage, settings.topic_of(HEALTH, seat.camera), LATCHED
            )
            for seat in self._node.seats
        ]
        stops = self._node.create_publisher(Bool, settings.safe_stop_topic, LATCHED)
        self._publishers = [*healths, stops]
        stamp = self._node.get_clock().now().to_msg()
        unsafe = HealthMode.UNSAFE
        message = HealthMessage(stamp=stamp, mode=unsafe, previous_mode=unsafe, cause=cause)
        message.silent_processes = [ROLE]
        for health in healths:
            health.publish(message)
        stops.publish(Bool(data=True))
        for seat in self._node.seats:
            seat.records.send(FrameRecord(kind=RecordKind.WATCHDOG_GONE, reason=why.encode()))
