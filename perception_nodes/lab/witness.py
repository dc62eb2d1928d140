"""What an independent subscriber observed of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.drives.schemas import (
    DETECTIONS,
    FRAME_REPORT,
    HEALTH,
    PROTECTED,
    typestore,
)
from perception_nodes.faults.clock_offset import ClockOffset
from perception_nodes.lab.planner import Consumed, consume, demanded
from perception_nodes.report.recording import nanoseconds, read_messages

OUTCOMES = [status.name.lower() for status in FrameStatus]


@dataclass(frozen=True)
class ReceivedHealth:
    """A health message.

    Attributes:
        at_ns: when it arrived, nanoseconds since the Unix epoch.
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


@dataclass(frozen=True)
class ReceivedReport:
    """A frame report: when it arrived, the stamp of its frame, and what became of the frame."""

    at_ns: int
    stamp_ns: int
    status: FrameStatus
    reason: str = ""


@dataclass
class Observations:
    """A run as observed from outside; times are nanoseconds since the Unix epoch.

    Attributes:
        sent: stamps of the frames of the drive, in the order of sending.
        closing: stamps of the frames sent after the end of the drive, by which losses at its end
            are noticed. They must be accounted for, and nothing else is judged by them.
        late: stamps of the frames that the camera had later than they were due, and by how many
            nanoseconds. The stamps are of that later time.
        first_ns: when the first frame was due.
        begin_ns, end_ns: begin of the first fault, end of the last one; without a fault, from when
            on the graph works.
        faults: those that were put in: kind, begin and end.
        not_put_in: those that were not, one line each that says why.
        reports: in the order of arrival.
        detections: time of arrival, and stamp of the frame.
        told: health messages in the order of arrival.
        planned: what a planner's consumers made of the protected topics.
        clock: the unit's clock against the bench's, if the unit is a remote one.
        agreement: with the undisturbed drive, if the scenario asks for it.
        failure: why the graph ended before the drive did; empty if it did not.
    """

    sent: list[int] = field(default_factory=list)
    closing: list[int] = field(default_factory=list)
    late: list[tuple[int, int]] = field(default_factory=list)
    first_ns: int = 0
    begin_ns: int = 0
    end_ns: int = 0
    faults: list[tuple[str, int, int]] = field(default_factory=list)
    not_put_in: list[str] = field(default_factory=list)
    reports: list[ReceivedReport] = field(default_factory=list)
    detections: list[tuple[int, int]] = field(default_factory=list)
    told: list[ReceivedHealth] = field(default_factory=list)
    planned: Consumed = field(default_factory=Consumed)
    clock: ClockOffset | None = None
    agreement: float | None = None
    failure: str = ""

    def read(self, recording: Path, deadline_ms: float) -> None:
        """Add the messages that the monitor has recorded.

        Args:
            recording: its file.
            deadline_ms: the deadline of the graph.

        Raises:
            RecordingError: the recording cannot be read.
        """
        store = typestore()
        protected: list[tuple[str, int, bytes]] = []
        for topic, type_name, at_ns, data in read_messages(recording):
            if type_name == PROTECTED:
                protected.append((topic, at_ns, data))
            if type_name not in (DETECTIONS, FRAME_REPORT, HEALTH):
                continue
            message: Any = store.deserialize_cdr(data, type_name)
            if type_name == DETECTIONS:
                self.detections.append((at_ns, nanoseconds(message.header.stamp)))
            elif type_name == FRAME_REPORT:
                status = FrameStatus(message.status)
                report = ReceivedReport(
                    at_ns, nanoseconds(message.header.stamp), status, message.reason
                )
                self.reports.append(report)
            else:
                self.told.append(_told(at_ns, message))
        self.planned = consume(protected, demanded(deadline_ms))

    def working_ns(self, at_latest_ns: int) -> int:
        """Just after NOMINAL was first told of the drive, which is with its first detections."""
        nominal = (told.at_ns for told in self.told if told.mode == HealthMode.NOMINAL)
        return min([at_latest_ns, *(at_ns + 1 for at_ns in nominal if at_ns >= self.first_ns)])

    def frames_in(self) -> int:
        """Frames in by the watchdog's account, which outlives the watchdog."""
        accounts = self.accounts()
        return accounts[-1].frames_in if accounts else 0

    def accounts(self) -> Sequence[ReceivedHealth]:
        """The watchdog's own health messages."""
        return [told for told in self.told if told.by_watchdog]


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
