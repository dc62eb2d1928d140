"""Who watches the watchdog: the detector, which speaks for it where it is gone."""

import time
from typing import Any

from perception_interfaces.msg import Health as HealthMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool

from perception_nodes.core.faults import HealthMode
from perception_nodes.core.frame import RecordKind
from perception_nodes.core.liveness import Roster
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.processes import open_process
from perception_nodes.transport import channels

ROLE = "watchdog"
KILLED_AFTER_NS = 1_000_000_000
"""A hang of the watchdog is told at once, but it is ended only when it has lasted for so long:
while it is replaced nobody reports, and one that was merely starved comes back sooner by itself."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class WatchdogGuard:
    """Asks for a safe stop while the watchdog is gone, and ends one that hangs."""

    def __init__(self, node: PerceptionNode) -> None:
        """Listen to its heartbeats."""
        self._node = node
        self._records = channels.record_reader(node.endpoint, node.settings.camera, ROLE)
        self._roster = Roster({ROLE: 1}, open_process)
        self._known = False
        self._topics: list[Any] = []
        self._checked_ns = time.monotonic_ns()

    def update(self) -> None:
        """Look after it; to be called every few milliseconds."""
        now_ns = time.monotonic_ns()
        if now_ns - self._checked_ns > self._node.records.patience_ns:
            self._roster.postpone(now_ns)
        self._checked_ns = now_ns
        for record in self._records.records():
            self._roster.hear(ROLE, record)
            self._known = record.kind != RecordKind.LEFT
        self._roster.update(now_ns)
        for member in self._roster.members.values():
            if member.hung and now_ns - member.heard_ns > KILLED_AFTER_NS:
                member.handle.kill()
        missing = self._known and not self._roster.present(ROLE)
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
        healths = self._node.create_publisher(HealthMessage, "/perception/health", LATCHED)
        stops = self._node.create_publisher(Bool, "/perception/safe_stop", LATCHED)
        self._topics = [healths, stops]
        stamp = self._node.get_clock().now().to_msg()
        unsafe = HealthMode.UNSAFE
        message = HealthMessage(stamp=stamp, mode=unsafe, previous_mode=unsafe, cause=cause)
        message.silent_processes = [ROLE]
        healths.publish(message)
        stops.publish(Bool(data=True))
