"""The accounting beside a graph whose processes crash at any moment."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from records import (
    DEGRADED,
    FAILED,
    LATE,
    OK,
    SKIPPED_LATE,
    SUPERSEDED,
    TIMEOUT_NS,
    copy,
    entry,
    key_of,
    outcome,
    takeover,
)

from perception_nodes.core.frame import FrameStatus, RecordKind
from perception_nodes.watchdog.ledger import Ledger, LedgerBook


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
