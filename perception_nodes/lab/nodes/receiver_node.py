"""Receives detections as a planner would, and records when they arrive."""

import time
from pathlib import Path

from perception_interfaces.msg import FrameReport
from vision_msgs.msg import Detection2DArray

from perception_nodes.core.frame import Detections
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.graph.topics import FRAME_REPORTS
from perception_nodes.lab.graphs import ReceiverSettings
from perception_nodes.nodes.base import IDLE_WAIT_MS, REPORTS, PerceptionNode
from perception_nodes.report.recording import DETECTIONS_TOPIC, FRAME_REPORT_TOPIC, Recorder
from perception_nodes.system.realtime import RANKS
from perception_nodes.transport import channels
from perception_nodes.transport.cdr_reader import read_stamp
from perception_nodes.transport.cdr_writer import write_detection_array

LAST_WAIT_MS = 200.0


class ReceiverNode(PerceptionNode):
    """Receives frame reports, and detections from the topic or from shared memory.

    It keeps what it receives in memory, and writes the recording when it is stopped.
    """

    settings_type = ReceiverSettings
    rank = RANKS["camera"]  # otherwise a starved planner would be measured

    def open(self) -> None:
        """Subscribe."""
        settings: ReceiverSettings = self.settings
        self._arrivals: list[tuple[int, int]] = []
        self._reports: list[tuple[int, bytes]] = []
        self._shared = None
        if settings.source == "shm":
            self._shared = channels.detection_reader(self.endpoint, settings.camera)
        else:
            topic = settings.topic_of(settings.detections_topic)
            self.add_subscription(Detection2DArray, topic, self._on_detections, 10)
        reports = settings.topic_of(FRAME_REPORTS)
        self.add_subscription(FrameReport, reports, self._on_report, REPORTS)

    def step(self) -> None:
        """Wait for detections."""
        if self._shared is None:
            self.spin(IDLE_WAIT_MS)
            return
        self._take_reports(wait_ms=0)
        self._shared.wait(IDLE_WAIT_MS)
        now_ns = time.time_ns()
        self._arrivals += [(now_ns, record.stamp_ns) for record in self._shared.records()]

    def _on_detections(self, data: bytes) -> None:
        self._arrivals.append((time.time_ns(), read_stamp(data)))

    def _on_report(self, data: bytes) -> None:
        self._reports.append((time.time_ns(), data))

    def _take_reports(self, wait_ms: float) -> None:
        count = -1
        while count != len(self._reports):
            count = len(self._reports)
            self.spin(wait_ms)

    def close(self) -> None:
        """Write what was received without the objects, since only their arrival is measured."""
        if not self.settings.recording or not hasattr(self, "_arrivals"):
            return
        self._take_reports(LAST_WAIT_MS)
        with Recorder(Path(self.settings.recording)) as recorder:
            for at_ns, stamp_ns in self._arrivals:
                array = write_detection_array(stamp_ns, b"", Detections.none(), ())
                recorder.write(DETECTIONS_TOPIC, DETECTIONS, at_ns, array)
            for at_ns, data in self._reports:
                recorder.write(FRAME_REPORT_TOPIC, FRAME_REPORT, at_ns, data)


if __name__ == "__main__":
    ReceiverNode.main()
