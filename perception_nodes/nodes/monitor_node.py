"""Records a graph's outputs and shows them live, as any subscriber can."""

import sys
import time
from functools import partial
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from perception_interfaces.msg import FrameReport, Health, Protected, Tracks
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray

from perception_nodes.core.health import HealthMode
from perception_nodes.drives.schemas import PROTECTED
from perception_nodes.graph.config import MonitorSettings
from perception_nodes.graph.topics import FRAME_REPORTS, HEALTH, SAFE_STOP, TRACKS, protected
from perception_nodes.nodes.base import IDLE_WAIT_MS, REPORTS, PerceptionNode
from perception_nodes.nodes.running import run_node
from perception_nodes.report.recording import (
    DETECTIONS_TOPIC,
    DIAGNOSTICS_TOPIC,
    FRAME_REPORT_TOPIC,
    HEALTH_TOPIC,
    SAFE_STOP_TOPIC,
    TRACKS_TOPIC,
    Recorder,
)
from perception_nodes.report.screen import LiveView

DETECTIONS = QoSProfile(depth=100)
LAST_WAIT_MS = 200.0
LAST_WAITS_S = 3.0
"""The longest wait for last messages: others may go on publishing, and a process that has not ended
after five seconds is killed, before it has completed its recording."""
STATES = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class MonitorNode(PerceptionNode):
    """Subscribes to what the graph publishes, but for pictures."""

    settings_type = MonitorSettings
    niceness = 10
    _recorder: Recorder | None
    _view: LiveView | None
    _taken = 0

    def open(self) -> None:
        """Subscribe, open the recording and the view."""
        settings: MonitorSettings = self.settings
        self._recorder = None
        if settings.recording:
            self._recorder = self.own(Recorder(Path(settings.recording)))
        self._view = None
        if settings.live:
            self._view = self.owned.enter_context(LiveView(settings.deadline_ms, settings.frames))
        topics = [
            (Detection2DArray, settings.detections_topic, self._on_detections, DETECTIONS),
            (FrameReport, FRAME_REPORTS, self._on_report, REPORTS),
            (Health, HEALTH, self._on_health, STATES),
            (Bool, SAFE_STOP, self._on_safe_stop, STATES),
            (Tracks, TRACKS, self._on_tracks, DETECTIONS),
            (DiagnosticArray, DIAGNOSTICS_TOPIC, self._on_diagnostics, DETECTIONS),
        ]
        for kind, topic, callback, qos in topics:
            name = topic if topic == DIAGNOSTICS_TOPIC else settings.topic_of(topic)
            self.add_subscription(kind, name, callback, qos)
        protected_too = (settings.detections_topic, HEALTH, SAFE_STOP)
        for topic in protected_too if settings.record_protected else ():
            self._record_protected(protected(settings.topic_of(topic)))

    def _record_protected(self, topic: str) -> None:
        """Record a topic under its full name, by which its messages are told apart."""

        def take(data: bytes) -> None:
            self._take(subscription.topic_name, PROTECTED, data)

        subscription = self.add_subscription(Protected, topic, take, REPORTS)

    def close(self) -> None:
        """Take the last messages."""
        taken, give_up_s = -1, time.monotonic() + LAST_WAITS_S
        while self._taken != taken and time.monotonic() < give_up_s:
            taken = self._taken
            self.spin(LAST_WAIT_MS)

    def step(self) -> None:
        """Take messages, refresh the view."""
        self.spin(IDLE_WAIT_MS)
        if self._view is not None:
            self._view.render()

    def _on_detections(self, data: bytes) -> None:
        self._take(DETECTIONS_TOPIC, "vision_msgs/msg/Detection2DArray", data)
        if self._view is not None:
            found = deserialize_message(data, Detection2DArray).detections
            self._view.detections(one.results[0].hypothesis.class_id for one in found)

    def _on_report(self, data: bytes) -> None:
        self._take(FRAME_REPORT_TOPIC, "perception_interfaces/msg/FrameReport", data)
        if self._view is not None:
            self._view.frame(deserialize_message(data, FrameReport))

    def _on_health(self, data: bytes) -> None:
        self._take(HEALTH_TOPIC, "perception_interfaces/msg/Health", data)
        if self._view is not None:
            health = deserialize_message(data, Health)
            self._view.health(HealthMode(health.mode).name, health.cause)

    def _on_safe_stop(self, data: bytes) -> None:
        self._take(SAFE_STOP_TOPIC, "std_msgs/msg/Bool", data)

    def _on_diagnostics(self, data: bytes) -> None:
        self._take(DIAGNOSTICS_TOPIC, "diagnostic_msgs/msg/DiagnosticArray", data)

    def _on_tracks(self, data: bytes) -> None:
        self._take(TRACKS_TOPIC, "perception_interfaces/msg/Tracks", data)

    def _take(self, topic: str, type_name: str, data: bytes) -> None:
        self._taken += 1
        if self._recorder is not None:
            self._recorder.write(topic, type_name, time.time_ns(), data)


main = partial(run_node, MonitorNode, "monitor_node")

if __name__ == "__main__":
    sys.exit(main())
