"""The accounting and the health of the pipeline, in a process of its own."""

import sys
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from perception_interfaces.msg import FrameReport
from perception_interfaces.msg import Health as HealthMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool

from perception_nodes.config import WatchdogSettings
from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.core.health import Health, HealthLimits, HealthMode, Transition
from perception_nodes.core.ledger import Ledger
from perception_nodes.nodes.base import PerceptionNode, Period, run_node
from perception_nodes.transport import channels
from perception_nodes.transport.cdr import write_frame_report
from perception_nodes.transport.shm import Reader

WATCHED = ("detector", "preprocess")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REPORTS = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""A listener that comes late, or back, gets the reports it has missed."""
WAIT_MS = 20.0
HEALTH_PERIOD_NS = 100_000_000
DIAGNOSTICS_PERIOD_NS = 1_000_000_000
LEVELS = {
    HealthMode.NOMINAL: DiagnosticStatus.OK,
    HealthMode.DEGRADED: DiagnosticStatus.WARN,
    HealthMode.SKIPPING: DiagnosticStatus.WARN,
    HealthMode.UNSAFE: DiagnosticStatus.ERROR,
}


class WatchdogNode(PerceptionNode):
    """Reports every frame once, and how far the detections can be relied on."""

    settings_type = WatchdogSettings

    def open(self) -> None:
        """Join the channels, announce the topics."""
        settings: WatchdogSettings = self.settings
        now_ns = time.monotonic_ns()
        self._ledger = Ledger(round(settings.outcome_timeout_ms * 1e6))
        limits = HealthLimits(
            unsafe_after_ms=settings.unsafe_after_ms,
            degraded_miss_rate=settings.degraded_miss_rate,
        )
        self._health = Health(limits, now_ns)
        self._readers: dict[str, Reader[FrameRecord]] = {
            name: channels.record_reader(self.endpoint, settings.camera, name) for name in WATCHED
        }
        self._last_heard_ns = dict.fromkeys(WATCHED, 0)
        self._next_record = dict.fromkeys(WATCHED, 0)
        self._records_lost = 0
        self._safe_stop: bool | None = None
        self._health_period = Period(HEALTH_PERIOD_NS)
        self._diagnostics_period = Period(DIAGNOSTICS_PERIOD_NS)
        self._reports = self.add_publisher(FrameReport, "/perception/frame_report", REPORTS)
        self._healths = self.add_publisher(HealthMessage, "/perception/health", LATCHED)
        self._safe_stops = self.add_publisher(Bool, "/perception/safe_stop", LATCHED)
        self._diagnostics = self.add_publisher(DiagnosticArray, "/diagnostics", 10)

    def step(self) -> None:
        """Read the records, close frames, judge the health, publish."""
        self._readers["detector"].wait(WAIT_MS)
        now_ns = time.monotonic_ns()
        # Detectors first: an entry is recorded before its outcome, so that no outcome is met whose
        # entry is still unread.
        records = [record for name in WATCHED for record in self._read(name, now_ns)]
        closed = self._ledger.take(records)
        closed += self._ledger.expire(now_ns)
        for record in closed:
            self._health.frame(FrameStatus(record.status), now_ns)
            self._reports.publish(write_frame_report(record))
        self._silent = self._silent_processes(now_ns)
        transition = self._health.update(self._silent, now_ns)
        if self._health_period.due() or transition is not None:
            self._publish_health(transition)
        if self._diagnostics_period.due() or transition is not None:
            self._publish_diagnostics()

    def _read(self, name: str, now_ns: int) -> list[FrameRecord]:
        records = self._readers[name].records()
        for record in records:
            if record.record > self._next_record[name]:
                # The first record read may be a late one: a watchdog can start after the others.
                if self._last_heard_ns[name]:
                    self._records_lost += record.record - self._next_record[name]
            self._next_record[name] = record.record + 1
            self._last_heard_ns[name] = now_ns
        return records

    def _silent_processes(self, now_ns: int) -> list[str]:
        oldest_ns = now_ns - self.settings.heartbeat_timeout_ms * 1e6
        return [name for name in WATCHED if self._last_heard_ns[name] < oldest_ns]

    def _publish_health(self, transition: Transition | None) -> None:
        mode = self._health.mode
        counts = {status.name.lower(): n for status, n in self._ledger.counts.items()}
        self._healths.publish(
            HealthMessage(
                stamp=self.get_clock().now().to_msg(),
                mode=mode,
                previous_mode=mode if transition is None else transition.previous,
                cause=self._health.cause,
                frames_in=self._ledger.frames_in,
                in_flight=self._ledger.in_flight,
                reports_lost=self._records_lost,
                silent_processes=self._silent,
                **counts,
            )
        )
        if self._safe_stop != (mode == HealthMode.UNSAFE):
            self._safe_stop = mode == HealthMode.UNSAFE
            self._safe_stops.publish(Bool(data=self._safe_stop))
        if transition is not None:
            self.get_logger().info(f"{transition.previous.name} -> {mode.name}: {transition.cause}")

    def _publish_diagnostics(self) -> None:
        values = {status.name: n for status, n in self._ledger.counts.items()}
        values |= {
            "frames_in": self._ledger.frames_in,
            "in_flight": self._ledger.in_flight,
            "records_lost": self._records_lost,
        }
        status = DiagnosticStatus(
            level=LEVELS[self._health.mode],
            name=f"perception/{self.settings.camera}",
            message=f"{self._health.mode.name}: {self._health.cause}",
            hardware_id=self.settings.camera,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def main() -> int:
    """Entry point."""
    return run_node(WatchdogNode, "watchdog_node")


if __name__ == "__main__":
    sys.exit(main())
