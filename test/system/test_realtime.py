"""Real-time settings, each tried in a process of its own: they cannot be taken back."""

import os
import subprocess
import sys

import pytest

from perception_nodes.system.realtime import parse_cpus

REPORT = """
import gc, os
from perception_nodes.system import realtime
{before}
for line in realtime.set_up({arguments}):
    print(line)
print(sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0) & 0xff, gc.isenabled())
print(open("/proc/self/timerslack_ns").read().strip())
"""


def set_up(root, arguments, before=""):
    result = subprocess.run(
        [sys.executable, "-c", REPORT.format(arguments=arguments, before=before)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    return result.stdout.splitlines()


def test_without_being_asked_only_the_collector_and_the_timers_are_set(root):
    *lines, state, slack = set_up(root, "'', 0, False")
    assert lines == []
    assert state == f"{sorted(os.sched_getaffinity(0))} {os.SCHED_OTHER} False"
    assert slack == "1"


def test_processors_are_set(root):
    first = min(os.sched_getaffinity(0))
    line, state, _ = set_up(root, f"'{first}', 0, False")
    assert line == f"affinity: {first}"
    assert state.startswith(f"[{first}]")


@pytest.mark.parametrize(
    ("arguments", "patched", "name"),
    [
        ("'', 50, False", "os.sched_setscheduler", "SCHED_FIFO priority 50"),
        ("'', 0, True", "realtime._lock_memory", "mlockall all memory"),
    ],
)
def test_what_is_refused_is_told_with_what_allows_it(root, arguments, patched, name):
    before = (
        f"def refuse(*_): raise PermissionError(1, 'Operation not permitted')\n{patched} = refuse"
    )
    line, *_ = set_up(root, arguments, before)
    assert line.startswith(f"{name}: refused ([Errno 1] Operation not permitted); allow it with")


def test_a_processor_that_is_not_there_is_refused(root):
    line, *_ = set_up(root, "'4000', 0, False")
    assert line.startswith("affinity 4000: refused")


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("2-4", {2, 3, 4}), ("0,2-3,7", {0, 2, 3, 7})]
)
def test_lists_of_processors(text, cpus):
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["x", "99999999999999999999", "0-99999999999", "-1"])
def test_no_list_of_processors(text):
    with pytest.raises(ValueError):
        parse_cpus(text)
