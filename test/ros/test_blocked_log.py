"""A graph whose log nobody can read: it starts, replaces who dies, and ends."""

import os
import pty
import signal
import subprocess
import sys
import termios
from contextlib import ExitStack, closing, contextmanager

import pytest
from observe import children, until
from started_graph import name_of

from perception_nodes.system.processes import open_process
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.guard import ROLE

pytestmark = [pytest.mark.ros]
TIMEOUT_S = 300.0


@contextmanager
def full_pipe():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    yield writing
    os.close(writing)
    os.close(reading)


@contextmanager
def terminal_under_ctrl_s():
    terminal, ours = pty.openpty()
    termios.tcflow(ours, termios.TCOOFF)
    yield ours
    os.close(ours)
    os.close(terminal)


@contextmanager
def full_disk():
    with open("/dev/full", "wb") as file:
        yield file.fileno()


def working(role):
    """The process that works in a role; 0 if none does."""
    with closing(Lease("front", role)) as lease:
        process = open_process(lease.note.process) if lease.note.process else None
        if process is None:
            return 0
        with closing(process):
            return process.pid if process.is_alive() else 0


@pytest.mark.parametrize("log", [full_pipe, terminal_under_ctrl_s, full_disk])
def test_a_log_that_nobody_reads_hangs_nothing(log):
    with ExitStack() as held:
        out = held.enter_context(log())
        graph = subprocess.Popen(
            [sys.executable, "-m", "perception_nodes", "run", "source:=shm", "standby:=never"],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        held.callback(graph.wait)
        held.callback(graph.kill)
        until(lambda: all(map(working, ("detector", "preprocess", ROLE))), TIMEOUT_S)
        for role, node in ((ROLE, "watchdog_node"), ("detector", "detector_node")):
            (before,) = (pid for pid in children(graph.pid) if name_of(pid) == node)
            os.kill(before, signal.SIGKILL)
            until(lambda role=role, before=before: working(role) not in (0, before), TIMEOUT_S)
        graph.send_signal(signal.SIGINT)
        assert graph.wait(TIMEOUT_S) == 128 + signal.SIGINT
