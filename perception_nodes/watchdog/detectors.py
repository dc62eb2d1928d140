"""The detectors that a camera has had: which frames each received, and which it passed over.

These are recorded facts, none of which is ever taken back: they can come in any order, and twice.
"""

import ctypes
from collections.abc import Iterator

from perception_nodes.core.frame import FrameRecord

REMEMBERED_DETECTORS = 64


class Detector(ctypes.Structure):
    """One detector's time at work.

    `process` has received frames since `joined_ns` and worked since `since_ns`. It did not take a
    frame older than the one of `newest_ns`: that one it took itself, or its predecessor did.
    `ended_ns` is when it was seen to be dead, 0 where it was not; a successor tells of its end too.
    Frames go by the time at which they were taken in, `ingested_ns`.
    """

    _fields_ = [
        ("joined_ns", ctypes.c_int64),
        ("since_ns", ctypes.c_int64),
        ("newest_ns", ctypes.c_int64),
        ("ended_ns", ctypes.c_int64),
        ("process", ctypes.c_uint32),
    ]


DetectorTable = Detector * REMEMBERED_DETECTORS


class DetectorHistory:
    """What is known of a camera's detectors, kept in a table that outlives us."""

    def __init__(self, table: "ctypes.Array[Detector]") -> None:
        """Go on with what the table holds."""
        self._table = table
        self._sort()

    def took_over(self, record: FrameRecord) -> None:
        """A detector works from now on, behind the last frame that its predecessor took.

        Args:
            record: its TAKEOVER.
        """
        known = any(d.since_ns == record.sent_ns for d in self._of(record.process))
        if not known:
            self._add(record.process, record.joined_ns, record.sent_ns, record.ingested_ns)
        # Of a frame that the predecessor died of there is no other record.
        for before in self._of(record.predecessor):
            if before.since_ns < record.sent_ns:
                before.newest_ns = max(before.newest_ns, record.ingested_ns)
                break

    def took(self, outcome: FrameRecord) -> None:
        """A detector took a frame.

        Args:
            outcome: the frame's. Of a detector whose TAKEOVER is not known, it is the first proof
                that it receives frames.
        """
        process, ingested_ns = outcome.process, outcome.ingested_ns
        lives = list(self._of(process))
        if not lives:
            self._add(process, ingested_ns, outcome.sent_ns, ingested_ns)
            return
        then = next((d for d in lives if d.since_ns <= outcome.sent_ns), lives[-1])
        then.newest_ns = max(then.newest_ns, ingested_ns)

    def died(self, process: int, now_ns: int) -> None:
        """A process was seen to be dead; one that never worked as a detector does not matter."""
        for detector in self._of(process):
            detector.ended_ns = detector.ended_ns or now_ns
            break

    def passed_over(self, ingested_ns: int) -> bool:
        """Whether a detector received a frame and went on to a newer one."""
        return any(d.joined_ns <= ingested_ns < d.newest_ns for d in self._newest_first)

    def last_receiver(self, ingested_ns: int) -> tuple[int, bool] | None:
        """The last detector that a frame can have reached.

        Returns:
            Its process and whether it has ended; None where none is known that was running.
        """
        end_ns = 0
        for detector in self._newest_first:
            # The next one works since this one has ended, or both were seen.
            ends = [at_ns for at_ns in (end_ns, detector.ended_ns) if at_ns]
            if detector.joined_ns <= ingested_ns and all(at_ns > ingested_ns for at_ns in ends):
                return int(detector.process), bool(ends)
            end_ns = detector.since_ns
        return None

    def _of(self, process: int) -> Iterator[Detector]:
        """The times at work of one process, the last one first."""
        return (d for d in self._newest_first if d.process == process)

    def _add(self, process: int, joined_ns: int, since_ns: int, newest_ns: int) -> None:
        oldest = min(range(len(self._table)), key=lambda number: self._table[number].since_ns)
        if self._table[oldest].since_ns < since_ns:
            # In one piece: we may be killed at any moment.
            self._table[oldest] = Detector(joined_ns, since_ns, newest_ns, 0, process)
            self._sort()

    def _sort(self) -> None:
        self._newest_first = sorted(
            (d for d in self._table if d.since_ns), key=lambda d: d.since_ns, reverse=True
        )
