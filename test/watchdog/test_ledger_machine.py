"""The accounting beside a graph whose processes crash at any moment.

What a report says, status and reason, is compared with a diary of what really happened to the
frame. The diary knows all; the ledger knows the records, and may say only what is true by it.
"""

import re
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

from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.watchdog.ledger import Ledger, LedgerBook

PASSED_OVER = b"a newer frame took its place"
NO_DETECTOR = b"no detector is known to have been working when it came"
MAY_BE_OUT = b"; its detections may have been published"
RECORDS_LOST = b"its records were lost on the way to the watchdog" + MAY_BE_OUT
WAITED = b"no outcome within 0 ms"


class Detector:
    """Takes slots since it was started; two wait for it at most."""

    def __init__(self, name, joined_ns):
        self.name, self.joined_ns = name, joined_ns
        self.is_working = False
        self.waiting = deque(maxlen=2)


class Diary:
    """What happened to a frame.

    `passers` are the detectors that were running when it came and went on to a newer one; `told`
    says whether a record tells of one. `held` are the deaths that it was in hand at, in order.
    """

    def __init__(self, entered_ns, detector_works):
        self.entered_ns, self.detector_works = entered_ns, detector_works
        self.outcome = None  # status, reason
        self.passers, self.told, self.held = set(), False, []
        self.entry_lost = self.outcome_lost = False


class GraphMachine(RuleBasedStateMachine):
    """Preprocessing, detector, standby and watchdog under a clock of the test's own.

    Processes crash and are replaced at any moment, the watchdog reads when it comes to it, and sees
    later still who has died.
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
        self.diaries, self.detectors, self.reported = {}, {}, {}
        self.unseen_dead = []
        # By sender: how many records it sent, and when the last one that came.
        self.sent, self.newest_ns_of = {}, {}
        # Who has lost the last ones, and when the first one came after such a loss.
        self.is_lossy, self.gaps_ns = set(), []
        # What outlives its writer: the frame in hand, the last one entered or taken, who held it.
        self.holds = self.preprocess = self.entered = None
        self.begun = self.detector = self.standby = None
        self.preprocess_held = self.detector_held = None
        self.preprocess_before = self.detector_before = self.newest_ns = 0
        self.start_preprocess()
        self.start_detector()

    def tick(self):
        self.now_ns += 1
        return self.now_ns

    def send(self, sender, record, lost=False):
        record.process = record.sender = sender[1]
        record.sent_ns, record.record = self.tick(), self.sent.get(sender, 0)
        self.sent[sender] = record.record + 1
        if lost and self.lossy:
            self.is_lossy.add(sender)
            return False
        self.newest_ns_of[sender] = record.sent_ns
        if sender in self.is_lossy:
            self.is_lossy.remove(sender)
            self.gaps_ns.append(record.sent_ns)
        self.channels.setdefault(sender, []).append(record)
        self.history.setdefault(sender, []).append(copy(record))
        return True

    def new_name(self):
        self.started += 1
        return self.started

    def takeover(self, role, name, before, held, **facts):
        reason = b"%s %d died" % (role.encode(), before) if before else b""
        self.send((role, name), takeover(held or (0, 0), reason, predecessor=before, **facts))
        if held:
            self.diaries[held].held.append(reason)

    def start_preprocess(self):
        self.preprocess, self.sequence = self.new_name(), 0
        self.takeover("preprocess", self.preprocess, self.preprocess_before, self.preprocess_held)
        self.preprocess_before, self.preprocess_held = 0, None
        if self.entered:
            self.send(("preprocess", self.preprocess), copy(self.entered))

    def start_detector(self):
        self.become_active(self.new_detector())

    def new_detector(self):
        started = Detector(self.new_name(), self.tick())
        self.detectors[started.name] = started
        return started

    def become_active(self, detector):
        self.detector, detector.is_working = detector, True
        facts = {"joined_ns": detector.joined_ns, "newest_ns": self.newest_ns}
        self.takeover("detector", detector.name, self.detector_before, self.detector_held, **facts)
        before = self.detectors.get(self.detector_before)
        self.detector_before, self.detector_held = 0, None
        self.goes_on_behind_the_newest()
        for diary in self.diaries.values():
            diary.told |= bool(diary.passers & {detector, before})

    def goes_on_behind_the_newest(self):
        """Who works never takes an older frame than the one that was taken last."""
        for detector in filter(None, (self.detector, self.standby)):
            newer = [k for k in detector.waiting if self.diaries[k].entered_ns > self.newest_ns]
            detector.waiting = deque(newer, maxlen=2)
        for diary in self.diaries.values():
            if self.detector.joined_ns <= diary.entered_ns < self.newest_ns:
                diary.passers.add(self.detector)

    def end(self, sender, key, status, reached, lost):
        """Somebody tells of a frame's end."""
        diary = self.diaries[key]
        record = outcome(key[1], key[0], status, reached, diary.entered_ns)
        record.reason = b"as told by %d" % sender[1]
        diary.outcome = (status, record.reason)
        diary.outcome_lost = not self.send(sender, record, lost)
        diary.told_by = sender, record.sent_ns
        return not diary.outcome_lost

    def is_free(self):
        return self.preprocess is not None and self.holds is None

    @precondition(is_free)
    @rule(lost=st.booleans())
    def a_frame_enters(self, lost):
        self.a_frame_is_entered()
        sent = self.send(("preprocess", self.preprocess), copy(self.entered), lost)
        self.diaries[self.holds].entry_lost = not sent

    def a_frame_is_entered(self):
        key = self.holds = (self.preprocess, self.sequence)
        self.sequence += 1
        self.diaries[key] = Diary(self.tick(), self.detector is not None)
        self.entered = entry(key[1], key[0], self.diaries[key].entered_ns)

    @precondition(is_free)
    @rule()
    def preprocessing_dies_before_it_tells_of_a_frame(self):
        self.a_frame_is_entered()
        self.preprocessing_dies()

    @precondition(lambda self: self.holds)
    @rule(status=st.sampled_from([FAILED, SUPERSEDED]), lost=st.booleans(), dies=st.booleans())
    def it_ends_in_preprocessing(self, status, lost, dies):
        self.end(("preprocess", self.preprocess), self.holds, status, False, lost)
        if dies:
            self.preprocessing_dies()
        self.holds = None

    @precondition(lambda self: self.holds)
    @rule(dies=st.booleans())
    def it_goes_to_the_detectors(self, dies):
        for detector in filter(None, (self.detector, self.standby)):
            detector.waiting.append(self.holds)
        if dies:
            self.preprocessing_dies()
        self.holds = None

    @precondition(is_free)
    @rule()
    def a_frame_goes_through_preprocessing(self):
        self.a_frame_enters(lost=False)
        self.it_goes_to_the_detectors(dies=False)

    @precondition(lambda self: self.detector and self.detector.waiting and not self.begun)
    @rule(status=st.sampled_from([OK, LATE]))
    def the_detector_does_the_newest(self, status):
        self.the_detector_begins_the_newest()
        self.the_detector_ends_it(status=status, lost=False, dies=False)

    @precondition(lambda self: self.detector and self.detector.waiting and not self.begun)
    @rule()
    def the_detector_begins_the_newest(self):
        self.begun = self.detector.waiting[-1]
        self.newest_ns = self.diaries[self.begun].entered_ns
        self.goes_on_behind_the_newest()

    @precondition(lambda self: self.begun)
    @rule(
        status=st.sampled_from([OK, LATE, SKIPPED_LATE, DEGRADED, FAILED]),
        lost=st.booleans(),
        dies=st.booleans(),
    )
    def the_detector_ends_it(self, status, lost, dies):
        if self.end(("detector", self.detector.name), self.begun, status, True, lost):
            for diary in self.diaries.values():
                diary.told |= self.detector in diary.passers
        if dies:
            self.the_detector_dies()
        self.begun = None

    @precondition(lambda self: self.preprocess)
    @rule()
    def preprocessing_dies(self):
        self.preprocess_before, self.preprocess_held = self.preprocess, self.holds
        self.unseen_dead.append(self.preprocess)
        self.preprocess = self.holds = None

    @precondition(is_free)
    @rule()
    def preprocessing_stops_in_good_order(self):
        self.preprocess = None

    @precondition(lambda self: self.preprocess is None)
    @rule()
    def preprocessing_is_replaced(self):
        self.start_preprocess()

    @precondition(lambda self: self.detector)
    @rule()
    def the_detector_dies(self):
        self.detector_before, self.detector_held = self.detector.name, self.begun
        self.unseen_dead.append(self.detector.name)
        self.detector.is_working = False
        self.detector = self.begun = None

    @precondition(lambda self: self.detector and not self.begun)
    @rule()
    def the_detector_stops_in_good_order(self):
        self.detector.is_working = False
        self.detector = None

    @precondition(lambda self: self.detector and not self.begun and not self.standby)
    @rule()
    def the_detector_steps_back(self):
        """It is deactivated, lets go of what waits, and may be activated again."""
        self.standby, self.detector = self.detector, None
        self.standby.is_working = False
        self.standby.waiting.clear()

    @precondition(lambda self: self.standby)
    @rule()
    def the_standby_dies(self):
        self.unseen_dead.append(self.standby.name)
        self.standby = None

    @precondition(lambda self: not self.standby)
    @rule()
    def a_standby_starts(self):
        self.standby = self.new_detector()

    @precondition(lambda self: self.detector is None)
    @rule()
    def another_detector_takes_over(self):
        if self.standby:
            standby, self.standby = self.standby, None
            self.become_active(standby)
        else:
            self.start_detector()

    @rule()
    def the_watchdog_reads(self):
        senders = sorted(self.channels)  # detectors first, as the watchdog does
        self.hear(self.ledger.take([r for s in senders for r in self.channels.pop(s)]))

    @precondition(lambda self: self.unseen_dead)
    @rule()
    def the_watchdog_sees_who_has_died(self):
        self.the_watchdog_reads()
        for process in self.unseen_dead:
            self.ledger.died(process, self.tick())
        self.unseen_dead.clear()

    @rule()
    def the_watchdog_dies_and_its_successor_reads_the_history(self):
        """The successor does not see who was dead before it came."""
        self.unseen_dead.clear()
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
            assert key not in self.reported, f"{key} was reported twice"
            assert key in self.diaries, f"{key} never was"
            said = FrameStatus(report.status), report.reason
            diary = self.diaries[key]
            if diary.outcome and not diary.outcome_lost:
                assert said == diary.outcome, key
            else:
                assert self.is_true(diary, *said), (key, said, vars(diary))
                if not diary.entry_lost and not diary.outcome_lost:
                    assert self.is_all_that_is_known(diary, *said), (key, said, vars(diary))
            self.ledger.reported(report)
            self.reported[key] = report

    def is_true(self, diary, status, reason):
        """Whether what a report says of a frame without an outcome is what happened."""
        if reason == PASSED_OVER:
            return status == SUPERSEDED and bool(diary.passers) and not self.is_gap(diary)
        if status != FAILED:
            return False
        if reason == WAITED:
            return self.now_ns - diary.entered_ns > TIMEOUT_NS
        if reason == NO_DETECTOR:
            return not diary.detector_works
        if reason == RECORDS_LOST:
            return diary.entry_lost or self.is_doubtful(diary)
        if ended := re.match(rb"detector (\d+) stopped working and no outcome came; its", reason):
            detector = self.detectors[int(ended[1])]
            return not detector.is_working and detector.joined_ns <= diary.entered_ns
        return reason in diary.held

    def is_all_that_is_known(self, diary, status, reason):
        """Whether a report says the best that the records tell."""
        if diary.held:
            return reason == diary.held[-1]
        return status == (SUPERSEDED if diary.told and reason != RECORDS_LOST else FAILED)

    def is_gap(self, diary):
        """Whether the frame's outcome is lost, and a later record of its sender shows it."""
        if not diary.outcome_lost:
            return False
        sender, sent_ns = diary.told_by
        return self.newest_ns_of.get(sender, 0) > sent_ns

    def is_doubtful(self, diary):
        """Whether a record was lost that can have been the frame's outcome."""
        return any(at_ns > diary.entered_ns for at_ns in self.gaps_ns)

    @invariant()
    def in_is_the_sum_of_outs(self):
        assert self.ledger.balanced
        assert len(self.reported) == sum(self.ledger.counts.values())

    def teardown(self):
        if self.preprocess is None:
            self.start_preprocess()  # or nobody tells of the last frame of the one before
        self.time_passes(2 * TIMEOUT_NS)
        assert self.ledger.in_flight == 0
        missing = set(self.diaries) - set(self.reported)
        assert not missing or self.lossy
        # What is lost at the very end of a process leaves no gap to be seen by; what is lost at its
        # beginning does as soon as it tells of a frame itself.
        for process in {process for process, _ in missing}:
            told = [sequence for p, sequence in self.reported if p == process]
            own = any(
                isinstance(record, FrameRecord) and record.incarnation == process
                for record in self.history.get(("preprocess", process), ())
            )
            first = -1 if own else min(told, default=0)
            lost = [sequence for p, sequence in missing if p == process and told]
            assert not any(first < sequence < max(told) for sequence in lost)


class LossyGraphMachine(GraphMachine):
    """The same, where records get lost on the way to the watchdog."""

    lossy = True


for machine in (GraphMachine, LossyGraphMachine):
    machine.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestAnyInterleaving = GraphMachine.TestCase
TestAnyInterleavingWithLosses = LossyGraphMachine.TestCase
