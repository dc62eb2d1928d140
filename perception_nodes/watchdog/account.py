"""The accounting and the health of one camera's frames."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from perception_nodes.core.budget import Budget
from perception_nodes.core.failover import SUPERVISOR_SILENT_NS
from perception_nodes.core.frame import PUBLISHED, FrameRecord, FrameStatus, Record
from perception_nodes.core.health import HealthMode, Phase
from perception_nodes.system.life import is_supervised
from perception_nodes.system.processes import was_alive
from perception_nodes.transport.claim import silence_ns
from perception_nodes.transport.domain import open_ours
from perception_nodes.transport.shm import Endpoint
from perception_nodes.watchdog.book import KeptBook
from perception_nodes.watchdog.detectors import DetectorTenure
from perception_nodes.watchdog.failures import Failures
from perception_nodes.watchdog.faults import Fault, FaultLimits
from perception_nodes.watchdog.health import Health, HealthLimits, Transition, phase_of
from perception_nodes.watchdog.inbox import Inbox
from perception_nodes.watchdog.ledger import NO_DETECTOR, Ledger
from perception_nodes.watchdog.liveness import Member, Roster
from perception_nodes.watchdog.model_shares import ModelShares
from perception_nodes.watchdog.watch import Watch

JOURNAL_NS = 10_000_000_000
"""A dead process's journal is kept for at least this long: all its frames are reported by then."""
MEMORY_PERIOD_NS = 1_000_000_000


@dataclass(frozen=True)
class AccountSettings:
    """Settings of an account.

    Attributes:
        budget: deadline and stages of a frame.
        processes: how many processes of each role there should be. The detectors come first: their
            channel is read first, so that no outcome is read before its entry.
        outcome_timeout_ms: frames without an outcome for longer are closed.
        health: limits of the modes.
        faults: limits of the faults.
    """

    budget: Budget
    processes: Mapping[str, int]
    outcome_timeout_ms: float
    health: HealthLimits
    faults: FaultLimits


@dataclass(frozen=True)
class Step:
    """What a step of an account has found.

    Attributes:
        on_time: whether we were called in time ourselves.
        died: processes that have died since the step before.
        transition: the change of mode, None if there is none.
        faults: all faults that are present.
        changed: whether the mode or the set of faults has changed.
        failure: a line about failed frames to log, empty if there is none now.
        early: how many frames came before the graph was ready; told once, when it is.
    """

    on_time: bool
    died: tuple[Member, ...]
    transition: Transition | None
    faults: tuple[Fault, ...]
    changed: bool
    failure: str
    early: int


class Account:
    """Closes each of a camera's frames once, and judges how far its detections can be relied on.

    Attributes:
        camera: its name.
        ledger: its frames.
        health: its mode.
        watch: its faults, but for missing processes.
        roster: its processes.
        inbox: their records.
        models: which models ran.
    """

    def __init__(
        self, endpoint: Endpoint, camera: str, settings: AccountSettings, now_ns: int
    ) -> None:
        """Join the channels, and go on where the watchdog before us has stopped.

        Args:
            endpoint: our end of shared memory.
            camera: name of the camera.
            settings: limits and expected processes.
            now_ns: CLOCK_MONOTONIC.
        """
        self.camera = camera
        timeout_ns = self._timeout_ns = round(settings.outcome_timeout_ms * 1e6)
        self._late_ns = now_ns - timeout_ns
        self._book = KeptBook(camera, now_ns)
        self.ledger = Ledger(timeout_ns, self._book.pages, camera)
        self.health = Health(settings.health, now_ns)
        self.watch = Watch(settings.budget, settings.faults)
        self.roster = Roster(settings.processes, open_ours)
        kept_for_ns = max(JOURNAL_NS, 2 * timeout_ns)
        self.inbox = Inbox(endpoint, camera, self.roster.roles, kept_for_ns, self.ledger.told)
        self._recovered = self.inbox.recover(now_ns)
        self.roster.postpone(now_ns)  # count the silence of processes from now on
        self._failures = Failures()
        self._early = 0
        self._is_ready = any(self.ledger.counts[status] for status in PUBLISHED)
        self._outbox: deque[FrameRecord] = deque()
        self._fault_names: tuple[str, ...] = ()
        self.models = ModelShares()
        self._memory_read_ns = 0

    @property
    def phase(self) -> Phase:
        """Whether detections have been published since the graph started."""
        return phase_of(self.ledger.counts)

    @property
    def unsafe(self) -> bool:
        """Whether the camera's detections cannot be relied on at all."""
        return self.health.mode == HealthMode.UNSAFE

    def close(self) -> None:
        """Leave the account to the next watchdog."""
        del self.ledger
        self._book.close()
        self.inbox.close()
        self.roster.close()

    def step(self, now_ns: int, due_ns: int) -> Step:
        """Read the records, close frames, judge processes and health.

        Args:
            now_ns: CLOCK_MONOTONIC.
            due_ns: the latest time at which we wanted to be called.
        """
        silent = self.roster.silent()
        realtime_ns = time.time_ns() - (time.monotonic_ns() - now_ns)
        on_time = self.watch.tick(due_ns, now_ns, realtime_ns, self.ledger)
        records = self._read()
        if not on_time:
            self.roster.postpone(now_ns)
        died: list[Member] = []
        # Apply all records together, once no further process is found dead. A successor's records
        # must not come before the last ones of the process that died, nor an outcome before the
        # entry of its frame.
        while dead := self.roster.update(now_ns):
            for member in dead:
                records += self.inbox.last_words(member.role, member.sender)
            died += dead
            records += self._read()
        self.roster.end_hung()
        # Records of a successor may have been read before those of its predecessor.
        records.sort(key=lambda record: (record.sent_ns, record.record))
        for record in records:
            self.watch.record(record)
        self.watch.camera(now_ns, silent)
        closed = self.ledger.take(records)
        for member in died:
            # `now_ns` is too early: frames may have come since then and before the death.
            self.ledger.died(member.sender, time.monotonic_ns())
        working = self.ledger.detector()
        if working is not None and self._died_unseen(working):
            self.ledger.died(working.sender, time.monotonic_ns())
        if not on_time:
            self._late_ns = now_ns
        # If we were stopped, the senders of outcomes perhaps were too: they get twice the time.
        is_late = now_ns < self._late_ns + self._timeout_ns
        closed += self.ledger.expire(now_ns - self._timeout_ns if is_late else now_ns)
        told = []
        for report in closed:
            self.watch.report(report)
            self.models.report(report)
            self._is_ready = self._is_ready or report.status in PUBLISHED
            is_early = not self._is_ready and report.reason == NO_DETECTOR
            self._early += is_early
            told += [] if is_early else [report]
            status, reason = FrameStatus(report.status), report.reason.decode(errors="replace")
            self.health.frame(status, report.published_ns or now_ns, reason, is_early)
        self._outbox += closed
        self.inbox.remove_spent(now_ns)
        if now_ns - self._memory_read_ns >= MEMORY_PERIOD_NS:
            self._memory_read_ns = now_ns
            members = self.roster.members.values()
            self.watch.memory({(m.role, m.pid): m.handle.rss_bytes() for m in members}, now_ns)
        faults = (*self.roster.faults(), *self.watch.present(), *self._supervisor(now_ns))
        transition = self.health.update(faults, now_ns)
        names, before = tuple(fault.name for fault in faults), self._fault_names
        self._fault_names = names
        changed = names != before or transition is not None
        failure = self._failures.update(told, now_ns)
        early = self._early if self._is_ready else 0
        self._early -= early
        return Step(on_time, tuple(died), transition, faults, changed, failure, early)

    def end(self) -> None:
        """Close the frames in flight, if all processes have stopped that could end them."""
        now_ns = time.monotonic_ns()
        self.step(now_ns, now_ns)
        if not self.roster.members:
            self._outbox += self.ledger.end()

    def reports(self) -> Iterator[FrameRecord]:
        """The reports to publish; asking for the next one says that this one is published."""
        while self._outbox:
            self._outbox[0].report_number = self.ledger.reports
            yield self._outbox[0]
            self.ledger.reported(self._outbox.popleft())

    def postpone(self, now_ns: int) -> None:
        """Count silence from now on only, since we were busy with something else."""
        self.roster.postpone(now_ns)

    def _supervisor(self, now_ns: int) -> list[Fault]:
        """A fault while it gives no sign of life."""
        if not is_supervised() or silence_ns(self.camera, now_ns) < SUPERVISOR_SILENT_NS:
            return []
        # Launch gives none, so there the file was removed.
        text = "the supervisor gives no sign of life, or its claim's file was removed: start anew"
        return [Fault("supervisor", text, HealthMode.DEGRADED)]

    def _died_unseen(self, detector: DetectorTenure) -> bool:
        """Whether it is dead and never was a member, as one that died before we started."""
        is_member = any(m.sender == detector.sender for m in self.roster.members.values())
        # If the machine was suspended since, a dead process may count as alive, see `was_alive`.
        suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        return not is_member and not was_alive(detector.process, detector.since_ns + suspended_ns)

    def _read(self) -> list[Record]:
        """Read all new records."""
        records, self._recovered = self._recovered, []
        # Read it before the records, one of which may say that a process has stopped.
        for role, sign in self.inbox.signs():
            self.roster.hear(role, sign)
        for role, record in self.inbox.receive():
            self.roster.hear(role, record)
            records += self.inbox.take(role, record)
        return records
