"""The detectors that a camera has had: which frames each one received, and which it passed over.

All of this is recorded facts, which are never withdrawn. They may come in any order, and twice.
"""

import ctypes
from collections.abc import Iterator

from perception_nodes.core.frame import FrameRecord, Record
from perception_nodes.core.records import Takeover
from perception_nodes.core.structures import fields

REMEMBERED_DETECTORS = 64


class DetectorTenure(ctypes.Structure):
    """The time in which one process worked as the detector.

    `sender` is its incarnation, `process` its number. It has received frames since `joined_ns` and
    worked since `since_ns`. `newest_ns` is
    `ingested_ns` of the newest frame that it or its predecessor has taken; it takes no older frame.
    `ended_ns` is when it stopped or was seen to be dead, 0 if neither. The start of the next
    detector also ends it.
    """

    _fields_ = fields(
        "int64 joined_ns, since_ns, newest_ns, ended_ns; uint64 sender; uint32 process"
    )


DetectorTable = DetectorTenure * REMEMBERED_DETECTORS


class DetectorHistory:
    """What is known of a camera's detectors; kept in a table that outlives us."""

    def __init__(self, table: "ctypes.Array[DetectorTenure]") -> None:
        self._table = table
        self._sort()

    def took_over(self, record: Takeover) -> None:
        """Note that a detector has started to work."""
        if not any(d.since_ns == record.sent_ns for d in self._of(record.sender)):
            self._add(record, record.joined_ns, record.newest_ns)
        # If the predecessor died with that frame in hand, no outcome shows that it had taken the
        # frame.
        for before in self._of(record.predecessor_sender):
            if before.since_ns < record.sent_ns:
                before.newest_ns = max(before.newest_ns, record.newest_ns)
                break

    def took(self, outcome: FrameRecord) -> None:
        """Note that a detector has taken a frame.

        Args:
            outcome: the frame's outcome. If the detector's takeover is not known, this is the first
                proof that it receives frames.
        """
        ingested_ns = outcome.ingested_ns
        if not (entries := list(self._of(outcome.sender))):
            self._add(outcome, ingested_ns, ingested_ns)
            return
        then = next((d for d in entries if d.since_ns <= outcome.sent_ns), entries[-1])
        then.newest_ns = max(then.newest_ns, ingested_ns)

    def ended(self, sender: int, now_ns: int) -> None:
        """Note that a process has stopped, or was seen to be dead, if it worked as a detector."""
        for detector in self._of(sender):
            detector.ended_ns = detector.ended_ns or now_ns
            break

    def working(self) -> DetectorTenure | None:
        """The detector that started last; None if there is none or it is known to have ended."""
        return next((d for d in self._newest_first[:1] if not d.ended_ns), None)

    def passed_over(self, ingested_ns: int) -> bool:
        """Whether a detector received the frame and went on to a newer one."""
        return any(d.joined_ns <= ingested_ns < d.newest_ns for d in self._newest_first)

    def receivers(self, ingested_ns: int) -> Iterator[int]:
        """The incarnations of all detectors that the frame can have reached."""
        return (int(d.sender) for d in self._newest_first if d.joined_ns <= ingested_ns)

    def last_receiver(self, ingested_ns: int) -> tuple[int, bool] | None:
        """The last detector that the frame can have reached.

        Returns:
            Its process, and whether it has stopped working; None if no detector is known to have
            been working when the frame came.
        """
        next_since_ns = 0
        for detector in self._newest_first:
            # It has stopped when it was seen dead or the next one started to work.
            stops = [at_ns for at_ns in (detector.ended_ns, next_since_ns) if at_ns]
            if detector.joined_ns <= ingested_ns and all(at_ns > ingested_ns for at_ns in stops):
                return int(detector.process), bool(stops)
            next_since_ns = detector.since_ns
        return None

    def _of(self, sender: int) -> Iterator[DetectorTenure]:
        """The entries of one process, the last one first."""
        return (d for d in self._newest_first if d.sender == sender)

    def _add(self, record: Record, joined_ns: int, newest_ns: int) -> None:
        since_ns = record.sent_ns
        oldest = min(range(len(self._table)), key=lambda number: self._table[number].since_ns)
        if self._table[oldest].since_ns < since_ns:
            who = record.sender, record.process
            # Written in one piece, since we may be killed at any moment.
            self._table[oldest] = DetectorTenure(joined_ns, since_ns, newest_ns, 0, *who)
            self._sort()

    def _sort(self) -> None:
        self._newest_first = sorted(
            (d for d in self._table if d.since_ns), key=lambda d: d.since_ns, reverse=True
        )
