"""A process whose messages nobody can or will read goes on as if they were read."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from perception_nodes.system.output import BLOCK_BYTES, WAITING

TIMEOUT_S = 300.0
LINES = 2 * WAITING * BLOCK_BYTES // 100

# Its child writes through it, as a node does. It says on standard output how many lines it dropped.
TALKER = f"""
import subprocess, sys
from perception_nodes.system.output import Relay, lines_dropped
child = "import sys; from perception_nodes.system.output import make_unfailing; make_unfailing();"
child += "[print('-' * 99, file=sys.stderr) for _ in range({LINES})]"
with Relay():
    print("first", file=sys.stderr)
    for number in range({LINES}):
        print(f"{{number:099}}", file=sys.stderr)
    assert not subprocess.run([sys.executable, "-c", child]).returncode
    print("written", flush=True)
    sys.stdin.readline()
print(lines_dropped())
"""


def talk(stderr, stdin=subprocess.DEVNULL):
    """A process that has written more than anybody holds for a reader."""
    talker = subprocess.Popen(
        [sys.executable, "-c", TALKER],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    assert talker.stdout.readline() == "written\n"
    return talker


def dropped(talker):
    said = talker.stdout.read()
    assert talker.wait(TIMEOUT_S) == 0
    return int(said)


def test_a_pipe_that_nobody_reads_stops_nobody():
    reading, writing = os.pipe()
    assert 0 < dropped(talk(writing)) <= 2 * LINES
    os.close(writing)
    with open(reading) as reader:
        assert reader.readline() == "first\n"


def test_a_terminal_under_ctrl_s_stops_nobody():
    terminal, ours = pty.openpty()
    termios.tcflow(ours, termios.TCOOFF)
    assert dropped(talk(ours)) > 0
    os.close(ours)
    os.close(terminal)


def test_a_full_disk_loses_lines_and_nothing_else():
    with open("/dev/full", "wb") as full:
        assert dropped(talk(full)) > LINES


def test_a_reader_that_comes_back_learns_how_many_lines_it_missed():
    reading, writing = os.pipe()
    talker = talk(writing, subprocess.PIPE)
    os.close(writing)
    with open(reading) as reader:
        lines = iter(reader.readline, "")
        assert next(lines) == "first\n"
        assert any(line.endswith("lines were dropped, since nobody read them\n") for line in lines)
        talker.stdin.close()
        rest = list(lines)
    assert all(len(line) == 100 for line in rest), "torn lines"
    assert talker.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_a_closed_standard_error_is_no_error(command):
    closed = f'exec "{sys.executable}" -m perception_nodes {command} --help 2>&-'
    started = subprocess.run(["/bin/sh", "-c", closed], capture_output=True, timeout=TIMEOUT_S)
    assert started.returncode == 0, started.stdout
