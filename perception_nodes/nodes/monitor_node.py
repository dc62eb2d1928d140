"""Records a graph's outputs and shows them live, as any subscriber can."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from perception_interfaces.msg import FrameReport, Health, Protected, Tracks
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray

from perception_nodes.core.health import HealthMode, Phase
from perception_nodes.graph.config import MonitorSettings
from perception_nodes.graph.topics import FRAME_REPORTS, HEALTH, SAFE_STOP, TRACKS, protected
from perception_nodes.nodes.base import IDLE_WAIT_MS, REPORTS, PerceptionNode
from perception_nodes.report.recording import DETECTIONS_TOPIC, DIAGNOSTICS_TOPIC, Recorder
from perception_nodes.report.screen import LiveView

Show = Callable[[LiveView, Any], None] | None
MANY = QoSProfile(depth=100)
LAST_WAIT_MS = 200.0
LAST_WAITS_S = 3.0
"""The longest wait for last messages. Others may go on publishing, and a process that has not ended
after five seconds is killed before it has completed its recording."""
STATES = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class MonitorNode(PerceptionNode):
    """Subscribes to all that the graph publishes except pictures."""

    settings_type = MonitorSettings
    niceness = 10
    _recorder: Recorder | None
    _view: LiveView | None
    _taken = 0

    def open(self) -> None:
        """Subscribe, open the recording and the view."""
        settings: MonitorSettings = self.settings
        self._recorder = None
        self._view = None
        if settings.live:
            self._view = self.owned.enter_context(LiveView(settings.deadline_ms, settings.frames))
        for kind, topic, show, qos in (
            (FrameReport, FRAME_REPORTS, LiveView.frame, REPORTS),
            (Health, HEALTH, self._show_health, STATES),
            (Bool, SAFE_STOP, None, STATES),
            (Tracks, TRACKS, None, MANY),
        ):
            self._hear(kind, settings.topic_of(topic), f"/{topic}", show, qos)
        topic = settings.topic_of(settings.detections_topic)
        self._hear(Detection2DArray, topic, DETECTIONS_TOPIC, self._show_found, REPORTS)
        self._hear(DiagnosticArray, DIAGNOSTICS_TOPIC, DIAGNOSTICS_TOPIC, None, MANY)
        for topic in (settings.detections_topic, HEALTH, SAFE_STOP):
            if settings.record_protected:
                name = protected(settings.topic_of(topic))
                # The full name identifies the messages; ROS would remap it once more.
                self._hear(Protected, name, self.resolve_topic_name(name), None, REPORTS)
        # What is owned last is closed first: Fast DDS can hang for ever in destroying a
        # subscription (its issue 6502), and the recording must be whole before.
        if settings.recording:
            self._recorder = self.own(Recorder(Path(settings.recording)))

    def _hear(self, kind: type, topic: str, recorded_as: str, show: Show, qos: QoSProfile) -> None:
        self.add_subscription(kind, topic, partial(self._take, kind, recorded_as, show), qos)

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

    def _take(self, kind: type, topic: str, show: Show, data: bytes) -> None:
        self._taken += 1
        if self._recorder is not None:
            package = kind.__module__.partition(".")[0]
            self._recorder.write(topic, f"{package}/msg/{kind.__name__}", time.time_ns(), data)
        if self._view is not None and show is not None:
            show(self._view, deserialize_message(data, kind))

    @staticmethod
    def _show_found(view: LiveView, found: Detection2DArray) -> None:
        view.detections(one.results[0].hypothesis.class_id for one in found.detections)

    @staticmethod
    def _show_health(view: LiveView, health: Health) -> None:
        view.health(HealthMode(health.mode), health.cause, Phase(health.phase))


if __name__ == "__main__":
    MonitorNode.main()
