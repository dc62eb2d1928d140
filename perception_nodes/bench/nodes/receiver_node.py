"""Receives detections as a planner would, and notes when: the far end of a latency measurement."""

import json
import sys
import time
from pathlib import Path

from perception_interfaces.msg import FrameReport
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from vision_msgs.msg import Detection2DArray

from perception_nodes.bench.graphs import ReceiverSettings
from perception_nodes.core.frame import STAMPS, FrameStatus
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode
from perception_nodes.nodes.running import run_node
from perception_nodes.transport import channels
from perception_nodes.transport.cdr import read_stamp

REPORTS = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class ReceiverNode(PerceptionNode):
    """Takes detections from the topic or from shared memory, and frame reports."""

    settings_type = ReceiverSettings

    def open(self) -> None:
        """Subscribe."""
        settings: ReceiverSettings = self.settings
        self._arrivals: list[tuple[int, int]] = []
        self._reports: list[bytes] = []
        self._shared = None
        if settings.source == "shm":
            self._shared = channels.detection_reader(self.endpoint, settings.camera)
        else:
            self.add_subscription(
                Detection2DArray,
                settings.topic_of(settings.detections_topic),
                self._on_detections,
                10,
            )
        self.add_subscription(
            FrameReport, settings.topic_of("perception/frame_report"), self._reports.append, REPORTS
        )

    def step(self) -> None:
        """Wait for detections."""
        if self._shared is None:
            self.spin(IDLE_WAIT_MS)
            return
        self._take_reports(wait_ms=0)
        self._shared.wait(IDLE_WAIT_MS)
        now_ns = time.time_ns()
        self._arrivals += [(record.stamp_ns, now_ns) for record in self._shared.records()]

    def _on_detections(self, data: bytes) -> None:
        now_ns = time.time_ns()
        self._arrivals.append((read_stamp(data), now_ns))

    def _take_reports(self, wait_ms: float) -> None:
        count = -1
        while count != len(self._reports):
            count = len(self._reports)
            self.spin(wait_ms)

    def close(self) -> None:
        """Write what was received."""
        if not self.settings.received_file or not hasattr(self, "_arrivals"):
            return
        self._take_reports(wait_ms=200)
        reports = [deserialize_message(data, FrameReport) for data in self._reports]
        content = {
            "arrivals": self._arrivals,
            "reports": [
                {
                    "status": FrameStatus(report.status).name,
                    "reason": report.reason,
                    "copies": report.copies,
                    "detections": report.detections,
                    "clock_suspect": report.clock_suspect,
                    "stamp_ns": report.header.stamp.sec * 1_000_000_000
                    + report.header.stamp.nanosec,
                    **{name: getattr(report, name) for name in STAMPS},
                }
                for report in reports
            ],
        }
        Path(self.settings.received_file).write_text(json.dumps(content), encoding="utf-8")


def main() -> int:
    """Entry point."""
    return run_node(ReceiverNode, "receiver_node")


if __name__ == "__main__":
    sys.exit(main())
