"""Publishes one camera's account: frame reports, health and diagnostics."""

from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from perception_interfaces.msg import FrameReport
from perception_interfaces.msg import Health as HealthMessage
from rclpy.duration import Duration

from perception_nodes.core.budget import Budget
from perception_nodes.core.health import HealthMode, Phase
from perception_nodes.graph.config import WatchdogSettings
from perception_nodes.graph.topics import FRAME_REPORTS, HEALTH
from perception_nodes.nodes.base import LATCHED, REPORTS, PerceptionNode, Period
from perception_nodes.nodes.diagnostics import diagnostics
from perception_nodes.nodes.foreign_publishers import ForeignPublishers
from perception_nodes.nodes.protected_topic import PERIOD_NS
from perception_nodes.transport.cdr_writer import write_frame_report
from perception_nodes.watchdog.account import Account, AccountSettings, Step
from perception_nodes.watchdog.audience import Audience
from perception_nodes.watchdog.faults import Fault, FaultLimits
from perception_nodes.watchdog.guard import ROLE
from perception_nodes.watchdog.health import HealthLimits

DISCOVERY_NS = 3_000_000_000
"""Reports wait at most this long for a listener after the start, since nobody gets those that are
published before it is there."""
DIAGNOSTICS_PERIOD_NS = 1_000_000_000
DELIVERED_WITHIN = Duration(seconds=0.5)


class AccountTopics:
    """Publishes what an account finds.

    Attributes:
        account: of the camera.
    """

    def __init__(self, node: PerceptionNode, camera: str, now_ns: int) -> None:
        """Open the account and announce the topics; the node's settings are the watchdog's."""
        settings: WatchdogSettings = node.settings
        self._node = node
        self._prefix = f"{camera}: " if settings.cameras else ""
        expected = 2 if settings.standby == "always" else 1
        account = AccountSettings(
            Budget.for_deadline(settings.deadline_ms),
            {"detector": expected, "preprocess": expected},
            max(settings.outcome_timeout_ms, 2 * settings.deadline_ms),
            HealthLimits(
                unsafe_after_ms=settings.unsafe_after_ms,
                unsafe_when_late_ms=settings.unsafe_when_late_ms,
                degraded_miss_rate=settings.degraded_miss_rate,
            ),
            FaultLimits(
                no_frame_ms=settings.no_frame_ms,
                frozen_frames=settings.frozen_frames,
                expected_rate_hz=settings.expected_rate_hz,
            ),
        )
        self.account = node.own(Account(node.endpoint, camera, account, now_ns))
        self._is_slow = False
        self._health_period = Period(PERIOD_NS)
        self._diagnostics_period = Period(DIAGNOSTICS_PERIOD_NS)
        topic = settings.topic_of(FRAME_REPORTS, camera)
        reports = self._reports = node.add_protected(FrameReport, topic, REPORTS, REPORTS)
        self._audience = Audience(now_ns, DISCOVERY_NS, lambda: reports.listeners > 0)
        health = settings.topic_of(HEALTH, camera)
        self._healths = node.add_protected(HealthMessage, health, LATCHED)
        published = (settings.detections_topic, FRAME_REPORTS, HEALTH)
        topics = [settings.topic_of(topic, camera) for topic in published]
        self._foreign = ForeignPublishers(node, [*topics, settings.safe_stop_topic])
        self._diagnostics = node.add_publisher(DiagnosticArray, "/diagnostics", 10)

    @property
    def listeners(self) -> int:
        """Subscribers to the camera's health."""
        return self._healths.listeners

    def step(self, now_ns: int, due_ns: int, speaks: bool) -> Step:
        """Bring the account up to date and publish what is due; see `Account.step`.

        Args:
            now_ns: CLOCK_MONOTONIC.
            due_ns: the latest time at which we wanted to be called.
            speaks: whether we publish health, as no other process does.
        """
        self.account.watch.foreign(self._foreign.look())
        step = self.account.step(now_ns, due_ns)
        for member in step.died:
            self._node.get_logger().error(f"{self._prefix}{member} died")
        if step.early:
            text = f"{step.early} frames came before the graph was ready"
            self._node.get_logger().info(self._prefix + text)
        if step.failure:
            self._node.get_logger().error(f"{self._prefix}{step.failure}")
        if self._audience.hears(now_ns):
            self.publish_reports()
        slow = next((fault.text for fault in step.faults if fault.name == "transport"), "")
        if slow and not self._is_slow:
            self._node.get_logger().warning(self._prefix + slow)
        self._is_slow = bool(slow)
        if step.transition is not None:
            mode, cause = step.transition.mode.name, step.transition.cause
            previous = step.transition.previous.name
            self._node.get_logger().info(f"{self._prefix}{previous} -> {mode}: {cause}")
        if speaks and (self._health_period.due() or step.changed):
            self._publish_health(step.faults, self.account.phase)
        if self._diagnostics_period.due() or step.changed:
            message = diagnostics(self.account)
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._diagnostics.publish(message)
        return step

    def pause(self) -> None:
        """Publish what waits, and that nobody watches, which an active detector then repeats."""
        self.publish_reports()
        self._tell_health(
            mode=HealthMode.UNSAFE,
            previous_mode=self.account.health.mode,
            cause="the watchdog is deactivated",
            phase=Phase.STOPPING,
            silent_processes=[ROLE],
        )

    def publish_reports(self) -> None:
        """Publish all waiting reports."""
        for report in self.account.reports():
            self._reports.publish_report(write_frame_report(report))

    def end(self) -> None:
        """Publish the last reports, and wait until those who listen have them."""
        self.account.end()
        self.publish_reports()
        self._publish_health((), Phase.STOPPING)
        self._reports.wait_for_all_acked(DELIVERED_WITHIN)

    def _publish_health(self, faults: Sequence[Fault], phase: Phase) -> None:
        account, notes = self.account, self._node.notes
        shares = account.models.shares()
        self._tell_health(
            mode=account.health.mode,
            previous_mode=account.health.previous,
            cause=account.health.cause,
            faults=[fault.text for fault in faults],
            silent_processes=account.roster.missing(),
            phase=phase,
            model_names=list(shares),
            model_shares=list(shares.values()),
            configuration_hash=notes.configuration_hash(),
            changed_parameters=notes.changed(),
            log_lines_dropped=notes.log_lines_dropped,
        )

    def _tell_health(self, **facts: Any) -> None:
        """What health says of frames."""
        ledger, stamp = self.account.ledger, self._node.get_clock().now().to_msg()
        facts |= {status.name.lower(): number for status, number in ledger.counts.items()}
        facts |= {"frames_in": ledger.frames_in, "in_flight": ledger.in_flight}
        facts["reports_lost"] = ledger.records_lost
        self._healths.publish_state(HealthMessage(stamp=stamp, **facts))
