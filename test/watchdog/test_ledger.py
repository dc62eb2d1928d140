"""The accounting: each frame that enters is reported once, whatever becomes of the processes."""

from contextlib import nullcontext

import pytest
from records import DETECTOR, FAILED, FIRST_NS, LATE, TIMEOUT_NS, entry, outcome, takeover

from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.records import Left
from perception_nodes.watchdog.detectors import REMEMBERED_DETECTORS
from perception_nodes.watchdog.ledger import (
    DETECTOR_STOPPED,
    RECORDS_LOST,
    REMEMBERED_OUTCOMES,
    Ledger,
    LedgerBook,
)

PASSED_OVER = b"a newer frame took its place"
NO_DETECTOR = b"no detector is known to have been working when it came"


def names(reports):
    return [(report.sequence, FrameStatus(report.status).name) for report in reports]


@pytest.fixture
def book():
    return LedgerBook()


@pytest.fixture
def ledger(book):
    return Ledger(TIMEOUT_NS, book)


@pytest.fixture
def informed(ledger):
    """A ledger that knows of a detector since before the first frame."""
    ledger.take([takeover(joined_ns=1)])
    return ledger


def tell(ledger, records):
    """The reports of what records say, which are out afterwards."""
    reports = ledger.take(records)
    for report in reports:
        ledger.reported(report)
    return reports


class TestLedger:
    def test_of_a_detector_that_nobody_has_told_of_its_first_outcome_tells(self, ledger):
        reports = ledger.take([*map(entry, range(4)), outcome(1), outcome(3, sent_ns=2)])
        assert names(reports) == [(0, "FAILED"), (1, "OK"), (2, "SUPERSEDED"), (3, "OK")]
        assert reports[0].reason == NO_DETECTOR

    def test_a_successor_knows_which_detectors_there_were(self, ledger, book):
        ledger.take([takeover(joined_ns=1), takeover(joined_ns=2, sent_ns=5, detector=8)])
        ledger.died(8, FIRST_NS + 1)
        successor = Ledger(TIMEOUT_NS, book)
        successor.take(map(entry, range(2)))
        first, second = successor.expire(TIMEOUT_NS + 20)
        assert first.reason == DETECTOR_STOPPED % 8
        assert second.reason == NO_DETECTOR

    def test_of_many_detectors_the_last_ones_are_remembered(self, ledger, book):
        joined = range(1, REMEMBERED_DETECTORS + 9)
        starts = [takeover(joined_ns=n, sent_ns=n, detector=n) for n in joined]
        ledger.take(starts)
        ledger.take(starts[:4])  # read again, they do not displace newer ones
        ledger.take([outcome(0, detector=72, sent_ns=100)])
        assert [d.process for d in book.detectors if d.newest_ns] == [72]

    def test_a_frame_of_which_no_record_came_is_missed_and_failed(self, ledger):
        ledger.take([entry(3), outcome(3)])
        reports = ledger.take([entry(6), outcome(6)])
        assert names(reports) == [(4, "FAILED"), (5, "FAILED"), (6, "OK")]
        assert reports[0].reason == RECORDS_LOST
        assert ledger.frames_in == 4

    def test_many_frames_of_which_no_record_came_are_one_report_and_none_is_forgotten(self, ledger):
        ledger.take([entry(0), outcome(0)])
        reports = ledger.take([entry(7300), outcome(7300)])
        many = [report for report in reports if b"one report for" in report.reason]
        assert [report.reason.split(b",")[0] for report in many] == [b"one report for 7043 frames"]
        alone = [report for report in reports if report.reason == RECORDS_LOST]
        assert len(alone) + 7043 == 7299
        assert ledger.frames_in == 2 + len(alone) + len(many)
        assert ledger.balanced

    def test_what_one_report_told_of_is_not_told_again_by_the_next_watchdog(self, ledger, book):
        frames = [*range(100), *range(5000, 5100)]
        for sequence in frames:
            tell(ledger, [entry(sequence), outcome(sequence)])
        successor = Ledger(TIMEOUT_NS, book)
        assert (successor.in_flight, successor.frames_in) == (0, ledger.frames_in)

    def test_a_lost_frame_is_reported_with_the_stamps_around_it(self, ledger):
        records = [entry(0), outcome(0), entry(3), outcome(3)]
        for record in records:
            record.stamp_ns = 100 + record.sequence
        lost = [report for report in ledger.take(records) if report.status == FAILED]
        around = [(r.sequence, r.lost_after_ns, r.lost_before_ns) for r in lost]
        assert around == [(1, 100, 103), (2, 100, 103)]

    def test_a_repeated_outcome_is_counted_apart(self, ledger):
        ledger.take([entry(0), outcome(0)])
        assert ledger.take([outcome(0, status=LATE)]) == []
        assert ledger.repeated_outcomes == 1
        assert ledger.counts[LATE] == 0

    def test_a_frame_without_an_outcome_expires_as_failed(self):
        ledger = Ledger(2_000_000)
        ledger.take([takeover(joined_ns=1), entry(0, ingested_ns=5_000_000)])
        assert ledger.expire(7_000_000) == []
        (report,) = ledger.expire(7_000_001)
        assert names([report]) == [(0, "FAILED")]
        assert report.reason == b"no outcome within 2 ms"

    def test_when_the_graph_ends_all_frames_end(self, informed):
        informed.take([entry(0), outcome(0), entry(1), entry(2)])
        reports = informed.end()
        assert names(reports) == [(1, "FAILED"), (2, "FAILED")]
        assert reports[0].reason == b"the graph was stopped before its outcome"
        assert (informed.in_flight, informed.balanced) == (0, True)
        assert informed.end() == []

    def test_frames_that_nobody_has_heard_of_before_the_successor_are_missed(self, ledger, book):
        tell(ledger, [entry(0), outcome(0)])
        successor = Ledger(TIMEOUT_NS, book)
        reports = successor.take([entry(2), outcome(2)])
        assert names(reports) == [(1, "FAILED"), (2, "OK")]
        for report in reversed(reports):
            successor.reported(report)
        assert book.last_ns == 1, "when the last of them was sent, not the lost one"

    def test_a_gap_between_reported_frames_is_known_to_the_successor(self, ledger, book):
        facts = {"status": FAILED, "reached_detector": False, "sent_ns": 50}
        tell(ledger, [outcome(n, **facts) for n in (0, 1, 4)])  # dies before it tells of 2 and 3
        successor = Ledger(TIMEOUT_NS, book, "front")
        assert (successor.frames_in, successor.in_flight) == (5, 2)
        assert names(successor.take([outcome(3)])) == [(3, "OK")]
        (report,) = successor.expire(TIMEOUT_NS + 51)
        assert names([report]) == [(2, "FAILED")]
        assert (report.camera, report.reason) == (b"front", RECORDS_LOST)

    def test_a_gap_before_the_first_reported_frame_is_seen_when_an_older_one_is_read_again(
        self, ledger, book
    ):
        failed = outcome(2, status=FAILED, reached_detector=False, sent_ns=50)
        (*_, report) = ledger.take([entry(0), failed])
        ledger.reported(report)
        successor = Ledger(TIMEOUT_NS, book)
        successor.take([entry(0)])
        assert names(successor.expire(TIMEOUT_NS + 51)) == [(0, "FAILED"), (1, "FAILED")]

    def test_the_book_is_a_ring(self, ledger, book):
        for sequence in range(REMEMBERED_OUTCOMES + 100):
            tell(ledger, [entry(sequence), outcome(sequence)])
        successor = Ledger(TIMEOUT_NS, book)
        assert successor.frames_in == REMEMBERED_OUTCOMES + 100
        assert successor.take([entry(101), outcome(101)]) == []

    @pytest.mark.parametrize("count", [1, REMEMBERED_OUTCOMES + 1])
    @pytest.mark.parametrize("last", ["last_ns", "reported"])
    def test_a_report_in_whose_note_a_watchdog_dies_is_not_forgotten(self, count, last):
        class Book(LedgerBook):
            def __setattr__(self, name, value):
                if name == self.dies_at:
                    raise SystemExit
                super().__setattr__(name, value)

            dies_at = None

        book = Book()
        ledger = Ledger(TIMEOUT_NS, book)
        for sequence in range(count):
            (report,) = ledger.take([entry(sequence), outcome(sequence)])
            Book.dies_at = last if sequence == count - 1 else None
            with nullcontext() if Book.dies_at is None else pytest.raises(SystemExit):
                ledger.reported(report)
        Book.dies_at = None
        again = [entry(count - 1), outcome(count - 1)]
        for _ in range(2):  # each is a watchdog, which reports one more
            ledger = Ledger(TIMEOUT_NS, book)
            assert ledger.take(again) == []
            assert ledger.reports == sum(book.counts) == ledger.frames_in == count
            (report,) = ledger.take([entry(count), outcome(count)])
            ledger.reported(report)
            count += 1

    def test_a_frame_at_a_detector_that_was_deactivated_failed_with_that_reason(self, informed):
        left = Left(sender=DETECTOR, sent_ns=FIRST_NS + 5)
        informed.take([entry(0), left, entry(1, ingested_ns=FIRST_NS + 9)])
        reasons = [report.reason for report in informed.expire(TIMEOUT_NS + 50)]
        assert reasons == [DETECTOR_STOPPED % DETECTOR, NO_DETECTOR]

    def test_memory_is_bounded(self, ledger):
        for sequence in range(REMEMBERED_OUTCOMES + 100):
            ledger.take([entry(sequence), outcome(sequence)])
        assert len(ledger._closed) == len(ledger._closed_order) == REMEMBERED_OUTCOMES
