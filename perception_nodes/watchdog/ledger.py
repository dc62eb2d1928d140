"""The accounting of frames: each that entered ends once, in = sum of outs + in flight."""

import ctypes
from collections import deque
from collections.abc import Iterable

from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.watchdog.detectors import DetectorHistory, DetectorTable

Key = tuple[int, int]
"""(ingest process, sequence): names a frame, also where a process was replaced and counts anew."""

REMEMBERED_OUTCOMES = 4096
RECORDS_LOST = b"its records were lost on the way to the watchdog"
NO_DETECTOR = b"no detector is known to have been running when it came"
DETECTOR_ENDED = b"detector %d ended and no outcome came"
PASSED_OVER = b"a newer frame took its place"


class ReportedFrame(ctypes.Structure):
    """Names a frame whose report is out, see `Key`."""

    _fields_ = [("sequence", ctypes.c_uint64), ("process", ctypes.c_uint32)]


class LedgerBook(ctypes.Structure):
    """What must be known of a ledger by the one that goes on with it, should its process die.

    `frames` is a ring of the frames reported last; `reported` counts all, and is where it goes on.
    The last one's record was sent at `last_ns`. `detectors` are all that frames in flight may have
    reached.
    """

    _fields_ = [
        ("reported", ctypes.c_uint64),
        ("last_ns", ctypes.c_int64),
        ("counts", ctypes.c_uint64 * len(FrameStatus)),
        ("frames", ReportedFrame * REMEMBERED_OUTCOMES),
        ("detectors", DetectorTable),
    ]


class Ledger:
    """Turns records of entries and outcomes, from several processes, into one report a frame.

    Frames are in the order of `ingested_ns`, whichever process took them in. What is known of a
    frame that will have no outcome (who held it has died) is kept as a reason and used when the
    frame is closed, not before: its outcome may be on the way all the same, and then counts.

    A frame without an outcome is SUPERSEDED only where the records prove it: a detector that
    received it went on to a newer one. Otherwise it FAILED: of two mistakes, a loss that is told as
    a failure is better than one that is told as the usual course of things.
    """

    def __init__(self, outcome_timeout_ns: int, book: LedgerBook | None = None) -> None:
        """Go on where a book ends.

        Args:
            outcome_timeout_ns: frames without an outcome for longer are closed as failed.
            book: of the ledger before; kept by `reported`.
        """
        self._outcome_timeout_ns = outcome_timeout_ns
        self._in_flight: dict[Key, FrameRecord] = {}
        self._reasons: dict[Key, bytes] = {}
        self._next_sequence: dict[int, int] = {}
        self._closed: set[Key] = set()
        self._closed_order: deque[Key] = deque()
        self._book = LedgerBook() if book is None else book
        self._detectors = DetectorHistory(self._book.detectors)
        self.counts = {status: int(self._book.counts[status]) for status in FrameStatus}
        self.frames_in = sum(self.counts.values())
        self.repeated_outcomes = 0
        self._reported_before = self._read_book()

    @property
    def in_flight(self) -> int:
        """Frames that entered and have not ended."""
        return len(self._in_flight)

    @property
    def balanced(self) -> bool:
        """Whether in = sum of outs + in flight; anything else is a fault of the accounting."""
        return self.frames_in == sum(self.counts.values()) + self.in_flight

    def take(self, records: Iterable[FrameRecord]) -> list[FrameRecord]:
        """Apply what was read, from all processes together, in the order it was sent.

        Returns:
            Reports of the frames that this closes, each frame's only one.
        """
        reports: list[FrameRecord] = []
        for record in sorted(records, key=lambda record: (record.sent_ns, record.record)):
            if record.kind == RecordKind.ENTERED:
                self._enter(record)
            elif record.kind == RecordKind.OUTCOME:
                reports += self._finish(record)
            elif record.kind == RecordKind.TAKEOVER:
                self._take_over(record)
        return reports

    def reported(self, record: FrameRecord) -> None:
        """A frame's report is out: should we die, it shall not be reported again.

        Noted afterwards, since of two mistakes that a death in between can lead to, a frame that is
        reported twice is better than one that is never.
        """
        book = self._book
        frame = book.frames[book.reported % REMEMBERED_OUTCOMES]
        frame.process, frame.sequence = _key(record)
        book.counts[record.status] += 1
        book.last_ns = max(book.last_ns, record.sent_ns)  # that of a lost record is 0
        book.reported += 1

    def died(self, process: int, now_ns: int) -> None:
        """A process is gone; to be called when all that it has told was taken.

        Args:
            process: its number.
            now_ns: CLOCK_MONOTONIC.
        """
        self._detectors.died(process, now_ns)

    def expire(self, now_ns: int) -> list[FrameRecord]:
        """Close what has been without an outcome for too long.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        oldest_ns = now_ns - self._outcome_timeout_ns
        waited = b"no outcome within %.0f ms" % (self._outcome_timeout_ns / 1e6)
        overdue = [k for k, record in self._in_flight.items() if record.ingested_ns < oldest_ns]
        return [self._close_without_outcome(k, self._reason(k) or waited) for k in overdue]

    def _enter(self, record: FrameRecord) -> None:
        key = _key(record)
        if key in self._closed:
            return
        self._fill_gap(record)
        if key not in self._in_flight:
            self.frames_in += 1
        elif self._reasons.get(key) == RECORDS_LOST:
            del self._reasons[key]
        self._in_flight[key] = record

    def _finish(self, outcome: FrameRecord) -> list[FrameRecord]:
        """A frame ended.

        The detector takes frames in order and the newest first lets older ones go: the outcome of
        a frame that had reached the detector ends every older one that nobody can end any more.
        """
        reached_detector = bool(outcome.preprocessed_ns)
        if reached_detector:
            self._detectors.took(outcome)
        key = _key(outcome)
        if key in self._closed:
            self.repeated_outcomes += key not in self._reported_before
            return []
        self._enter(outcome)  # the entry may have been lost
        del self._in_flight[key]
        self._reasons.pop(key, None)
        reports = []
        if reached_detector:
            older = [k for k, other in self._in_flight.items() if _order(other) < _order(outcome)]
            reasons = {k: self._reason(k) for k in older}
            reports = [self._close_without_outcome(k, r) for k, r in reasons.items() if r]
        return [*reports, self._close(key, outcome)]

    def _take_over(self, record: FrameRecord) -> None:
        """Another process works from now on; the frame that its predecessor held is lost.

        That frame may have entered already, or be entered by the successor only now.
        """
        key = _key(record)
        if record.ingest_process and key not in self._closed:
            self._reasons[key] = record.reason
        if record.joined_ns:
            self._detectors.took_over(record)

    def _fill_gap(self, record: FrameRecord) -> None:
        """Enter the frames whose records did not come: numbers have no gaps where they are made."""
        process, sequence = _key(record)
        first_missing = self._next_sequence.get(process, sequence)
        for missing in range(max(first_missing, sequence - REMEMBERED_OUTCOMES), sequence):
            unknown = FrameRecord(sequence=missing, ingest_process=process)
            unknown.camera, unknown.ingested_ns = record.camera, record.ingested_ns
            self._in_flight[_key(unknown)] = unknown
            self._reasons[_key(unknown)] = RECORDS_LOST
            self.frames_in += 1
        self._next_sequence[process] = max(first_missing, sequence + 1)

    def _reason(self, key: Key) -> bytes:
        """Why a frame in flight has no outcome; empty while a detector may still take it."""
        if key in self._reasons:
            return self._reasons[key]
        ingested_ns = self._in_flight[key].ingested_ns
        if self._detectors.passed_over(ingested_ns):
            return PASSED_OVER
        receiver = self._detectors.last_receiver(ingested_ns)
        if receiver is None:
            return NO_DETECTOR
        process, has_ended = receiver
        return DETECTOR_ENDED % process if has_ended else b""

    def _close_without_outcome(self, key: Key, reason: bytes) -> FrameRecord:
        record = self._in_flight.pop(key)
        self._reasons.pop(key, None)
        record.reason = reason
        superseded = reason == PASSED_OVER
        record.status = FrameStatus.SUPERSEDED if superseded else FrameStatus.FAILED
        return self._close(key, record)

    def _close(self, key: Key, record: FrameRecord) -> FrameRecord:
        self.counts[FrameStatus(record.status)] += 1
        self._remember(key)
        return record

    def _read_book(self) -> frozenset[Key]:
        """Frames that have been reported; those that follow the last of a process have not."""
        reported = int(self._book.reported)
        for index in range(max(0, reported - REMEMBERED_OUTCOMES), reported):
            frame = self._book.frames[index % REMEMBERED_OUTCOMES]
            process, sequence = int(frame.process), int(frame.sequence)
            self._remember((process, sequence))
            following = max(self._next_sequence.get(process, 0), sequence + 1)
            self._next_sequence[process] = following
        return frozenset(self._closed)

    def _remember(self, key: Key) -> None:
        self._closed.add(key)
        self._closed_order.append(key)
        if len(self._closed_order) > REMEMBERED_OUTCOMES:
            self._closed.discard(self._closed_order.popleft())


def _key(record: FrameRecord) -> Key:
    return (record.ingest_process, record.sequence)


def _order(record: FrameRecord) -> tuple[int, int]:
    return (record.ingested_ns, record.sequence)
