"""Watches frames, clocks and memory: facts in, present faults out."""

from collections.abc import Collection, Mapping, Sequence

from perception_nodes.core import frame
from perception_nodes.core.budget import STAGES, Budget
from perception_nodes.core.failover import MS
from perception_nodes.core.health import HealthMode
from perception_nodes.core.records import Changed, InputState, Takeover, WatchdogGone
from perception_nodes.watchdog import faults
from perception_nodes.watchdog.ledger import Ledger

OF_RECORDS = ("records", "stamp", "camera clock", "camera images", "takeover", "watchdog")
"""Faults of an instant that records show."""


class Watch:
    """Keeps what each class of faults has found last; counts takeovers."""

    def __init__(self, budget: Budget, limits: faults.FaultLimits) -> None:
        self._limits = limits
        self._no_frame = faults.NoFrame(limits)
        self._input = faults.InputTrouble()
        self._frozen = faults.FrozenPicture(limits)
        self._stamp = faults.WrongStamp()
        self._clock = faults.ClockJump(limits)
        self._rate = faults.FrameRateLoss(limits)
        self._drift = faults.LatencyDrift(limits)
        self._transport = faults.SlowTransport(budget.deadline_ms, limits)
        self._network = faults.SlowNetwork(budget, limits)
        self._expected_rate = faults.ExpectedRate(limits)
        self._nothing_found = faults.NothingFound(limits)
        self._vanished = faults.ObjectsVanished(limits)
        self._starvation = faults.Starvation(limits)
        overrun = faults.StageOverrun
        self._stages = {one: overrun(one, getattr(budget, one), limits) for one in STAGES}
        self._memory: dict[tuple[str, int], faults.MemoryGrowth] = {}
        self._hold_ns = round(limits.hold_ms * MS)
        self._held_until_ns: dict[str, int] = {}
        self._last_entered, self._taker = (0, 0), 0
        # This comes first, since it causes other faults that are as bad.
        self._present: dict[str, faults.Fault | None] = {"camera input": None}
        self._repeated_outcomes = 0
        self._records_lost = 0
        self.takeovers = 0

    @property
    def median_ms(self) -> float:
        """Median latency of the last published frames without second looks; NaN before any."""
        return self._drift.median_ms

    @property
    def starved(self) -> int:
        """How often we woke too late to judge other processes."""
        return self._starvation.count

    def record(self, record: frame.Record) -> None:
        """Take a record; each record only once."""
        now_ns = record.sent_ns
        if isinstance(record, frame.FrameRecord):
            if record.kind == frame.RecordKind.ENTERED:
                self._entered(record, now_ns)
        elif isinstance(record, InputState):
            why = record.trouble.decode(errors="replace")
            self._present["camera input"] = self._input.said(why, self._no_frame.none_comes(now_ns))
        elif isinstance(record, Changed):
            text = record.change.decode(errors="replace")
            self._hold("camera images", faults.Fault("camera images", text), now_ns)
        elif isinstance(record, Takeover) and record.predecessor:
            self.takeovers += 1
            text = record.reason.decode(errors="replace")
            self._hold("takeover", faults.Fault("takeover", text, HealthMode.DEGRADED), now_ns)
        elif isinstance(record, WatchdogGone):
            text = f"the watchdog was gone: {record.cause.decode(errors='replace')}"
            self._hold("watchdog", faults.Fault("watchdog", text, HealthMode.UNSAFE), now_ns)

    def _entered(self, record: frame.FrameRecord, now_ns: int) -> None:
        # A successor repeats what its predecessor entered last.
        repeated = (record.incarnation, record.sequence) == self._last_entered
        self._last_entered = (record.incarnation, record.sequence)
        if repeated:
            return
        self._taker = record.process
        self._no_frame.frame(record.ingested_ns)
        self._present["camera input"] = self._input.frame()
        self._present["frame rate"] = self._rate.update(record.ingested_ns)
        self._present["expected rate"] = self._expected_rate.update(record.ingested_ns)
        self._hold("stamp", self._stamp.update(record.stamp_ns), now_ns)
        if record.stamp_ns:  # otherwise perhaps it could not be read
            self._hold("camera clock", faults.suspect_stamp(record), now_ns)

    def report(self, report: frame.FrameRecord) -> None:
        """Take the report of a frame that has ended."""
        self._present["frozen picture"] = self._frozen.update(report.picture)
        self._present["transport"] = self._transport.update(report)
        self._present["slow network"] = self._network.update(report)
        for stage, duration_ms in frame.stage_durations_ms(report).items():
            self._present[f"{stage} overrun"] = self._stages[stage].update(duration_ms)
        if report.published_ns:
            self._present["nothing found"] = self._nothing_found.update(report.detections)
            vanished = self._vanished.update(report.detections, report.published_ns)
            self._present["objects vanished"] = vanished
            if not report.stamp_ns:  # the frame was read, so the camera sent it like this
                self._hold("camera clock", faults.suspect_stamp(report), report.published_ns)
        total_ms = frame.latency_ms(report)
        if total_ms is not None and report.status != frame.FrameStatus.DEGRADED:
            self._present["latency drift"] = self._drift.update(total_ms - frame.looks_ms(report))

    def tick(self, asked_ns: int, now_ns: int, realtime_ns: int, ledger: Ledger) -> bool:
        """Check the clocks and the accounts.

        Args:
            asked_ns: the latest time at which we wanted to be called.
            now_ns: CLOCK_MONOTONIC.
            realtime_ns: nanoseconds since the Unix epoch at the same moment.
            ledger: the accounts.

        Returns:
            Whether we were called in time.
        """
        starved = self._starvation.update(asked_ns, now_ns)
        self._hold("starved", starved, now_ns)
        self._hold("clock", self._clock.update(now_ns, realtime_ns), now_ns)
        unbalanced = None
        if not ledger.balanced:
            text = f"{ledger.frames_in} frames in are not the sum of outs and in flight"
            unbalanced = faults.Fault("accounting", text, HealthMode.UNSAFE)
        self._present["accounting"] = unbalanced
        again = ledger.repeated_outcomes - self._repeated_outcomes
        self._repeated_outcomes = ledger.repeated_outcomes
        if again:
            text = f"{again} frames that were reported as lost have had an outcome afterwards"
            self._hold("records", faults.Fault("records", text, HealthMode.DEGRADED), now_ns)
        lost, self._records_lost = ledger.records_lost - self._records_lost, ledger.records_lost
        if lost:
            text = f"{lost} records were lost on the way to the watchdog"
            self._hold("records", faults.Fault("records", text, HealthMode.DEGRADED), now_ns)
        for name in OF_RECORDS:
            self._hold(name, None, now_ns)
        return starved is None

    def camera(self, now_ns: int, silent: Collection[int] = ()) -> None:
        """Check whether frames come; to be called after all records that have come were taken.

        Args:
            now_ns: CLOCK_MONOTONIC.
            silent: numbers of the processes whose next sign of life is overdue.
        """
        taker = self._taker
        self._present["no frame"] = self._no_frame.update(now_ns, taker if taker in silent else 0)

    def foreign(self, publishers: str) -> None:
        """Take who else publishes the graph's topics; empty if nobody does."""
        text = f"published by others, too: {publishers}"
        found = faults.Fault("foreign publisher", text, HealthMode.DEGRADED)
        self._present["foreign publisher"] = found if publishers else None

    def memory(self, rss_bytes: Mapping[tuple[str, int], int], now_ns: int) -> None:
        """Take the resident memory of all processes that are there, by role and number.

        A role has one fault for all its processes, since faults are collected by name.
        """
        before, self._memory = self._memory, {}
        found: dict[str, faults.Fault | None] = {role: None for role, _ in before}
        for (role, process), size_bytes in rss_bytes.items():
            name = (role, process)
            growth = before.get(name) or faults.MemoryGrowth(f"{role} {process}", self._limits)
            self._memory[name] = growth
            fault = growth.update(size_bytes, now_ns)
            found[role] = found.get(role) or fault
        self._present |= {f"{role} memory": fault for role, fault in found.items()}

    def statuses(self) -> dict[str, faults.Fault | None]:
        """Each fault that is watched for by name, None if it is not present."""
        return self._present

    def present(self) -> Sequence[faults.Fault]:
        """The faults that are present."""
        return [fault for fault in self._present.values() if fault is not None]

    def _hold(self, name: str, fault: faults.Fault | None, now_ns: int) -> None:
        """Keep a fault that lasts for an instant present for a while, so that it is seen."""
        if fault is not None:
            self._present[name], self._held_until_ns[name] = fault, now_ns + self._hold_ns
        elif now_ns > self._held_until_ns.get(name, 0):
            self._present[name] = None
