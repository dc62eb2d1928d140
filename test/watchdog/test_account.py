"""A camera's account beside processes that really die."""

import os
import time

import pytest
from channel_ends import kill

from perception_nodes.core.budget import Budget
from perception_nodes.core.failover import SUPERVISOR_SILENT_NS
from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.core.health import HealthMode
from perception_nodes.core.records import Heartbeat
from perception_nodes.system import processes
from perception_nodes.system.life import VARIABLE
from perception_nodes.system.processes import Process
from perception_nodes.transport.channels import NumberedRecords
from perception_nodes.transport.claim import Claim, claim_of
from perception_nodes.transport.journal import RECORDS
from perception_nodes.transport.memory import NAMESPACE
from perception_nodes.transport.shm import Endpoint
from perception_nodes.watchdog import account
from perception_nodes.watchdog.account import Account, AccountSettings
from perception_nodes.watchdog.faults import FaultLimits
from perception_nodes.watchdog.health import SETTLED_FRAMES, HealthLimits
from perception_nodes.watchdog.ledger import DETECTOR_STOPPED, NO_DETECTOR, RECORDS_LOST

pytestmark = pytest.mark.usefixtures("ros_domain")
DETECTOR = """
import sys, time
from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.core.records import Takeover
from perception_nodes.transport.channels import NumberedRecords
from perception_nodes.transport.shm import Endpoint
joined_ns = time.monotonic_ns()
records = NumberedRecords(Endpoint("d"), "front", "detector", 10**10)
records.send(Takeover(joined_ns=joined_ns, predecessor=int(sys.argv[1])))
print(flush=True)
for line in sys.stdin:
    process, sequence, ingested_ns, status = map(int, line.split())
    frame = {"incarnation": process, "sequence": sequence, "ingested_ns": ingested_ns}
    records.send(FrameRecord(kind=RecordKind.OUTCOME, status=status, preprocessed_ns=1, **frame))
    print(flush=True)
"""


class Graph:
    """Preprocessing is this process; detectors are others."""

    def __init__(self, python):
        self.python = python
        self.endpoint = Endpoint("test")
        self.account = self.new_account()
        self.records = NumberedRecords(self.endpoint, "front", "preprocess", 10**10)
        self.sequence = 0
        self.detectors = []

    def new_account(self, outcome_timeout_ms=60_000.0):
        limits = outcome_timeout_ms, HealthLimits(), FaultLimits()
        settings = AccountSettings(Budget(), {"detector": 1, "preprocess": 1}, *limits)
        return Account(self.endpoint, "front", settings, time.monotonic_ns())

    def start_detector(self):
        before = self.detectors[-1].pid if self.detectors else 0
        process = self.python(DETECTOR, before)
        process.stdout.readline()
        self.detectors.append(process)
        return process

    def enter(self):
        frame = {"incarnation": os.getpid(), "sequence": self.sequence}
        frame["ingested_ns"] = time.monotonic_ns()
        self.sequence += 1
        self.records.send(FrameRecord(kind=RecordKind.ENTERED, **frame))
        return tuple(frame.values())

    def end(self, detector, frame, status=FrameStatus.OK):
        detector.stdin.write(" ".join(map(str, (*frame, int(status)))) + "\n")
        detector.stdin.flush()
        detector.stdout.readline()

    def step(self):
        now_ns = time.monotonic_ns()
        step = self.account.step(now_ns, now_ns)
        return step, [(r.sequence, FrameStatus(r.status), r.reason) for r in self.account.reports()]

    def close(self):
        self.account.close()
        self.endpoint.close()


@pytest.fixture
def graph(python, closed):
    return closed(Graph(python))


def test_of_one_that_leaves_in_good_order_no_growth_is_told_any_more(graph, monkeypatch):
    """The process lives on where its node is deactivated."""
    monkeypatch.setattr(account, "MEMORY_PERIOD_NS", 0)
    grown = iter(range(1, 100))
    monkeypatch.setattr(Process, "rss_bytes", lambda process: next(grown) * 40_000_000)
    began_ns = time.monotonic_ns()

    def faults_at(second):
        now_ns = began_ns + second * 10**9
        graph.account.step(now_ns, now_ns)
        return [fault.name for fault in graph.account.watch.present()]

    graph.records.send(Heartbeat())
    assert "memory" in [name for second in range(0, 70, 10) for name in faults_at(second)]
    graph.records.leave()
    assert "memory" not in faults_at(70)


def test_the_last_words_of_a_detector_count_before_the_first_ones_of_its_successor(graph):
    first = graph.start_detector()
    graph.step()
    frames = [graph.enter() for _ in range(3)]
    graph.end(first, frames[1])
    kill(first)
    second = graph.start_detector()
    graph.end(second, graph.enter())
    step, reports = graph.step()
    assert [str(member) for member in step.died] == [f"detector {first.pid}"]
    assert reports == [
        (0, FrameStatus.SUPERSEDED, b"a newer frame took its place"),
        (1, FrameStatus.OK, b""),
        (2, FrameStatus.FAILED, DETECTOR_STOPPED % first.pid),
        (3, FrameStatus.OK, b""),
    ]


def test_frames_while_no_detector_runs_are_told_so(graph):
    first = graph.start_detector()
    graph.step()
    kill(first)
    step, _ = graph.step()
    assert "detector process" in [fault.name for fault in step.faults]
    assert graph.account.unsafe
    graph.enter()
    second = graph.start_detector()
    graph.end(second, graph.enter())
    step, reports = graph.step()
    assert (step.failure, step.early) == ("", 1), "the graph has not detected anything before"
    assert reports == [(0, FrameStatus.FAILED, NO_DETECTOR), (1, FrameStatus.OK, b"")]
    kill(second)
    graph.step()
    graph.enter()
    graph.end(graph.start_detector(), graph.enter())
    step, _ = graph.step()
    assert (step.failure, step.early) == (f"frame 2 FAILED: {NO_DETECTOR.decode()}", 0)


@pytest.mark.parametrize("known", [True, False])
def test_frames_behind_a_detector_that_died_unseen_are_told_that_none_runs(graph, known):
    """It died with the watchdog that knew it, or before any watchdog had heard of it."""
    first = graph.start_detector()
    if known:
        graph.end(first, graph.enter())
        graph.step()
    kill(first)
    if known:
        graph.account = graph.new_account()
    graph.step()
    _, frame, _ = graph.enter()
    second = graph.start_detector()
    graph.end(second, graph.enter())
    _, reports = graph.step()
    assert (frame, FrameStatus.FAILED, NO_DETECTOR) in reports


def test_a_detector_is_not_dead_because_the_machine_was_suspended(graph, monkeypatch):
    graph.end(graph.start_detector(), graph.enter())
    graph.step()
    clock_gettime_ns, stat = time.clock_gettime_ns, processes.stat_of
    ticks = 3600 * 10**9 // processes.TICK_NS

    def later(path):
        name, fields = stat(path)
        fields[19] = str(int(fields[19]) + ticks)
        return name, fields

    monkeypatch.setattr(processes, "stat_of", later)
    monkeypatch.setattr(
        time,
        "clock_gettime_ns",
        lambda clock: clock_gettime_ns(clock) + 3600 * 10**9 * (clock == time.CLOCK_BOOTTIME),
    )
    graph.account = graph.new_account()
    graph.step()
    assert graph.account.ledger.detector() is not None


def test_frames_that_came_while_nobody_looked_did_come(graph):
    graph.start_detector()
    graph.enter()
    graph.step()
    now_ns = time.monotonic_ns()
    graph.account.watch._no_frame.frame(now_ns - 400_000_000)  # we have not looked since
    graph.enter()
    step = graph.account.step(time.monotonic_ns(), now_ns - 400_000_000)
    assert "no frame" not in [fault.name for fault in step.faults]


def test_frames_that_waited_while_preprocessing_was_taken_over_came_in_order(graph):
    """Those of the successor, which has started first, are read before its predecessor's."""
    graph.start_detector()
    predecessor = NumberedRecords(graph.endpoint, "front", "preprocess", 10**10)
    predecessor._process = os.getppid()
    now_ns = time.monotonic_ns()
    for sender, came_ns in ((predecessor, now_ns - 400_000_000), (graph.records, now_ns)):
        for _ in range(3):
            frame = {"incarnation": sender._process, "sequence": graph.sequence}
            graph.sequence += 1
            stamp = {"stamp_ns": graph.sequence, "ingested_ns": came_ns}
            sender.send(FrameRecord(kind=RecordKind.ENTERED, **frame, **stamp))
    step, _ = graph.step()
    assert not {"no frame", "stamp"} & {fault.name for fault in step.faults}


def test_where_the_watchdog_itself_was_stopped_an_outcome_has_twice_the_time(graph):
    graph.account = graph.new_account(outcome_timeout_ms=1000.0)
    graph.start_detector()
    graph.enter()
    begin_ns = time.monotonic_ns()
    graph.account.step(begin_ns, begin_ns)
    for after_ms, late_ms, in_flight in ((1500, 1400, 1), (1508, 0, 1), (2600, 0, 0)):
        now_ns = begin_ns + after_ms * 1_000_000
        graph.account.step(now_ns, now_ns - late_ms * 1_000_000)
        assert graph.account.ledger.in_flight == in_flight


def test_what_was_not_published_is_told_by_the_next_watchdog_and_nothing_twice(graph):
    graph.end(graph.start_detector(), graph.enter())
    graph.step()
    graph.end(graph.detectors[0], graph.enter())
    now_ns = time.monotonic_ns()
    graph.account.step(now_ns, now_ns)  # it dies before it publishes
    graph.account = graph.new_account()
    assert graph.step()[1] == [(1, FrameStatus.OK, b"")]
    assert graph.account.ledger.counts[FrameStatus.OK] == 2
    graph.account = graph.new_account()
    assert graph.step()[1] == []


def test_a_change_of_mode_is_published_at_once(graph):
    assert graph.step()[0].changed
    assert not graph.step()[0].changed
    detector = graph.start_detector()
    for _ in range(SETTLED_FRAMES):
        graph.end(detector, graph.enter())
    step, _ = graph.step()
    assert step.changed
    both = step.transition.previous, step.transition.mode
    assert both == (HealthMode.UNSAFE, HealthMode.NOMINAL)


def test_after_a_watchdog_was_gone_for_longer_than_journals_last_each_frame_is_told_of(
    graph, monkeypatch
):
    monkeypatch.setenv(VARIABLE, "one")
    graph.account = graph.new_account()
    detector, reported, gone_for = graph.start_detector(), 10, RECORDS + 400
    for _ in range(reported):
        graph.end(detector, graph.enter())
    assert len(graph.step()[1]) == reported
    for _ in range(gone_for):
        graph.end(detector, graph.enter())
    graph.account = graph.new_account()
    step, reports = graph.step()
    many = [int(reason.split()[3]) for *_, reason in reports if b"one report for" in reason]
    assert sum(many) + len(reports) - len(many) == gone_for, "each is told of once"
    lost = [sequence for sequence, status, _ in reports if status == FrameStatus.FAILED]
    assert max(lost) < reported + gone_for - RECORDS + 2
    others = {status for sequence, status, _ in reports if sequence > max(lost)}
    assert others == {FrameStatus.OK}
    reasons = {r for *_, r in reports if b"one report for" in r} | {RECORDS_LOST}
    assert {r for _, status, r in reports if status == FrameStatus.FAILED} <= reasons
    assert graph.account.ledger.records_lost > 0
    assert "records" in [fault.name for fault in graph.step()[0].faults]
    assert step.failure


@pytest.mark.parametrize("namespace", ["", "/truck"])
def test_a_supervisor_that_falls_silent_is_told_of(python, closed, monkeypatch, request, namespace):
    def faults():
        return [fault.name for fault in graph.step()[0].faults]

    monkeypatch.setenv(VARIABLE, "one")
    monkeypatch.setenv(NAMESPACE, namespace)
    graph, claim = closed(Graph(python)), Claim(claim_of("front", namespace), "a graph")
    request.addfinalizer(claim.release)
    assert "supervisor" not in faults(), "it has given no sign yet"
    claim.sign()
    assert "supervisor" not in faults()
    os.utime(claim._descriptor, ns=(time.monotonic_ns() - SUPERVISOR_SILENT_NS,) * 2)
    assert "supervisor" in faults()
    claim.sign()
    assert "supervisor" not in faults()
    claim.path.unlink()
    assert "supervisor" in faults(), "another one could claim the graph's name"
