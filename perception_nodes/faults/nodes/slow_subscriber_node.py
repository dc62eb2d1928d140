"""A subscriber that cannot keep up; the graph must not suffer from it."""

import time

from perception_interfaces.msg import FrameReport, Health
from rclpy.qos import DurabilityPolicy, QoSProfile
from vision_msgs.msg import Detection2DArray

from perception_nodes.faults.graphs import SlowSubscriberSettings
from perception_nodes.graph.topics import FRAME_REPORTS, HEALTH
from perception_nodes.nodes.base import IDLE_WAIT_MS, REPORTS, PerceptionNode

# Reliability and a long history are the most that a subscriber can demand of a publisher.
DEMANDING = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class SlowSubscriberNode(PerceptionNode):
    """Sleeps in every callback; at the first one it prints a line."""

    settings_type = SlowSubscriberSettings
    _has_told = False

    def open(self) -> None:
        """Subscribe."""
        topic, detections = self.settings.topic_of, self.settings.detections_topic
        self.add_subscription(Detection2DArray, topic(detections), self._on_any, 1000)
        report, health = topic(FRAME_REPORTS), topic(HEALTH)
        self.add_subscription(FrameReport, report, self._on_any, REPORTS)
        self.add_subscription(Health, health, self._on_any, DEMANDING)

    def step(self) -> None:
        """Wait for a message."""
        self.spin(IDLE_WAIT_MS)

    def _on_any(self, data: bytes) -> None:
        if not self._has_told:
            self._has_told = True
            print("listening", flush=True)
        time.sleep(self.settings.delay_ms / 1e3)


if __name__ == "__main__":
    SlowSubscriberNode.main()
