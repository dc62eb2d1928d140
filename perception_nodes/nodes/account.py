"""The accounting and the health of one camera's frames."""

import time
from collections import deque

from diagnostic_msgs.msg import DiagnosticArray
from perception_interfaces.msg import FrameReport
from perception_interfaces.msg import Health as HealthMessage
from rclpy.qos import DurabilityPolicy, QoSProfile

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.graph.config import WatchdogSettings
from perception_nodes.nodes.base import PerceptionNode, Period
from perception_nodes.nodes.diagnostics import diagnostics
from perception_nodes.system.processes import open_process
from perception_nodes.transport.cdr import write_frame_report
from perception_nodes.watchdog.book import KeptBook
from perception_nodes.watchdog.faults import Fault, FaultLimits, HealthMode
from perception_nodes.watchdog.health import Health, HealthLimits, Transition
from perception_nodes.watchdog.inbox import Inbox
from perception_nodes.watchdog.ledger import Ledger
from perception_nodes.watchdog.liveness import Member, Roster
from perception_nodes.watchdog.watch import Watch

WATCHED = ("detector", "preprocess")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REPORTS = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""A listener that comes late, or back, gets the reports it has missed."""
DISCOVERY_NS = 3_000_000_000
"""After the start reports wait so long for somebody to listen: one that is kept for late listeners
dies with us."""
ACQUAINTANCE_NS = 500_000_000
"""And then so long, since each side discovers the other in its own time: what comes from one that
is not known yet is asked for again only seconds later."""
JOURNAL_NS = 10_000_000_000
"""So long, after a process has died, until all of its frames are reported, and some."""
HEALTH_PERIOD_NS = 100_000_000
SLOW_PERIOD_NS = 1_000_000_000


class Account:
    """Reports each of a camera's frames once, and how far its detections can be relied on.

    Attributes:
        camera: its name.
        inbox: what its processes tell.
    """

    def __init__(self, node: PerceptionNode, camera: str, now_ns: int) -> None:
        """Join the channels, announce the topics; the node's settings are the watchdog's."""
        settings: WatchdogSettings = node.settings
        self._node, self.camera = node, camera
        self._prefix = f"{camera}: " if settings.cameras else ""
        self._book = KeptBook(camera, now_ns)
        self._ledger = Ledger(round(settings.outcome_timeout_ms * 1e6), self._book.pages)
        limits = HealthLimits(
            unsafe_after_ms=settings.unsafe_after_ms,
            degraded_miss_rate=settings.degraded_miss_rate,
        )
        self._health = Health(limits, now_ns)
        self._watch = Watch(
            Budget.for_deadline(settings.deadline_ms),
            FaultLimits(no_frame_ms=settings.no_frame_ms, frozen_frames=settings.frozen_frames),
        )
        self._roster = Roster(
            dict.fromkeys(WATCHED, 2 if settings.standby == "always" else 1), open_process
        )
        kept_for_ns = max(JOURNAL_NS, round(2e6 * settings.outcome_timeout_ms))
        self.inbox = Inbox(node.endpoint, camera, WATCHED, kept_for_ns)
        self._pending = self.inbox.recover(now_ns)
        self._outbox: deque[FrameRecord] = deque()
        self._discovered_ns = now_ns + DISCOVERY_NS
        self._told: tuple[str, ...] = ()
        self._health_period = Period(HEALTH_PERIOD_NS)
        self._diagnostics_period = Period(SLOW_PERIOD_NS)
        self._memory_period = Period(SLOW_PERIOD_NS)
        self._reports = node.add_publisher(
            FrameReport, settings.topic_of("perception/frame_report", camera), REPORTS
        )
        self._healths = node.add_publisher(
            HealthMessage, settings.topic_of("perception/health", camera), LATCHED
        )
        self._diagnostics = node.add_publisher(DiagnosticArray, "/diagnostics", 10)

    @property
    def unsafe(self) -> bool:
        """Whether the camera's detections cannot be relied on at all."""
        return self._health.mode == HealthMode.UNSAFE

    def close(self) -> None:
        """Nobody goes on with this account."""
        del self._ledger
        self._book.close()
        self._roster.close()

    def step(self, now_ns: int, due_ns: int) -> tuple[bool, bool]:
        """Read the records, close frames, judge processes and health, publish.

        Args:
            now_ns: CLOCK_MONOTONIC.
            due_ns: when we wanted to be here at the latest.

        Returns:
            Whether we are on time ourselves, and whether a process has died.
        """
        on_time = self._watch.tick(due_ns, now_ns, time.time_ns(), self._ledger)
        closed = self._ledger.take(self._read())
        if not on_time:
            self._roster.postpone(now_ns)
        died = self._roster.update(now_ns)
        self._roster.end_hung()
        for member in died:
            closed += self._bury(member, now_ns)
        closed += self._ledger.expire(now_ns)
        for record in closed:
            self._watch.report(record)
            self._health.frame(
                FrameStatus(record.status),
                record.published_ns or now_ns,
                record.reason.decode(errors="replace"),
            )
        self._outbox += closed
        if now_ns > self._discovered_ns:
            self.publish_reports()
        elif self._reports.get_subscription_count():
            self._discovered_ns = min(self._discovered_ns, now_ns + ACQUAINTANCE_NS)
        self.inbox.remove_spent(now_ns)
        if self._memory_period.due():
            for member in self._roster.members.values():
                self._watch.memory(str(member), member.handle.rss_bytes(), now_ns)
        self._judge(now_ns)
        return on_time, bool(died)

    def postpone(self, now_ns: int) -> None:
        """We were busy with something else: silence counts from now on only."""
        self._roster.postpone(now_ns)

    def _judge(self, now_ns: int) -> None:
        faults: list[Fault] = [*self._roster.faults(), *self._watch.faults()]
        transition = self._health.update(faults, now_ns)
        told = tuple(fault.name for fault in faults)
        changed, self._told = told != self._told or transition is not None, told
        if self._health_period.due() or changed:
            self._publish_health(transition, [fault.text for fault in faults])
        if self._diagnostics_period.due() or changed:
            self._publish_diagnostics()

    def _read(self) -> list[FrameRecord]:
        """All new records; detectors' first, so that no outcome is met before its entry."""
        records, self._pending = self._pending, []
        for role, record in self.inbox.receive():
            self._roster.hear(role, record)
            self._watch.sent(record)
            records += self.inbox.new([record])
        for record in records:
            self._watch.record(record)
        return records

    def _bury(self, member: Member, now_ns: int) -> list[FrameRecord]:
        """Take leave of a process; gives the reports of frames that its last words close."""
        self._watch.forget(str(member))
        self._node.get_logger().error(f"{self._prefix}{member} died")
        records = self.inbox.last_words(member.role, member.pid, now_ns)
        for record in records:
            self._watch.record(record)
        closed = self._ledger.take(records)
        if member.role == "detector" and not self._roster.present("detector"):
            self._ledger.detector_died(f"{member} died")
        return closed

    def publish_reports(self) -> None:
        """Publish all reports that wait for it."""
        while self._outbox:
            self._reports.publish(write_frame_report(self._outbox[0]))
            self._ledger.reported(self._outbox.popleft())

    def _publish_health(self, transition: Transition | None, faults: list[str]) -> None:
        mode = self._health.mode
        counts = {status.name.lower(): n for status, n in self._ledger.counts.items()}
        self._healths.publish(
            HealthMessage(
                stamp=self._node.get_clock().now().to_msg(),
                mode=mode,
                previous_mode=mode if transition is None else transition.previous,
                cause=self._health.cause,
                faults=faults,
                frames_in=self._ledger.frames_in,
                in_flight=self._ledger.in_flight,
                reports_lost=self._watch.records_lost,
                silent_processes=self._roster.missing(),
                **counts,
            )
        )
        if transition is not None:
            self._node.get_logger().info(
                f"{self._prefix}{transition.previous.name} -> {mode.name}: {transition.cause}"
            )

    def _publish_diagnostics(self) -> None:
        message = diagnostics(self.camera, self._health, self._ledger, self._watch, self._roster)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(message)
