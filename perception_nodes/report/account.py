"""The account of a run: every frame that was sent, and what the listeners know of it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perception_nodes.core.frame import IN_TIME, MAY_BE_OUT, PUBLISHED, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.core.statistics import latency_percentiles
from perception_nodes.report.recording import Recording, ReportedFrame

OUTCOMES = [status.name.lower() for status in FrameStatus]
ON_THE_WAY_NS = 100_000_000
"""A reboot can hit frames that were sent at most this long before it."""
NO_STAMP = "without a stamp"
"""Key, in place of a status, for frames that were dropped before their stamp was read."""
ACCOUNTING = (
    ("frames without a report", "unreported"),
    ("more reports than frames", "surplus"),
    ("reports and detections of frames that were never sent", "unknown"),
    ("detections that were reported as published and never arrived", "missing"),
    ("detections that arrived without a report", "unannounced"),
    ("health messages in which frames in is not the sum of outs and in flight", "unbalanced"),
    ("frames in flight to the end", "in_flight"),
)
"""Quantities of an account that must be 0, with their names for people."""
HostTook = Callable[[int, int], bool]
"""Tells whether the host of a virtual machine had a processor between two times, ns since the
epoch."""


@dataclass(frozen=True)
class HealthMessage:
    """A health message.

    Attributes:
        at_ns: when it arrived.
        mode, cause, faults: as in the message.
        frames_in, outs, in_flight: as in the message; outs is their sum over all statuses.
        by_watchdog: False if another process sent it because the watchdog is dead.
    """

    at_ns: int
    mode: HealthMode
    cause: str = ""
    faults: tuple[str, ...] = ()
    frames_in: int = 0
    outs: int = 0
    in_flight: int = 0
    by_watchdog: bool = True

    @classmethod
    def of_message(cls, at_ns: int, message: Any) -> "HealthMessage":
        """Make it of a deserialized message that arrived at a time."""
        return cls(
            at_ns,
            HealthMode(message.mode),
            message.cause,
            tuple(message.faults),
            message.frames_in,
            sum(getattr(message, name) for name in OUTCOMES),
            message.in_flight,
            by_watchdog="watchdog" not in message.silent_processes,
        )


@dataclass
class Heard:
    """What was sent, and what was heard of it. Times are nanoseconds since the Unix epoch.

    Attributes:
        sent: stamps of the drive's frames, in the order of sending. None for a live camera: only
            reports show its frames.
        warm_up: stamps of the first frames, which are not judged.
        closing: stamps of the frames sent after the end of the drive, by which losses at its end
            are noticed. They must be accounted for, and nothing else is judged by them.
        faults: kind, begin and end of the faults that were put in.
        reports: log times are those of arrival, which order them.
        detections: time of arrival, and stamp of the frame.
        health: in the order of arrival.
    """

    sent: list[int] | None = None
    warm_up: set[int] = field(default_factory=set)
    closing: list[int] = field(default_factory=list)
    faults: list[tuple[str, int, int]] = field(default_factory=list)
    reports: list[ReportedFrame] = field(default_factory=list)
    detections: list[tuple[int, int]] = field(default_factory=list)
    health: list[HealthMessage] = field(default_factory=list)

    @classmethod
    def of(cls, recording: Recording, sent: Iterable[int]) -> "Heard":
        """What a recording holds of frames of these stamps, or numbers if it is by number."""
        if not recording.by_number:
            found = [(0, stamp_ns) for stamp_ns in recording.detections]
            return cls([*sent], reports=recording.reports, detections=found)
        # A number is unique where a stamp may not be; a stamp of 0 would mean none. No watchdog
        # sends a report again here, so one that comes twice is too many.
        every = recording.reports
        reports = [replace(one, stamp_ns=1 + one.sequence, report_number=0) for one in every]
        found = [(0, 1 + number) for number in recording.detections]
        return cls([1 + number for number in sent], reports=reports, detections=found)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was sent: its report, and when its detections arrived; None for never."""

    stamp_ns: int
    report: ReportedFrame | None
    arrived_ns: int | None

    @property
    def published(self) -> bool:
        """Whether it was reported as published."""
        return self.report is not None and self.report.status in PUBLISHED

    @property
    def in_time(self) -> bool:
        """Whether it was reported as in time, and its detections arrived."""
        reported = self.report is not None and self.report.status in IN_TIME
        return reported and self.arrived_ns is not None

    @property
    def latency_ms(self) -> float | None:
        """Time from its stamp to the arrival of its detections; None if none arrived."""
        return None if self.arrived_ns is None else (self.arrived_ns - self.stamp_ns) / 1e6


@dataclass
class Account:
    """What became of the frames of a run.

    Attributes:
        frames: those that are judged: without warm-up, closing frames, and those that were on their
            way while the unit was rebooting.
        sent: number of frames that must be accounted for: `frames` and the closing ones.
        while_down: number of frames that a reboot excuses.
        entered: number of frames in by the watchdog's own messages, which outlive the watchdog;
            health counts the one report of an outage once, here it stands for all its frames.
        statuses: number of judged frames by status.
        unreported: frames without a report, except those that a report without a stamp stands for.
        surplus: number of reports beyond the number of frames.
        unknown: reports and detections of frames that were never sent.
        missing: frames that were reported as published, and whose detections never arrived.
        unannounced: frames whose detections arrived, and that were not reported as published.
        unbalanced: health messages in which frames in is not the sum of outs and in flight.
        in_flight: frames that were in flight to the end.
    """

    frames: list[Frame]
    sent: int = 0
    while_down: int = 0
    entered: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    unreported: int = 0
    surplus: int = 0
    unknown: int = 0
    missing: int = 0
    unannounced: int = 0
    unbalanced: int = 0
    in_flight: int = 0

    @property
    def silent(self) -> int:
        """Number of frames that were lost without a report."""
        return self.unreported + self.missing

    @property
    def unaccounted(self) -> dict[str, int]:
        """What of `ACCOUNTING` is not 0, by its name for people."""
        return {name: n for name, quantity in ACCOUNTING if (n := getattr(self, quantity))}

    @property
    def missed(self) -> list[Frame]:
        """Frames without detections in time."""
        return [frame for frame in self.frames if not frame.in_time]

    @property
    def miss_rate(self) -> float | None:
        """Share of the frames that missed the deadline; None if there was none."""
        return len(self.missed) / len(self.frames) if self.frames else None

    @property
    def latencies_ms(self) -> list[float]:
        """The latencies of the frames whose detections arrived."""
        return [took for frame in self.frames if (took := frame.latency_ms) is not None]

    def latency_ms(self) -> dict[str, float | None]:
        """Percentiles over all frames; those without detections count as the slowest."""
        found = self.latencies_ms
        return latency_percentiles(found, without=len(self.frames) - len(found))

    def arrived_late(self, deadline_ms: float) -> int:
        """Frames that were published in time, but reached the listener after the deadline."""
        return sum(f.in_time and (f.latency_ms or 0.0) > deadline_ms for f in self.frames)

    def missed_by_host(self, host_took: HostTook, deadline_ms: float) -> int:
        """Missed frames during which the host of a virtual machine had a processor."""
        return sum(
            host_took(f.stamp_ns, f.stamp_ns + round(max(f.latency_ms or 0.0, deadline_ms) * 1e6))
            for f in self.missed
        )


def account(run: Heard) -> Account:
    """Reconcile what was sent, entered, reported, published and received."""
    once = _each_once(run.reports)
    # If frames have the same stamp, the detections belong to the published one.
    reported = sorted(once, key=lambda report: report.status not in PUBLISHED)
    arrivals = _by_stamp((stamp_ns, at_ns) for at_ns, stamp_ns in run.detections)
    if run.sent is None:
        frames = [Frame(r.stamp_ns, r, _taken(arrivals, r.stamp_ns)) for r in once]
        every, excused, down = frames, frames[:0], set[int]()
    else:
        reports = _by_stamp((r.stamp_ns, r) for r in reported if r.stamp_ns)
        reboots, closing = _reboots(run), set(run.closing)
        down = {s for s in (*run.sent, *closing) if any(s in reboot for reboot in reboots)}
        taken = [
            Frame(stamp_ns, _taken(reports, stamp_ns), _taken(arrivals, stamp_ns))
            for stamp_ns in (*run.sent, *run.closing)
            if stamp_ns not in down
        ]
        excused = [frame for frame in taken if frame.stamp_ns in run.warm_up]
        every = [frame for frame in taken if frame.stamp_ns not in run.warm_up]
        frames = [frame for frame in every if frame.stamp_ns not in closing]
    found = Account(frames, len(every), len(down))
    found.statuses.update(FrameStatus(f.report.status).name for f in frames if f.report is not None)
    # A frame that was dropped before its stamp was read is reported without one.
    nameless = sum(_frames(r) for r in once if not r.stamp_ns and r.status not in IN_TIME)
    nameless = max(0, nameless - sum(frame.report is None for frame in excused))
    lacking = sum(frame.report is None for frame in every)
    if lacking and nameless:
        found.statuses[NO_STAMP] = min(lacking, nameless)
    found.unreported = max(0, lacking - nameless)
    if run.sent is not None:
        # A rebooted unit may report the frames that it missed as a gap, without a stamp.
        most = len(run.sent) + len(run.closing)
        found.surplus = max(0, sum(r.stamp_ns not in down for r in once) - most)
        found.unknown = sum(len(left) for s, left in reports.items() if s not in down)
        found.unknown += sum(len(left) for s, left in arrivals.items() if s not in down)
    found.missing = sum(f.published and f.arrived_ns is None for f in every)
    found.unannounced = sum(
        f.arrived_ns is not None and not f.published and not _may_be_out(f) for f in every
    )
    own = [told for told in run.health if told.by_watchdog]
    beyond = sum(_frames(report) - 1 for report in once)
    found.entered = own[-1].frames_in + beyond if own else 0
    found.in_flight = own[-1].in_flight if own else 0
    found.unbalanced = sum(told.frames_in != told.outs + told.in_flight for told in run.health)
    return found


def _each_once(reports: Sequence[ReportedFrame]) -> list[ReportedFrame]:
    """A report that a watchdog has sent as it died comes again from the next, with its number."""
    found: dict[object, ReportedFrame] = {}
    for place, one in enumerate(reports):
        name = one.report_number, one.incarnation, one.stamp_ns, one.sequence
        found[name if one.report_number else place] = one
    return list(found.values())


def _frames(report: ReportedFrame) -> int:
    """How many frames a report stands for: an outage has one report."""
    outage = re.match(r"one report for (\d+) frames", report.reason)
    return int(outage[1]) if outage else 1


def _may_be_out(frame: Frame) -> bool:
    """Whether its detector died between publishing and reporting."""
    return frame.report is not None and MAY_BE_OUT.decode() in frame.report.reason


def _by_stamp(pairs: Iterable[tuple[int, Any]]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = defaultdict(list)
    for stamp_ns, value in pairs:
        found[stamp_ns].append(value)
    return found


def _taken(found: dict[int, list[Any]], stamp_ns: int) -> Any:
    """Remove and return the first value of a stamp; None if there is none."""
    values = found.get(stamp_ns)
    return values.pop(0) if values else None


def _reboots(run: Heard) -> list[range]:
    """The stamps of frames that nobody can account for: a range for each reboot."""
    after_ns = max([*(run.sent or ()), *run.closing], default=0) + 1
    return [
        range(
            begin_ns - ON_THE_WAY_NS,
            min((r.stamp_ns for r in run.reports if r.stamp_ns >= end_ns), default=after_ns),
        )
        for kind, begin_ns, end_ns in run.faults
        if kind == "unit_reboot"
    ]
