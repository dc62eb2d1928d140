"""Who watches the watchdog: the others, one of which speaks for it where it is gone."""

import time
from typing import Any

from perception_interfaces.msg import Health as HealthMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool

from perception_nodes.core.frame import RecordKind
from perception_nodes.nodes.base import Period
from perception_nodes.system.processes import open_process
from perception_nodes.transport import channels
from perception_nodes.watchdog.faults import HealthMode
from perception_nodes.watchdog.liveness import Roster

ROLE = "watchdog"
PERIOD_NS = 20_000_000
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class WatchdogGuard:
    """Asks for a safe stop while the watchdog is gone, and ends one that hangs."""

    def __init__(self, node: Any) -> None:
        """Listen to its heartbeats, for a `RedundantNode`."""
        self._node = node
        self._period = Period(PERIOD_NS)
        self._records = channels.record_reader(node.endpoint, node.seats[0].camera, ROLE)
        self._roster = Roster({ROLE: 1}, open_process)
        self._known = False
        self._topics: list[Any] = []
        self._checked_ns = time.monotonic_ns()

    def update(self, speaks: bool) -> None:
        """Look after it; to be called every few milliseconds.

        Args:
            speaks: we are the one that tells the vehicle.
        """
        if not self._period.due():
            return
        now_ns = time.monotonic_ns()
        if now_ns - self._checked_ns > self._node.records.patience_ns:
            self._roster.postpone(now_ns)
        self._checked_ns = now_ns
        for record in self._records.records():
            self._roster.hear(ROLE, record)
            self._known = record.kind != RecordKind.LEFT
        self._roster.update(now_ns)
        self._roster.end_hung()
        missing = speaks and self._known and not self._roster.present(ROLE)
        if missing and not self._topics:
            self._speak(self._roster.faults()[0].text)
        elif not missing and self._topics:
            # What we have latched would go on telling late listeners of the past.
            for topic in self._topics:
                self._node.destroy_publisher(topic)
            self._topics.clear()

    def _speak(self, why: str) -> None:
        cause = f"the watchdog is gone: {why}"
        self._node.get_logger().error(cause)
        settings = self._node.settings
        healths = [
            self._node.create_publisher(
                HealthMessage, settings.topic_of("perception/health", seat.camera), LATCHED
            )
            for seat in self._node.seats
        ]
        stops = self._node.create_publisher(Bool, settings.safe_stop_topic, LATCHED)
        self._topics = [*healths, stops]
        stamp = self._node.get_clock().now().to_msg()
        unsafe = HealthMode.UNSAFE
        message = HealthMessage(stamp=stamp, mode=unsafe, previous_mode=unsafe, cause=cause)
        message.silent_processes = [ROLE]
        for health in healths:
            health.publish(message)
        stops.publish(Bool(data=True))
