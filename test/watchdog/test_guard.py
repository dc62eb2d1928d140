"""The watchdog's own end is noticed by its heartbeats, and an orderly one is none."""

import os
import subprocess
import sys
import time

import pytest

from perception_nodes.core.frame import FrameRecord, RecordKind
from perception_nodes.transport.channels import record_reader, record_writer
from perception_nodes.transport.shm import Endpoint
from perception_nodes.watchdog.guard import PERIOD_NS, ROLE, WatchdogGuard

pytestmark = pytest.mark.usefixtures("ros_domain")
PATIENCE_NS = 10**10
TIMEOUT_S = 30


class Watched:
    """A guard under a clock of the test's own, and a process that stands for the watchdog."""

    def __init__(self):
        self.endpoint = Endpoint("test")
        self.now_ns = time.monotonic_ns()
        self.guard = WatchdogGuard(record_reader(self.endpoint, "front", ROLE), self.now_ns)
        self.writer = record_writer(self.endpoint, "front", ROLE)
        command = [sys.executable, "-c", "input()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def send(self, kind=RecordKind.HEARTBEAT, process=None):
        record = FrameRecord(kind=kind, process=process or self.process.pid)
        record.sent_ns, record.patience_ns = self.now_ns, PATIENCE_NS
        self.writer.send_record(record)

    def update(self):
        self.now_ns += PERIOD_NS
        return self.guard.update(self.now_ns, PATIENCE_NS)

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT_S)


@pytest.fixture
def watched():
    started = Watched()
    yield started
    started.kill()
    started.endpoint.close()


def test_one_that_was_never_heard_of_is_not_missed(watched):
    assert watched.update() == ""


def test_one_that_dies_is_missed_until_another_one_speaks(watched):
    watched.send()
    assert watched.update() == ""
    watched.kill()
    assert watched.update() == f"no watchdog is running: watchdog {watched.process.pid} died"
    assert watched.guard.update(watched.now_ns, PATIENCE_NS), "also between two looks"
    watched.send(process=os.getpid())
    assert watched.update() == ""


def test_one_that_stops_in_good_order_is_missed_as_well_but_not_where_the_graph_ends(watched):
    watched.send()
    watched.send(RecordKind.LEFT)
    assert watched.update() == "", "the whole graph may be about to stop"
    assert watched.update() == f"no watchdog is running: watchdog {watched.process.pid} has stopped"
    watched.send()
    assert watched.update() == "", "it was activated again"
