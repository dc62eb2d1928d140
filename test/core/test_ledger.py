"""The accounting: each frame that enters is reported once, whatever becomes of the processes."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.core.ledger import REMEMBERED_OUTCOMES, Ledger, LedgerBook

TIMEOUT_NS = 1_000
OK, LATE, SKIPPED_LATE, SUPERSEDED, DEGRADED, FAILED = FrameStatus


def entry(sequence, process=1, ingested_ns=None, sent_ns=0):
    return FrameRecord(
        kind=RecordKind.ENTERED,
        sequence=sequence,
        ingest_process=process,
        ingested_ns=sequence if ingested_ns is None else ingested_ns,
        sent_ns=sent_ns,
    )


def outcome(sequence, process=1, status=OK, reached_detector=True, ingested_ns=None, sent_ns=1):
    record = entry(sequence, process, ingested_ns, sent_ns)
    record.kind, record.status = RecordKind.OUTCOME, status
    record.preprocessed_ns = 1 if reached_detector else 0
    return record


def takeover(begun=(0, 0), reason=b"detector 7 died", joined_ns=0, sent_ns=0):
    record = FrameRecord(kind=RecordKind.TAKEOVER, reason=reason, joined_ns=joined_ns)
    record.ingest_process, record.sequence = begun
    record.sent_ns = sent_ns
    return record


def key_of(record):
    return (record.ingest_process, record.sequence)


def copy(record):
    return FrameRecord.from_buffer_copy(record)


def names(reports):
    return [(report.sequence, FrameStatus(report.status).name) for report in reports]


class TestLedger:
    def test_a_frame_is_in_flight_until_its_outcome(self):
        ledger = Ledger(TIMEOUT_NS)
        assert ledger.take([entry(0)]) == []
        assert (ledger.frames_in, ledger.in_flight) == (1, 1)
        assert names(ledger.take([outcome(0)])) == [(0, "OK")]
        assert (ledger.frames_in, ledger.in_flight) == (1, 0)
        assert ledger.counts[OK] == 1

    def test_records_count_in_the_order_they_were_sent(self):
        ledger = Ledger(TIMEOUT_NS)
        records = [outcome(1, sent_ns=4), outcome(0, sent_ns=3), entry(0), entry(1, sent_ns=2)]
        assert names(ledger.take(records)) == [(0, "OK"), (1, "OK")]
        assert (ledger.frames_in, ledger.in_flight) == (2, 0)

    def test_frames_that_the_detector_passed_over_were_superseded(self):
        ledger = Ledger(TIMEOUT_NS)
        reports = ledger.take([*map(entry, range(3)), outcome(2)])
        assert names(reports) == [(0, "SUPERSEDED"), (1, "SUPERSEDED"), (2, "OK")]
        assert reports[0].reason == b"a newer frame took its place"

    def test_frames_of_a_replaced_process_are_passed_over_too(self):
        ledger = Ledger(TIMEOUT_NS)
        records = [entry(8, process=1, ingested_ns=10), entry(0, process=2, ingested_ns=20)]
        reports = ledger.take([*records, outcome(0, process=2, ingested_ns=20)])
        assert names(reports) == [(8, "SUPERSEDED"), (0, "OK")]

    def test_late_records_of_a_replaced_process_harm_no_frame(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([entry(8, process=1, ingested_ns=10), entry(0, process=2, ingested_ns=20)])
        assert ledger.take([entry(9, process=1, ingested_ns=15)]) == []
        assert names(ledger.take([outcome(9, process=1, ingested_ns=15)])) == [
            (8, "SUPERSEDED"),
            (9, "OK"),
        ]
        assert names(ledger.take([outcome(0, process=2, ingested_ns=20)])) == [(0, "OK")]

    def test_a_frame_that_failed_before_the_detector_supersedes_none(self):
        ledger = Ledger(TIMEOUT_NS)
        failed = outcome(1, status=FAILED, reached_detector=False)
        assert names(ledger.take([entry(0), entry(1), failed])) == [(1, "FAILED")]
        assert ledger.in_flight == 1

    def test_a_newer_frame_in_flight_is_untouched(self):
        ledger = Ledger(TIMEOUT_NS)
        assert names(ledger.take([entry(0), entry(1), outcome(0)])) == [(0, "OK")]
        assert ledger.in_flight == 1

    def test_the_frame_that_a_dead_detector_held_failed_with_that_reason(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([*map(entry, range(3)), takeover(begun=(1, 1))])
        reports = ledger.take([outcome(2)])
        assert names(reports) == [(0, "SUPERSEDED"), (1, "FAILED"), (2, "OK")]
        assert reports[1].reason == b"detector 7 died"

    def test_what_it_had_finished_before_it_died_counts(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([entry(0), takeover(begun=(1, 0))])
        assert names(ledger.take([outcome(0)])) == [(0, "OK")]

    def test_frames_that_no_detector_received_failed(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([*map(entry, range(4)), takeover(joined_ns=2)])
        reports = ledger.take([outcome(3)])
        assert names(reports) == [(0, "FAILED"), (1, "FAILED"), (2, "SUPERSEDED"), (3, "OK")]
        assert reports[0].reason == b"no detector was running when it came"

    def test_what_is_in_flight_when_the_last_detector_dies_failed(self):
        ledger = Ledger(2_000_000)
        ledger.take([entry(0, ingested_ns=5)])
        ledger.detector_died("detector 7 died")
        (report,) = ledger.expire(2_000_006)
        assert (report.status, report.reason) == (FAILED, b"detector 7 died")

    def test_an_outcome_whose_entry_was_lost_counts_as_both(self):
        ledger = Ledger(TIMEOUT_NS)
        assert names(ledger.take([outcome(7)])) == [(7, "OK")]
        assert ledger.frames_in == 1
        assert ledger.take([entry(7)]) == []
        assert (ledger.frames_in, ledger.in_flight) == (1, 0)

    def test_a_frame_of_which_no_record_came_is_missed_and_failed(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([entry(3), outcome(3)])
        reports = ledger.take([entry(6), outcome(6)])
        assert names(reports) == [(4, "FAILED"), (5, "FAILED"), (6, "OK")]
        assert reports[0].reason == b"its records were lost on the way to the watchdog"
        assert ledger.frames_in == 4

    def test_a_frame_that_was_missed_and_ends_after_all_has_its_own_status(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([entry(3), outcome(3), entry(5)])
        assert names(ledger.take([outcome(4, status=LATE)])) == [(4, "LATE")]
        assert names(ledger.take([outcome(5)])) == [(5, "OK")]

    def test_a_repeated_outcome_is_counted_apart(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([entry(0), outcome(0)])
        assert ledger.take([outcome(0, status=LATE)]) == []
        assert ledger.repeated_outcomes == 1
        assert ledger.counts[LATE] == 0

    def test_a_frame_without_an_outcome_expires_as_failed(self):
        ledger = Ledger(2_000_000)
        ledger.take([entry(0, ingested_ns=5_000_000)])
        assert ledger.expire(7_000_000) == []
        (report,) = ledger.expire(7_000_001)
        assert names([report]) == [(0, "FAILED")]
        assert report.reason == b"no outcome within 2 ms"

    def test_the_same_sequence_of_two_processes_is_two_frames(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.take([entry(0, process=1), outcome(0, process=1)])
        ledger.take([entry(0, process=2, ingested_ns=9)])
        assert names(ledger.take([outcome(0, process=2, ingested_ns=9)])) == [(0, "OK")]
        assert ledger.frames_in == 2

    def test_a_successor_reports_what_was_not_and_nothing_twice(self):
        book = LedgerBook()
        ledger = Ledger(TIMEOUT_NS, book)
        sent = [entry(0), outcome(0), entry(1), entry(2), outcome(2)]
        for report in ledger.take(map(copy, sent[:2])):
            ledger.reported(report)
        ledger.take(map(copy, sent[2:]))  # died before it could tell

        successor = Ledger(TIMEOUT_NS, book)
        assert names(successor.take([*sent, entry(4), outcome(4)])) == [
            (1, "SUPERSEDED"),
            (2, "OK"),
            (3, "FAILED"),
            (4, "OK"),
        ]
        assert (successor.frames_in, successor.counts[OK]) == (5, 3)
        assert successor.repeated_outcomes == 0

    def test_frames_that_nobody_has_heard_of_before_the_successor_are_missed(self):
        book = LedgerBook()
        ledger = Ledger(TIMEOUT_NS, book)
        for report in ledger.take([entry(0), outcome(0)]):
            ledger.reported(report)
        successor = Ledger(TIMEOUT_NS, book)
        reports = successor.take([entry(2), outcome(2)])
        assert names(reports) == [(1, "FAILED"), (2, "OK")]
        for report in reversed(reports):
            successor.reported(report)
        assert book.last_ns == 1, "when the last of them was sent, not the lost one"

    def test_the_book_is_a_ring(self):
        book = LedgerBook()
        ledger = Ledger(TIMEOUT_NS, book)
        for sequence in range(REMEMBERED_OUTCOMES + 100):
            for report in ledger.take([entry(sequence), outcome(sequence)]):
                ledger.reported(report)
        successor = Ledger(TIMEOUT_NS, book)
        assert successor.frames_in == REMEMBERED_OUTCOMES + 100
        assert successor.take([entry(100), outcome(100)]) == []

    def test_memory_is_bounded(self):
        ledger = Ledger(TIMEOUT_NS)
        for sequence in range(REMEMBERED_OUTCOMES + 100):
            ledger.take([entry(sequence), outcome(sequence)])
        ledger.take([entry(10**9), outcome(10**9)])
        assert len(ledger._closed) == len(ledger._closed_order) == REMEMBERED_OUTCOMES
        assert not ledger._reasons


class Detector:
    """Takes slots since it was started; two wait for it at most."""

    def __init__(self, name, joined_ns):
        self.name, self.joined_ns = name, joined_ns
        self.waiting = deque(maxlen=2)


class GraphMachine(RuleBasedStateMachine):
    """Preprocessing, detector, standby and watchdog under a clock of the test's own.

    `truth` says for every frame what may be told of it. Processes crash and are replaced at any
    moment, the watchdog reads when it comes to it.
    """

    lossy = False

    def __init__(self):
        super().__init__()
        self.book = LedgerBook()
        self.ledger = Ledger(TIMEOUT_NS, self.book)
        self.history = {}  # all records, by sender
        self.now_ns = 1
        self.started = 1
        self.channels = {}  # records under way, by sender; those of detectors are read first
        self.truth, self.entered_ns, self.reported = {}, {}, {}
        self.holds = self.preprocess = None  # the frame in preprocessing
        self.begun = self.detector = self.standby = None
        self.preprocess_died_with = self.detector_died_with = None
        self.start_preprocess()
        self.start_detector()

    def tick(self):
        self.now_ns += 1
        return self.now_ns

    def send(self, sender, record, lost=False):
        record.sent_ns = self.tick()
        if not (lost and self.lossy):
            self.channels.setdefault(sender, []).append(record)
            self.history.setdefault(sender, []).append(copy(record))

    def new_name(self):
        self.started += 1
        return self.started

    def start_preprocess(self):
        self.preprocess, self.sequence = self.new_name(), 0
        begun = self.preprocess_died_with or (0, 0)
        self.send(("preprocess", self.preprocess), takeover(begun, b"preprocess died"))
        self.preprocess_died_with = None

    def start_detector(self):
        self.become_active(Detector(self.new_name(), self.tick()))

    def become_active(self, detector):
        self.detector = detector
        begun = self.detector_died_with or (0, 0)
        record = takeover(begun, b"detector died", detector.joined_ns)
        self.send(("detector", detector.name), record)
        self.detector_died_with = None

    def newer_than_begun(self, keys):
        return [k for k in keys if self.entered_ns[k] > self.entered_ns[self.begun]]

    def record_of(self, key, status=OK, reached=True):
        return outcome(key[1], key[0], status, reached, self.entered_ns[key])

    def is_free(self):
        return self.preprocess is not None and self.holds is None

    @precondition(is_free)
    @rule(lost=st.booleans())
    def a_frame_enters(self, lost):
        key = self.holds = (self.preprocess, self.sequence)
        self.sequence += 1
        self.entered_ns[key] = self.tick()
        self.truth[key] = set()
        self.send(("preprocess", key[0]), entry(key[1], key[0], self.entered_ns[key]), lost)

    @precondition(lambda self: self.holds)
    @rule(status=st.sampled_from([FAILED, SUPERSEDED]), lost=st.booleans())
    def it_ends_in_preprocessing(self, status, lost):
        key, self.holds = self.holds, None
        self.truth[key] = {status}
        self.send(("preprocess", key[0]), self.record_of(key, status, False), lost)

    @precondition(lambda self: self.holds)
    @rule()
    def it_goes_to_the_detectors(self):
        key, self.holds = self.holds, None
        for detector in filter(None, (self.detector, self.standby)):
            detector.waiting.append(key)
        if self.detector is None and self.standby is None:
            self.truth[key] = {FAILED}

    @precondition(is_free)
    @rule()
    def a_frame_goes_through_preprocessing(self):
        self.a_frame_enters(lost=False)
        self.it_goes_to_the_detectors()

    @precondition(lambda self: self.detector and self.detector.waiting and not self.begun)
    @rule(status=st.sampled_from([OK, LATE]))
    def the_detector_does_the_newest(self, status):
        self.the_detector_begins_the_newest()
        self.the_detector_ends_it(status=status, lost=False)

    @precondition(lambda self: self.detector and self.detector.waiting and not self.begun)
    @rule()
    def the_detector_begins_the_newest(self):
        self.begun = self.detector.waiting[-1]
        self.detector.waiting.clear()
        if self.standby:
            newer = self.newer_than_begun(self.standby.waiting)
            self.standby.waiting = deque(newer, maxlen=2)
        for key, entered_ns in self.entered_ns.items():
            if entered_ns < self.entered_ns[self.begun] and not self.truth[key]:
                unseen = entered_ns < self.detector.joined_ns
                self.truth[key] = {FAILED, SUPERSEDED} if unseen else {SUPERSEDED}

    @precondition(lambda self: self.begun)
    @rule(status=st.sampled_from([OK, LATE, SKIPPED_LATE, DEGRADED, FAILED]), lost=st.booleans())
    def the_detector_ends_it(self, status, lost):
        key, self.begun = self.begun, None
        self.truth[key] = {status}
        self.send(("detector", self.detector.name), self.record_of(key, status), lost)

    @precondition(lambda self: self.preprocess)
    @rule()
    def preprocessing_dies(self):
        if self.holds:
            self.truth[self.holds] = {FAILED}
            self.preprocess_died_with, self.holds = self.holds, None
        self.preprocess = None

    @precondition(lambda self: self.preprocess is None)
    @rule()
    def preprocessing_is_replaced(self):
        self.start_preprocess()

    @precondition(lambda self: self.detector)
    @rule()
    def the_detector_dies(self):
        if self.begun:
            self.truth[self.begun] = {FAILED}
            self.detector_died_with, self.begun = self.begun, None
        self.detector = None
        if self.standby is None:
            self.the_last_detector_died()

    @precondition(lambda self: self.standby)
    @rule()
    def the_standby_dies(self):
        self.standby = None
        if self.detector is None:
            self.the_last_detector_died()

    def the_last_detector_died(self):
        for key, allowed in self.truth.items():
            if not allowed:
                self.truth[key] = set() if key == self.holds else {FAILED}
            elif allowed == {SUPERSEDED} or allowed == {OK}:
                # It may be told of those that nobody has told of yet.
                self.truth[key] = allowed | {FAILED}
        self.the_watchdog_reads()
        self.ledger.detector_died("detector died")

    @precondition(lambda self: self.detector and not self.standby)
    @rule()
    def a_standby_starts(self):
        self.standby = Detector(self.new_name(), self.tick())

    @precondition(lambda self: self.detector is None)
    @rule()
    def another_detector_takes_over(self):
        if self.standby:
            standby, self.standby = self.standby, None
            if self.detector_died_with in standby.waiting:
                standby.waiting.remove(self.detector_died_with)
            self.become_active(standby)
        else:
            self.start_detector()

    @rule()
    def the_watchdog_reads(self):
        senders = sorted(self.channels)  # detectors first, as the watchdog does
        self.hear(self.ledger.take([r for s in senders for r in self.channels.pop(s)]))

    def no_frame_of_the_dead_is_open(self):
        """Otherwise what they have sent last is known to nobody any more."""
        alive = {self.preprocess, self.detector and self.detector.name}
        return not self.lossy and all(
            record.kind == RecordKind.TAKEOVER or key_of(record) in self.reported
            for sender, records in self.history.items()
            for record in records
            if sender[1] not in alive
        )

    @precondition(no_frame_of_the_dead_is_open)
    @rule()
    def the_watchdog_dies_and_its_successor_reads_the_history(self):
        self.ledger = Ledger(TIMEOUT_NS, self.book)
        self.channels = {
            sender: [copy(record) for record in records] for sender, records in self.history.items()
        }
        self.the_watchdog_reads()

    @rule(elapsed_ns=st.integers(1, TIMEOUT_NS // 8))
    def time_passes(self, elapsed_ns):
        self.now_ns += elapsed_ns
        self.the_watchdog_reads()
        self.hear(self.ledger.expire(self.now_ns))

    def hear(self, reports):
        for report in reports:
            key = key_of(report)
            self.ledger.reported(report)
            assert key not in self.reported, f"{key} was reported twice"
            assert key in self.truth, f"{key} never was"
            status = self.reported[key] = FrameStatus(report.status)
            if b"no outcome within" in report.reason:
                assert self.now_ns - self.entered_ns[key] > TIMEOUT_NS
            elif not self.lossy and self.truth[key]:
                assert status in self.truth[key], (key, status, self.truth[key], report.reason)

    @invariant()
    def in_is_the_sum_of_outs(self):
        assert self.ledger.balanced
        assert len(self.reported) == sum(self.ledger.counts.values())

    def teardown(self):
        self.time_passes(2 * TIMEOUT_NS)
        assert self.ledger.in_flight == 0
        missing = set(self.truth) - set(self.reported)
        assert not missing or self.lossy
        # What is lost at the very beginning or end of a process leaves no gap to be seen by.
        for process in {process for process, _ in missing}:
            told = [sequence for p, sequence in self.reported if p == process]
            assert not any(
                min(told) < sequence < max(told) for p, sequence in missing if p == process and told
            )


class LossyGraphMachine(GraphMachine):
    """The same, where records get lost on the way to the watchdog."""

    lossy = True


for machine in (GraphMachine, LossyGraphMachine):
    machine.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestAnyInterleaving = GraphMachine.TestCase
TestAnyInterleavingWithLosses = LossyGraphMachine.TestCase
