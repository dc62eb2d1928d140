"""Who is alive, hangs, starves or is gone: processes of the test's own, and its clock."""

import pytest

from perception_nodes.core.frame import Record
from perception_nodes.core.health import HealthMode
from perception_nodes.core.records import Heartbeat, Left
from perception_nodes.system.processes import Seen
from perception_nodes.watchdog.liveness import Roster

MS = 1_000_000
PATIENCE_NS = 40 * MS


class FakeProcess:
    def __init__(self, pid):
        self.pid = pid
        self.alive, self.ready, self.computed_ns, self.waited_ns = True, False, 0, 0
        self.closed = False

    def is_alive(self):
        return self.alive

    def look(self):
        return Seen(self.ready, self.computed_ns, self.computed_ns, 0, self.waited_ns, ())

    def kill(self):
        self.alive = False

    def close(self):
        self.closed = True


class Run:
    """A roster of one role, under a clock that stands at `ms`."""

    def __init__(self, expected=2):
        self.ms = 0
        self.processes = {}
        self.roster = Roster({"detector": expected}, self.open)

    def open(self, pid):
        return self.processes.setdefault(pid, FakeProcess(pid))

    def hear(self, *pids, kind=Heartbeat):
        for pid in pids:
            record = kind(process=pid, sent_ns=self.ms * MS)
            record.patience_ns = PATIENCE_NS
            self.roster.hear("detector", record)

    def wait(self, ms):
        self.ms += ms
        return [member.pid for member in self.roster.update(self.ms * MS)]

    @property
    def texts(self):
        return [fault.text for fault in self.roster.faults()]


@pytest.fixture
def run():
    started = Run()
    started.hear(1, 2)
    return started


def test_nobody_has_been_heard_of_at_first():
    run = Run()
    assert run.roster.missing() == ["detector", "detector standby"]
    (fault,) = run.roster.faults()
    assert fault.mode is HealthMode.UNSAFE
    assert fault.text == "no detector is running: none has been heard of"


def test_a_crash_is_known_at_once(run):
    run.processes[1].alive = False
    assert run.wait(1) == [1]
    assert run.roster.missing() == ["detector standby"]
    (fault,) = run.roster.faults()
    assert fault.mode == HealthMode.NOMINAL
    assert fault.text == "detector has no standby: detector 1 died"
    assert run.processes[1].closed
    run.processes[2].alive = False
    assert run.wait(1) == [2]
    (fault,) = run.roster.faults()
    assert fault.mode == HealthMode.UNSAFE
    assert fault.text == "no detector is running: detector 2 died"


def test_silence_is_a_hang_within_50_ms(run):
    run.wait(40)
    run.hear(2)
    assert run.roster.present("detector") == 2
    assert run.texts == []
    run.wait(1)
    run.wait(9)
    assert run.ms == 50
    assert run.texts == ["detector has no standby: detector 1 hangs: no sign of life for 50 ms"]


def test_one_that_speaks_again_is_there_again(run):
    run.wait(50)
    run.wait(10)
    assert run.roster.present("detector") == 0
    run.hear(1, 2)
    run.wait(1)
    assert run.texts == []


def test_one_that_is_kept_from_running_does_not_hang_however_long_that_lasts_but_is_missing(run):
    run.processes[1].ready = run.processes[2].ready = True
    for _ in range(40):
        run.wait(10)
        run.hear(2)
    assert run.texts == []
    assert run.roster.silent() == {1}
    run.wait(10)
    kept = "detector 1 is kept from running: no sign of life for 410 ms"
    assert run.texts == [f"detector has no standby: {kept}"]
    for _ in range(6000):
        run.wait(10)
        run.roster.end_hung()
    (fault,) = run.roster.faults()
    assert fault.mode is HealthMode.UNSAFE
    assert run.processes[1].alive
    run.hear(1, 2)
    run.wait(1)
    assert run.texts == []


def test_a_hang_that_lasts_is_ended(run):
    run.hear(1, 2)
    for _ in range(100):
        run.wait(10)
        run.hear(2)
        run.roster.end_hung()
    assert run.processes[1].alive
    run.wait(10)
    run.roster.end_hung()
    assert not run.processes[1].alive
    assert run.processes[2].alive


def test_who_was_away_himself_judges_no_silence_from_before(run):
    run.ms += 500
    run.roster.postpone(run.ms * MS)
    run.wait(1)
    run.wait(39)
    assert run.texts == []


def test_one_that_leaves_in_good_order_is_no_crash(run):
    run.hear(1, kind=Left)
    run.processes[1].alive = False
    assert run.wait(1) == []
    assert run.texts == ["detector has no standby: detector 1 has stopped"]


def test_last_words_of_one_that_has_ended_bring_nobody_back(run):
    run.roster._open = lambda pid: None
    run.hear(3)
    assert set(run.roster.members) == {1, 2}


def test_an_older_record_does_not_take_the_patience_back(run):
    """Signs of life and records come on two ways; one of them says that it will be silent."""
    run.roster.hear("detector", Record(process=1, sent_ns=2, patience_ns=1000 * MS))
    run.roster.hear("detector", Record(process=1, sent_ns=1, patience_ns=PATIENCE_NS))
    assert run.roster.members[1].patience_ns == 1000 * MS
