"""The watchdog's own end is noticed by its lease, and an orderly one is none."""

import os
import signal
import time

import pytest
from channel_ends import TIMEOUT_S, kill
from observe import until

from perception_nodes.core.failover import KILLED_AFTER_NS, LOOK_NS
from perception_nodes.system import life
from perception_nodes.system.processes import open_process, was_alive
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.guard import ROLE, WatchdogGuard

pytestmark = pytest.mark.usefixtures("ros_domain")
PATIENCE_NS = 10**10
SAYS_AND_WAITS = "print(flush=True); input()"


class Watched:
    """A guard under a clock of the test's own, and a process that stands for the watchdog."""

    def __init__(self, python, closed):
        self.now_ns, self._closed = time.monotonic_ns(), closed
        self.guard = self.later_guard()
        self.lease = closed(Lease("front", ROLE))
        self.process = python(f"lease = open({str(self.lease._mapped.path)!r})\n{SAYS_AND_WAITS}")
        self.process.stdout.readline()

    def later_guard(self):
        """Another guard, which starts now."""
        return self._closed(WatchdogGuard("front", self.now_ns))

    def work(self, process=None):
        self.lease.acquire(PATIENCE_NS)
        self.lease.note.process = process or self.process.pid
        self.lease.note.alive_ns = self.now_ns

    def update(self, guard=None):
        self.now_ns += LOOK_NS
        guard = guard or self.guard
        guard.update(self.now_ns, PATIENCE_NS)
        return guard.gone


@pytest.fixture
def watched(python, closed):
    return Watched(python, closed)


def test_one_that_has_never_been_there_is_not_missed(watched):
    assert watched.update() == ""


def test_one_of_an_earlier_graph_is_not_missed(watched, monkeypatch):
    watched.work()
    kill(watched.process)
    monkeypatch.setenv(life.VARIABLE, "another")
    assert watched.update(watched.later_guard()) == ""


@pytest.mark.parametrize(("patience_ns", "missed"), [(PATIENCE_NS, False), (LOOK_NS // 2, True)])
def test_one_that_is_silent_for_longer_than_its_patience_is_missed(watched, patience_ns, missed):
    """A guard that starts beside it has not heard it yet."""
    watched.work()
    watched.lease.note.patience_ns = patience_ns
    watched.now_ns += LOOK_NS
    assert bool(watched.update(watched.later_guard())) is missed


def test_one_that_dies_is_missed_until_another_one_works(watched):
    watched.work()
    assert watched.update() == ""
    kill(watched.process)
    assert watched.update() == f"no watchdog is running: watchdog {watched.process.pid} died"
    since_ns = watched.guard.gone_ns
    watched.guard.update(watched.now_ns + 1, PATIENCE_NS)
    assert watched.guard.gone, "also between two looks"
    assert watched.update()
    assert watched.guard.gone_ns == since_ns
    watched.work(os.getpid())
    assert watched.update() == ""


def test_one_that_was_gone_before_we_came_is_missed_and_nobody_killed_for_it(watched):
    watched.work()  # for whoever has its number by now
    watched.now_ns += 10 * PATIENCE_NS
    later = watched.later_guard()
    for _ in range(3):
        assert watched.update(later) == "no watchdog is running: none has been heard of"
    assert watched.process.poll() is None
    watched.now_ns += 1
    watched.work()
    assert watched.update(later) == ""


def test_one_that_hangs_already_when_we_come_is_killed(watched, closed):
    process = closed(open_process(watched.process.pid))
    until(lambda: process.look().is_asleep)
    until(lambda: was_alive(watched.process.pid, time.monotonic_ns()))
    watched.now_ns = time.monotonic_ns()
    watched.work()
    watched.lease.note.patience_ns = 2 * LOOK_NS
    watched.now_ns += PATIENCE_NS
    later = watched.later_guard()
    assert watched.update(later) == "", "it has its patience from now on"
    found = [watched.update(later) for _ in range(2 * KILLED_AFTER_NS // LOOK_NS)]
    assert any("hangs: no sign of life" in gone for gone in found)
    assert watched.process.wait(TIMEOUT_S) == -signal.SIGKILL


def test_a_stranger_whose_number_a_damaged_lease_holds_is_neither_watched_nor_killed(
    watched, python
):
    stranger = python(SAYS_AND_WAITS)
    stranger.stdout.readline()
    watched.now_ns = time.monotonic_ns() + LOOK_NS
    for damaged in (stranger.pid, 2**31):
        watched.work(damaged)
        watched.lease.note.patience_ns = LOOK_NS
        found = {watched.update() for _ in range(2 * KILLED_AFTER_NS // LOOK_NS)}
        assert found == {"no watchdog is running: none has been heard of"}
    assert stranger.poll() is None


def test_one_that_stops_in_good_order_is_missed_as_well_but_not_where_the_graph_ends(watched):
    watched.work()
    assert watched.update() == ""
    watched.lease.release()
    assert watched.update() == "", "the whole graph may be about to stop"
    assert watched.update() == f"no watchdog is running: watchdog {watched.process.pid} has stopped"
    watched.work()
    assert watched.update() == "", "it was activated again"
