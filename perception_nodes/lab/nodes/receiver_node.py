"""Receives detections as a planner would, and records when they arrive."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from perception_interfaces.msg import FrameReport
from rclpy.serialization import deserialize_message
from vision_msgs.msg import Detection2DArray

from perception_nodes.core.frame import FrameStatus
from perception_nodes.graph.topics import FRAME_REPORTS
from perception_nodes.lab.graphs import ReceiverSettings
from perception_nodes.nodes.base import IDLE_WAIT_MS, REPORTS, PerceptionNode
from perception_nodes.nodes.running import run_node
from perception_nodes.system.files import write_whole
from perception_nodes.system.realtime import RANKS
from perception_nodes.transport import channels
from perception_nodes.transport.cdr import NS_PER_S
from perception_nodes.transport.cdr_reader import read_stamp
from perception_nodes.transport.cdr_writer import FRAME_REPORT_FIELDS


class ReceiverNode(PerceptionNode):
    """Receives frame reports, and detections from the topic or from shared memory."""

    settings_type = ReceiverSettings
    rank = RANKS["camera"]  # a planner that is starved would be measured otherwise

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
            FrameReport, settings.topic_of(FRAME_REPORTS), self._reports.append, REPORTS
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
        content = {"arrivals": self._arrivals, "reports": [_plain(report) for report in reports]}
        write_whole(Path(self.settings.received_file), json.dumps(content))


def _plain(report: FrameReport) -> dict[str, Any]:
    """The fields of a report as JSON holds them, its status by name, its header as `stamp_ns`."""
    fields = {name: getattr(report, name) for _, name in FRAME_REPORT_FIELDS}
    stamp = report.header.stamp
    return fields | {
        "status": FrameStatus(report.status).name,
        "stamp_ns": stamp.sec * NS_PER_S + stamp.nanosec,
    }


def main() -> int:
    """Entry point."""
    return run_node(ReceiverNode, "receiver_node")


if __name__ == "__main__":
    sys.exit(main())
