"""What an independent subscriber saw of a run, counted by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_nodes.core.frame import FrameStatus
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT, HEALTH, typestore
from perception_nodes.hil.clock_offset import ClockOffset
from perception_nodes.report.recording import read_messages
from perception_nodes.watchdog.faults import HealthMode

OUTCOMES = [status.name.lower() for status in FrameStatus]


@dataclass(frozen=True)
class ReceivedHealth:
    """A health message.

    Attributes:
        at_ns: when it came, nanoseconds since the Unix epoch.
        mode, cause, faults: what it says.
        frames_in, outs, in_flight: its account.
        by_watchdog: it is not from one who speaks for a watchdog that is gone.
    """

    at_ns: int
    mode: HealthMode
    cause: str = ""
    faults: tuple[str, ...] = ()
    frames_in: int = 0
    outs: int = 0
    in_flight: int = 0
    by_watchdog: bool = True


@dataclass(frozen=True)
class ReceivedReport:
    """A frame report: when it came, whose frame it is about, and what became of it."""

    at_ns: int
    stamp_ns: int
    status: FrameStatus
    reason: str = ""


@dataclass
class Observations:
    """A run as it was seen from outside; times are nanoseconds since the Unix epoch.

    Attributes:
        sent: stamps of the frames that the camera sent, in that order.
        closing: stamps of those that it sent behind the drive's end, to have what was lost there
            noticed; they are accounted for as all others are, and nothing else is judged by them.
        first_ns: when the first one was due.
        begin_ns, end_ns: of the faults; the same where there is one of an instant.
        faults: those that were put in, each with its begin and end.
        not_put_in: those that were not, a line each that says why.
        reports: as they came.
        detections: when they came, and the frame's stamp.
        told: health messages as they came.
        clock: the unit's against ours, where it is on another side of a network.
        agreement: with a reference, where one is asked for; see `reference`.
        failure: why the graph ended before the drive did; empty where it did not.
    """

    sent: list[int] = field(default_factory=list)
    closing: list[int] = field(default_factory=list)
    first_ns: int = 0
    begin_ns: int = 0
    end_ns: int = 0
    faults: list[tuple[str, int, int]] = field(default_factory=list)
    not_put_in: list[str] = field(default_factory=list)
    reports: list[ReceivedReport] = field(default_factory=list)
    detections: list[tuple[int, int]] = field(default_factory=list)
    told: list[ReceivedHealth] = field(default_factory=list)
    clock: ClockOffset | None = None
    agreement: float | None = None
    failure: str = ""

    def read(self, recording: Path) -> None:
        """Add what the monitor has recorded.

        Raises:
            RecordingError: it cannot be read.
        """
        store = typestore()
        for _, type_name, at_ns, data in read_messages(recording):
            if type_name not in (DETECTIONS, FRAME_REPORT, HEALTH):
                continue
            message: Any = store.deserialize_cdr(data, type_name)
            if type_name == DETECTIONS:
                self.detections.append((at_ns, _stamp_ns(message)))
            elif type_name == FRAME_REPORT:
                status = FrameStatus(message.status)
                report = ReceivedReport(at_ns, _stamp_ns(message), status, message.reason)
                self.reports.append(report)
            else:
                self.told.append(_told(at_ns, message))

    def frames_in(self) -> int:
        """Frames that entered by the watchdog's account, which outlives the watchdog."""
        accounts = self.accounts()
        return accounts[-1].frames_in if accounts else 0

    def accounts(self) -> Sequence[ReceivedHealth]:
        """The watchdog's own health messages."""
        return [told for told in self.told if told.by_watchdog]


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _told(at_ns: int, message: Any) -> ReceivedHealth:
    return ReceivedHealth(
        at_ns,
        HealthMode(message.mode),
        message.cause,
        tuple(message.faults),
        message.frames_in,
        sum(getattr(message, name) for name in OUTCOMES),
        message.in_flight,
        by_watchdog="watchdog" not in message.silent_processes,
    )
