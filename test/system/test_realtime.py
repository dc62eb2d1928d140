"""Real-time settings, each tried in a process of its own: they cannot be taken back."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from observe import children, is_alive

from perception_nodes.system import realtime as rt
from perception_nodes.system import threads as threads_module
from perception_nodes.system.awake import kept_awake
from perception_nodes.system.threads import nodes, threads

REPORT = """
import gc, os, threading, time
from perception_nodes.system import realtime
{before}
ours = realtime.RealTime()
for line in ours.begin({arguments}):
    print(line)
print(sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0) & 0xff, gc.isenabled())
print(open("/proc/self/timerslack_ns").read().strip())
{after}
"""
NOTHING = "'', 0, None, False, 3.0"
needs_fifo = pytest.mark.skipif(not rt.allowed_priority(), reason="SCHED_FIFO is not allowed")


def run(root, arguments, before="", after=""):
    return subprocess.run(
        [sys.executable, "-c", REPORT.format(arguments=arguments, before=before, after=after)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def said(root, arguments, before="", after=""):
    result = run(root, arguments, before, after)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_without_being_asked_only_the_collector_and_the_timers_are_set(root):
    processors = sorted(os.sched_getaffinity(0))
    assert said(root, NOTHING) == [f"{processors} {os.SCHED_OTHER} False", "1"]
    first = processors[0]
    line, state, _ = said(root, f"'{first}', 0, None, False, 3.0")
    assert (line, state) == (f"affinity: {first}", f"[{first}] {os.SCHED_OTHER} False")


@pytest.mark.parametrize(
    ("arguments", "patched", "name"),
    [
        ("'', 50, 0, False, 3.0", "os.sched_setscheduler", "SCHED_FIFO"),
        ("'', -1, 0, False, 3.0", "os.sched_setscheduler", "SCHED_FIFO"),
        ("'', 0, None, True, 3.0", "realtime._lock_memory", "mlockall all memory"),
        ("'4000', 0, None, False, 3.0", "nothing", "affinity 4000"),
    ],
)
def test_what_is_refused_is_told_with_what_allows_it(root, arguments, patched, name):
    refuse = "def refuse(*_): raise PermissionError(1, 'Operation not permitted')"
    before = f"{refuse}\n{patched} = refuse"
    line, state, _ = said(root, arguments, before)
    assert line.startswith(f"{name}: refused (")
    assert "allow it with" in line or "name processors" in line
    assert f" {os.SCHED_OTHER} " in state, "it runs on without it"


THREADS = """
def start(name, work=lambda: time.sleep(60)):
    def run():
        with open("/proc/thread-self/comm", "w") as file:
            file.write(name)
        ready.set()
        work()
    ready = threading.Event()
    threading.Thread(target=run, daemon=True).start()
    ready.wait()

real_begin = realtime.RealTime.begin
def begin(self, *arguments):
    start("dds.ev.0"); start("dds.udp.7410"); start("dds.shm.7411"); start("unnamed")
    self.leave_out_middleware()
    start("pool")
    return real_begin(self, *arguments)
realtime.RealTime.begin = begin
"""
BORN = """
start("late pool"); start("dds.asyn"); start("loading", realtime.work_in_background)
ours.keep()
with ours.leisurely():
    print("leisurely", os.sched_getscheduler(0) & 0xff)
for task in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{task}/comm") as file:
        name = file.read().strip()
    parameter = os.sched_getparam(int(task))
    print(name, os.sched_getscheduler(int(task)), parameter.sched_priority, sep="|")
"""


@needs_fifo
def test_every_thread_that_frames_wait_for_has_the_priority_and_no_other(root):
    line, _, _, leisurely, *found = said(root, "'', 30, 2, False, 3.0", THREADS, BORN)
    assert line.startswith("SCHED_FIFO: priority 32 for ")
    assert leisurely == "leisurely 0"
    policies = dict(row.split("|", 1) for row in found)
    with_priority = {name for name, policy in policies.items() if policy == "1|32"}
    assert {"pool", "late pool", "dds.shm.7411"} <= with_priority
    assert any(name.startswith("python") for name in with_priority), "the main thread"
    without = {name for name, policy in policies.items() if policy == "0|0"}
    assert {"dds.ev.0", "dds.udp.7410", "unnamed", "dds.asyn"} <= without


@needs_fifo
def test_a_runaway_is_ended_by_the_kernel(root):
    started_s = time.monotonic()
    result = run(root, "'', -1, 0, False, 0.3", after="while True: pass")
    assert result.returncode == -signal.SIGXCPU
    assert time.monotonic() - started_s < 30


def test_no_more_is_taken_than_the_system_allows(root):
    """A limit of 10 leaves 7 for the detector, since others are up to 3 above it."""
    before = (
        "import resource\n"
        "real = os.sched_setscheduler\n"
        "def limited(task, policy, parameter):\n"
        "    if parameter.sched_priority > 10: raise PermissionError(1, 'no')\n"
        "    if parameter.sched_priority: print('tried', parameter.sched_priority)\n"
        "os.sched_setscheduler = limited\n"
        "realtime._limit = lambda: 10\n"
        "print(realtime.allowed_priority())\n"
    )
    assert said(root, NOTHING, before)[:2] == ["tried 10", "7"]
    highest = rt.AUTO_PRIORITY + max(rt.RANKS.values())
    assert highest < 50, "below the kernel's threads of interrupts"


def test_processors_are_kept_awake_by_processes_that_give_way(monkeypatch):
    monkeypatch.setattr("perception_nodes.system.awake.is_virtual_machine", lambda: True)
    first, before = min(os.sched_getaffinity(0)), set(children(os.getpid()))
    with kept_awake([first]):
        (spinner,) = set(children(os.getpid())) - before
        assert os.sched_getscheduler(spinner) == os.SCHED_IDLE
        assert os.sched_getaffinity(spinner) == {first}
        group = Path(f"/proc/{spinner}/autogroup")
        if group.exists():
            assert os.getsid(spinner) == spinner, "its session holds nobody who works"
            assert group.read_text().endswith("nice 19\n")
    assert not is_alive(spinner)


def test_the_kernel_keeps_processors_awake_while_its_device_is_open(monkeypatch, tmp_path):
    monkeypatch.setattr("perception_nodes.system.awake.is_virtual_machine", lambda: False)
    device = tmp_path / "cpu_dma_latency"
    device.touch()

    def is_open():
        files = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return str(device) in {os.readlink(file) for file in files if os.path.lexists(file)}

    with kept_awake([0], device) as how:
        assert how == f"processors stay awake by {device}"
        assert device.read_bytes() == bytes(4), "no latency is allowed"
        assert is_open()
    assert not is_open()


def test_the_threads_of_a_process_are_listed(root):
    command = [sys.executable, "-c", "input()", "-m", "perception_nodes.nodes.detector_node"]
    command += ["--ros-args", "-r", "__node:=detector_standby_node"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        os.sched_setscheduler(process.pid, os.SCHED_BATCH, os.sched_param(0))
        found = list(threads(process.pid, "detector"))
        assert threads_module._node_name(command[2:]) == "detector_standby_node"
        process.communicate(b"\n")
    (main,) = [one for one in found if one.thread == process.pid]
    assert (main.process, main.node) == (process.pid, "detector")
    assert (main.policy, main.priority) == ("batch", 0)
    assert main.minor_faults > 0 and main.computed_ms > 0 and main.waited_ms >= 0
    assert process.pid not in nodes()


@pytest.mark.parametrize(("text", "cpus"), [("0", {0}), ("0,2-3,7", {0, 2, 3, 7})])
def test_lists_of_processors(text, cpus):
    assert rt.parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["x", "99999999999999999999", "0-99999999999", "-1"])
def test_no_list_of_processors(text):
    with pytest.raises(ValueError):
        rt.parse_cpus(text)


def test_housekeeping_ends_no_process_that_has_no_descriptor_left(monkeypatch):
    realtime = rt.RealTime()
    realtime._priority = 1
    monkeypatch.setattr(os, "listdir", refuse_descriptors)
    realtime.keep()


def refuse_descriptors(path):
    raise OSError(errno.EMFILE, "Too many open files", path)
