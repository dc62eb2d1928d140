"""The accounting: each frame that enters is reported once, whatever the order of the records."""

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.core.ledger import REMEMBERED_OUTCOMES, Ledger

TIMEOUT_NS = 1_000


def entry(sequence, process=1, ingested_ns=0):
    return FrameRecord(sequence=sequence, ingest_process=process, ingested_ns=ingested_ns)


def outcome(sequence, process=1, status=FrameStatus.OK, reached_detector=True):
    return FrameRecord(
        sequence=sequence,
        ingest_process=process,
        status=status,
        preprocessed_ns=1 if reached_detector else 0,
    )


def names(reports):
    return [(report.sequence, FrameStatus(report.status).name) for report in reports]


class TestLedger:
    def test_a_frame_is_in_flight_until_its_outcome(self):
        ledger = Ledger(TIMEOUT_NS)
        assert ledger.enter(entry(0)) == []
        assert (ledger.frames_in, ledger.in_flight) == (1, 1)
        assert names(ledger.finish(outcome(0))) == [(0, "OK")]
        assert (ledger.frames_in, ledger.in_flight) == (1, 0)
        assert ledger.counts[FrameStatus.OK] == 1

    def test_frames_that_the_detector_passed_over_were_superseded(self):
        ledger = Ledger(TIMEOUT_NS)
        for sequence in range(3):
            ledger.enter(entry(sequence))
        reports = ledger.finish(outcome(2))
        assert names(reports) == [(0, "SUPERSEDED"), (1, "SUPERSEDED"), (2, "OK")]
        assert reports[0].reason == b"a newer frame took its place"

    def test_a_frame_that_failed_before_the_detector_supersedes_none(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.enter(entry(0))
        ledger.enter(entry(1))
        failed = outcome(1, status=FrameStatus.FAILED, reached_detector=False)
        assert names(ledger.finish(failed)) == [(1, "FAILED")]
        assert ledger.in_flight == 1

    def test_a_newer_frame_in_flight_is_untouched(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.enter(entry(0))
        ledger.enter(entry(1))
        assert names(ledger.finish(outcome(0))) == [(0, "OK")]
        assert ledger.in_flight == 1

    def test_an_outcome_whose_entry_was_lost_counts_as_both(self):
        ledger = Ledger(TIMEOUT_NS)
        assert names(ledger.finish(outcome(7))) == [(7, "OK")]
        assert ledger.frames_in == 1
        assert ledger.enter(entry(7)) == []
        assert (ledger.frames_in, ledger.in_flight) == (1, 0)

    def test_a_repeated_outcome_is_counted_apart(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.enter(entry(0))
        ledger.finish(outcome(0))
        assert ledger.finish(outcome(0, status=FrameStatus.LATE)) == []
        assert ledger.repeated_outcomes == 1
        assert ledger.counts[FrameStatus.LATE] == 0

    def test_a_frame_without_an_outcome_expires_as_failed(self):
        ledger = Ledger(2_000_000)
        ledger.enter(entry(0, ingested_ns=5_000_000))
        assert ledger.expire(7_000_000) == []
        (report,) = ledger.expire(7_000_001)
        assert names([report]) == [(0, "FAILED")]
        assert report.reason == b"no outcome within 2 ms"

    def test_a_replaced_process_takes_its_frames_with_it(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.enter(entry(0, process=1))
        ledger.enter(entry(1, process=1))
        reports = ledger.enter(entry(0, process=2))
        assert names(reports) == [(0, "FAILED"), (1, "FAILED")]
        assert {report.ingest_process for report in reports} == {1}
        assert b"replaced" in reports[0].reason
        assert (ledger.frames_in, ledger.in_flight) == (3, 1)

    def test_the_same_sequence_of_two_processes_is_two_frames(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.enter(entry(0, process=1))
        ledger.finish(outcome(0, process=1))
        ledger.enter(entry(0, process=2))
        assert names(ledger.finish(outcome(0, process=2))) == [(0, "OK")]
        assert ledger.frames_in == 2

    def test_close_all_fails_what_is_in_flight_with_the_reason(self):
        ledger = Ledger(TIMEOUT_NS)
        ledger.enter(entry(0))
        (report,) = ledger.close_all("the detector died")
        assert (report.status, report.reason) == (FrameStatus.FAILED, b"the detector died")
        assert ledger.in_flight == 0

    def test_memory_is_bounded(self):
        ledger = Ledger(TIMEOUT_NS)
        for sequence in range(REMEMBERED_OUTCOMES + 100):
            ledger.enter(entry(sequence))
            ledger.finish(outcome(sequence))
        assert len(ledger._closed) == len(ledger._closed_order) == REMEMBERED_OUTCOMES


class LedgerMachine(RuleBasedStateMachine):
    """Cameras, a preprocessor and a detector that die, lose records and repeat themselves."""

    def __init__(self):
        super().__init__()
        self.ledger = Ledger(TIMEOUT_NS)
        self.now_ns = 0
        self.process = 1
        self.sequence = 0
        self.at_detector = []
        self.outcomes = []
        self.known = set()  # frames that the ledger has heard of
        self.reported = {}

    def take(self, reports):
        for report in reports:
            key = (report.ingest_process, report.sequence)
            assert key not in self.reported, f"{key} was reported twice"
            self.reported[key] = FrameStatus(report.status)

    def hear(self, record, method):
        self.known.add((record.ingest_process, record.sequence))
        self.take(method(copy.copy(record)))

    def next_frame(self):
        record = entry(self.sequence, self.process, self.now_ns)
        self.sequence += 1
        return record

    @rule(entry_is_lost=st.booleans())
    def a_frame_is_preprocessed(self, entry_is_lost):
        record = self.next_frame()
        if not entry_is_lost:
            self.hear(record, self.ledger.enter)
        self.at_detector.append(record)

    @rule(status=st.sampled_from([FrameStatus.FAILED, FrameStatus.SUPERSEDED]), lost=st.booleans())
    def a_frame_ends_in_preprocessing(self, status, lost):
        record = self.next_frame()
        self.hear(record, self.ledger.enter)
        if not lost:
            ended = outcome(record.sequence, record.ingest_process, status, False)
            self.outcomes.append(ended)
            self.hear(ended, self.ledger.finish)

    @precondition(lambda self: self.at_detector)
    @rule(
        data=st.data(),
        status=st.sampled_from(
            [FrameStatus.OK, FrameStatus.LATE, FrameStatus.SKIPPED_LATE, FrameStatus.FAILED]
        ),
        lost=st.booleans(),
    )
    def the_detector_takes_a_newer_frame(self, data, status, lost):
        chosen = data.draw(st.integers(0, len(self.at_detector) - 1))
        record = self.at_detector[chosen]
        del self.at_detector[: chosen + 1]
        if lost:
            return
        ended = outcome(record.sequence, record.ingest_process, status)
        self.outcomes.append(ended)
        self.hear(ended, self.ledger.finish)

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def an_outcome_is_repeated(self, data):
        repeated = self.ledger.repeated_outcomes
        ended = data.draw(st.sampled_from(self.outcomes))
        assert self.ledger.finish(copy.copy(ended)) == []
        assert self.ledger.repeated_outcomes == repeated + 1

    @rule(elapsed_ns=st.integers(1, 2 * TIMEOUT_NS))
    def time_passes(self, elapsed_ns):
        self.now_ns += elapsed_ns
        self.take(self.ledger.expire(self.now_ns))

    @rule()
    def the_preprocessor_is_replaced(self):
        self.process += 1
        self.sequence = 0

    @rule()
    def the_detector_is_replaced(self):
        self.at_detector.clear()
        self.take(self.ledger.close_all("the detector died"))

    @invariant()
    def in_is_the_sum_of_outs(self):
        ledger = self.ledger
        assert ledger.frames_in == sum(ledger.counts.values()) + ledger.in_flight

    @invariant()
    def every_known_frame_is_reported_or_in_flight(self):
        assert self.ledger.frames_in == len(self.known)
        assert len(self.reported) == sum(self.ledger.counts.values())
        assert self.known >= set(self.reported)

    def teardown(self):
        self.take(self.ledger.expire(self.now_ns + 2 * TIMEOUT_NS))
        assert set(self.reported) == self.known
        assert self.ledger.in_flight == 0


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyInterleaving = LedgerMachine.TestCase
