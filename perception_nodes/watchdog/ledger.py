"""The accounting of frames: each frame that enters ends once, in = sum of outs + in flight."""

import ctypes
from collections import deque
from collections.abc import Iterable

from perception_nodes.core.frame import MAX_GAP, FrameRecord, FrameStatus, Record, RecordKind
from perception_nodes.core.records import Left, Takeover
from perception_nodes.core.structures import fields
from perception_nodes.watchdog.detectors import DetectorHistory, DetectorTable, DetectorTenure

Key = tuple[int, int]
"""(incarnation, sequence): identifies a frame, since each process numbers frames from 0."""

REMEMBERED_OUTCOMES = 4096
REMEMBERED_PROCESSES = 64
MAX_JUMP = 1 << 32
"""A frame whose number is so much higher than those before it is damaged: it tells of no gap."""
MAY_BE_OUT = b"; its detections may have been published"
RECORDS_LOST = b"its records were lost on the way to the watchdog" + MAY_BE_OUT
MANY_LOST = (
    b"one report for %d frames, whose records were lost on the way to the watchdog"
    b"; their detections may have been published"
)
NO_DETECTOR = b"no detector is known to have been working when it came"
GRAPH_STOPPED = b"the graph was stopped before its outcome"
DETECTOR_STOPPED = b"detector %d stopped working and no outcome came" + MAY_BE_OUT
PASSED_OVER = b"a newer frame took its place"


class FrameName(ctypes.Structure):
    """Identifies a frame whose report is published, see `Key`."""

    _fields_ = fields("uint64 sequence, incarnation")


class ProcessNote(ctypes.Structure):
    """How far a process was accounted for.

    All frames that it took in before `next_frame`, a number, are reported, or were when the ring of
    reported frames was written. `next_record` is the number behind its last record that was taken,
    which it sent at `last_ns`. `incarnation` is its own.
    """

    _fields_ = fields("uint64 incarnation, next_frame, next_record; int64 last_ns")


class LedgerBook(ctypes.Structure):
    """What the next watchdog must know to go on with a ledger if our process dies.

    `frames` is a ring of the frames that were reported last. `reported` counts all reports, which
    gives the ring's next place. The newest record of a reported frame was sent at `last_ns`.
    `detectors` are those that the frames in flight may have reached, `processes` all that have sent
    records. `life` is the graph's.
    """

    _fields_ = [
        *fields(f"uint64 life, reported; int64 last_ns; uint64 counts[{len(FrameStatus)}]"),
        ("frames", FrameName * REMEMBERED_OUTCOMES),
        ("detectors", DetectorTable),
        ("processes", ProcessNote * REMEMBERED_PROCESSES),
    ]


class Ledger:
    """Turns records of entries and outcomes, from several processes, into one report a frame.

    Frames are ordered by `ingested_ns`, whichever process took them in. When the process that held
    a frame dies, this is kept as a reason until the frame is closed: its outcome may already be on
    its way, and then that counts.

    A frame without an outcome is SUPERSEDED only if the records prove it: a detector that received
    it went on to a newer frame. Otherwise it FAILED: reporting a superseded frame as failed is
    better than hiding a failure among the superseded frames.
    """

    def __init__(
        self, outcome_timeout_ns: int, book: LedgerBook | None = None, camera: str = ""
    ) -> None:
        """Go on where the ledger before has stopped.

        Args:
            outcome_timeout_ns: frames without an outcome for longer are closed.
            book: the book of the ledger before, which is ours from now on.
            camera: named in reports of frames whose records are lost.
        """
        self._outcome_timeout_ns = outcome_timeout_ns
        self._waited = b"no outcome within %.0f ms" % (outcome_timeout_ns / 1e6)
        self._camera = camera.encode()
        self._in_flight: dict[Key, FrameRecord] = {}
        self._reasons: dict[Key, bytes] = {}
        self._numbers: dict[int, range] = {}
        self._stamps: dict[int, int] = {}
        self._gaps_ns: dict[int, int] = {}
        self._next_records: dict[int, int] = {}
        self._notes: dict[int, ProcessNote] = {}
        self.records_lost = 0
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
        """The number of frames that have entered and not ended."""
        return len(self._in_flight)

    @property
    def reports(self) -> int:
        """The number of reports published since the graph started, by all watchdogs."""
        return int(self._book.reported)

    @property
    def told(self) -> dict[int, int]:
        """How many records were taken from each process, by its incarnation."""
        return {sender: int(note.next_record) for sender, note in self._notes.items()}

    @property
    def balanced(self) -> bool:
        """Whether in = sum of outs + in flight; if not, the accounting is wrong."""
        return self.frames_in == sum(self.counts.values()) + self.in_flight

    def take(self, records: Iterable[Record]) -> list[FrameRecord]:
        """Apply the records of all processes in the order in which they were sent.

        Returns:
            The reports of the frames that this closes; there is one for each frame.
        """
        reports: list[FrameRecord] = []
        for record in sorted(records, key=lambda record: (record.sent_ns, record.record)):
            self._note(record)
            if isinstance(record, FrameRecord):
                if record.kind == RecordKind.OUTCOME:
                    reports += self._finish(record)
                else:
                    self._enter(record)
            elif isinstance(record, Takeover):
                self._take_over(record)
            elif isinstance(record, Left):
                self._detectors.ended(record.sender, record.sent_ns)
        return reports

    def reported(self, record: FrameRecord) -> None:
        """Note that a frame's report is published: if we die, it must not be reported again.

        This is noted afterwards. If we die in between, the frame is reported twice, which is better
        than never.
        """
        book = self._book
        frame = book.frames[book.reported % REMEMBERED_OUTCOMES]
        frame.incarnation, frame.sequence = _key(record)
        book.counts[record.status] += 1
        book.last_ns = max(book.last_ns, record.sent_ns)  # a lost record has 0
        note = self._note_of(record.incarnation, book.last_ns)
        note.next_frame = max(note.next_frame, record.sequence + 1)
        book.reported += 1

    def died(self, sender: int, now_ns: int) -> None:
        """Note that a process is dead; to be called after its last records were taken.

        Args:
            sender: its incarnation.
            now_ns: CLOCK_MONOTONIC.
        """
        self._detectors.ended(sender, now_ns)

    def detector(self) -> DetectorTenure | None:
        """The detector that works, None if it is known that none does."""
        return self._detectors.working()

    def expire(self, now_ns: int) -> list[FrameRecord]:
        """Close the frames that have been without an outcome for too long.

        Args:
            now_ns: CLOCK_MONOTONIC.

        Returns:
            Their reports.
        """
        oldest_ns = now_ns - self._outcome_timeout_ns
        overdue = [k for k, record in self._in_flight.items() if record.ingested_ns < oldest_ns]
        return [self._close_without_outcome(k, self._reason(k) or self._waited) for k in overdue]

    def end(self) -> list[FrameRecord]:
        """Close all frames: no process is left that could report their outcome.

        Returns:
            Their reports.
        """
        reasons = {key: self._reason(key) for key in self._in_flight}
        return [self._close_without_outcome(k, r or GRAPH_STOPPED) for k, r in reasons.items()]

    def _note(self, record: Record) -> None:
        """Note a record's number: one that is lost may have told how any frame in flight ended."""
        sender = record.sender
        note, expected = self._note_of(sender, record.sent_ns), self._next_records.get(sender, 0)
        if record.record > expected:
            self._gaps_ns[sender] = record.sent_ns
            self.records_lost += max(0, record.record - max(expected, note.next_record))
        self._next_records[sender] = max(expected, record.record + 1)
        note.next_record = max(note.next_record, record.record + 1)

    def _note_of(self, incarnation: int, now_ns: int) -> ProcessNote:
        """The note of a process; a new one takes the place of who has been silent for longest."""
        if (note := self._notes.get(incarnation)) is None:
            note = min(self._book.processes, key=lambda one: one.last_ns)
            self._notes.pop(int(note.incarnation), None)
            note.next_frame = note.next_record = note.last_ns = 0
            note.incarnation = incarnation
            self._notes[incarnation] = note
        note.last_ns = max(note.last_ns, now_ns)
        return note

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
        """Close a frame, and the older ones that can have no outcome any more.

        A detector takes the newest frame and never goes back to an older one. So once a frame that
        reached a detector has ended, each older frame was passed over, or was lost with a detector.
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

    def _take_over(self, record: Takeover) -> None:
        """Note that a process works from now on, and that the frame its predecessor held is lost.

        That frame may not have entered yet: the successor then enters it.
        """
        key = record.held_incarnation, record.held_sequence
        if record.held_incarnation and key not in self._closed:
            self._reasons[key] = record.reason
        if record.joined_ns:
            self._detectors.took_over(record)

    def _fill_gap(self, record: FrameRecord) -> None:
        """Enter the frames whose records are missing: a process numbers its frames without gaps."""
        incarnation, sequence = _key(record)
        # That the numbers begin at 0, only the process knows that gives them.
        is_own = record.sender == incarnation
        start = 0 if is_own else sequence
        known = self._numbers.get(incarnation, range(start, start))
        if sequence - known.stop > MAX_JUMP:
            return
        lost = FrameRecord(incarnation=incarnation, ingested_ns=record.ingested_ns)
        lost.camera, lost.lost_before_ns = self._camera, record.stamp_ns
        if is_own:
            self._enter_all(lost, range(min(sequence, known.start)))
        lost.lost_after_ns = self._stamps.get(incarnation, 0)
        self._enter_all(lost, range(known.stop, sequence))
        lost.ingested_ns = int(self._book.last_ns)
        lost.lost_after_ns, lost.lost_before_ns = record.stamp_ns, 0
        self._enter_all(lost, range(sequence + 1, known.start))
        if sequence >= known.stop:
            self._stamps[incarnation] = record.stamp_ns
        self._numbers[incarnation] = _with(_with(known, sequence), 0 if is_own else sequence)

    def _enter_all(self, lost: FrameRecord, missing: range) -> None:
        """Enter frames whose records are missing.

        Args:
            lost: what is known of each of them; it came in before `ingested_ns`.
            missing: their numbers.
        """
        many = missing.stop - missing.start - MAX_GAP
        for sequence in missing[max(0, many - 1) :]:
            self._enter_unknown(lost, sequence)
        if many > 0:
            self._reasons[int(lost.incarnation), missing[many - 1]] = MANY_LOST % many

    def _enter_unknown(self, lost: FrameRecord, sequence: int) -> None:
        unknown = FrameRecord.from_buffer_copy(lost)
        unknown.sequence = sequence
        self._in_flight[_key(unknown)] = unknown
        self._reasons[_key(unknown)] = RECORDS_LOST
        self.frames_in += 1

    def _reason(self, key: Key) -> bytes:
        """Why a frame in flight has no outcome; empty if a detector may still take it."""
        if key in self._reasons:
            return self._reasons[key]
        record = self._in_flight[key]
        ingested_ns = record.ingested_ns
        if self._detectors.passed_over(ingested_ns):
            # Perhaps one of these did end the frame, and its record of that is lost.
            receivers = self._detectors.receivers(ingested_ns)
            is_doubtful = self._gaps_ns.get(key[0], 0) > record.sent_ns or any(
                self._gaps_ns.get(receiver, 0) > ingested_ns for receiver in receivers
            )
            return RECORDS_LOST if is_doubtful else PASSED_OVER
        if (receiver := self._detectors.last_receiver(ingested_ns)) is None:
            return NO_DETECTOR
        process, has_stopped = receiver
        return DETECTOR_STOPPED % process if has_stopped else b""

    def _close_without_outcome(self, key: Key, reason: bytes) -> FrameRecord:
        record = self._in_flight.pop(key)
        self._reasons.pop(key, None)
        record.reason = reason
        record.status = FrameStatus.SUPERSEDED if reason == PASSED_OVER else FrameStatus.FAILED
        return self._close(key, record)

    def _close(self, key: Key, record: FrameRecord) -> FrameRecord:
        self.counts[FrameStatus(record.status)] += 1
        self._remember(key)
        return record

    def _read_book(self) -> frozenset[Key]:
        """Go on after the frames that were reported.

        Frames between them that were not reported had entered; their records may come again. Such
        gaps are looked for from 0 while the ring holds all reports, and then only in its newer
        half: frames reported out of order at its older end may be overwritten.
        """
        # Whoever died while noting a report had counted it, and its name is in the ring.
        self._book.reported = reported = max(int(self._book.reported), sum(self._book.counts))
        recent: dict[int, range] = {}
        for note in self._book.processes:
            if incarnation := int(note.incarnation):
                self._notes[incarnation] = note
            if note.next_frame and note.next_record:  # it numbers frames, and has told of them
                self._numbers[incarnation] = range(note.next_frame)
                if reported < REMEMBERED_OUTCOMES:
                    recent[incarnation] = range(0)
        # The oldest name may be half overwritten, by a report that was not counted.
        for index in range(max(0, reported - REMEMBERED_OUTCOMES + 1), reported):
            frame = self._book.frames[index % REMEMBERED_OUTCOMES]
            key = incarnation, sequence = int(frame.incarnation), int(frame.sequence)
            self._remember(key)
            self._numbers[incarnation] = _with(self._numbers.get(incarnation), sequence)
            if index >= reported - REMEMBERED_OUTCOMES // 2:
                known = recent.get(incarnation)
                is_far = known is not None and sequence - known.stop >= MAX_GAP
                # One report stands for all frames in between.
                recent[incarnation] = _with(None if is_far else known, sequence)
        lost = FrameRecord(camera=self._camera, ingested_ns=int(self._book.last_ns))
        for lost.incarnation, numbers in recent.items():
            for sequence in numbers[-REMEMBERED_OUTCOMES:]:
                if (lost.incarnation, sequence) not in self._closed:
                    self._enter_unknown(lost, sequence)
        return frozenset(self._closed)

    def _remember(self, key: Key) -> None:
        self._closed.add(key)
        self._closed_order.append(key)
        if len(self._closed_order) > REMEMBERED_OUTCOMES:
            self._closed.discard(self._closed_order.popleft())


def _key(record: FrameRecord) -> Key:
    return (record.incarnation, record.sequence)


def _order(record: FrameRecord) -> tuple[int, int]:
    return (record.ingested_ns, record.sequence)


def _with(numbers: range | None, number: int) -> range:
    """The range that includes a number too."""
    if numbers is None:
        return range(number, number + 1)
    return range(min(numbers.start, number), max(numbers.stop, number + 1))
