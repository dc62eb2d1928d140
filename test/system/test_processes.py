"""What is asked of the kernel about real processes."""

import errno
import os
import signal
import time
from unittest.mock import Mock

import pytest
from observe import until

from perception_nodes.system import processes
from perception_nodes.system.processes import open_process, runs_at_once, was_alive


@pytest.fixture
def start(python):
    """Starts Python that says a line when it is there."""

    def run(code):
        process = python(f"print(flush=True)\n{code}")
        process.stdout.readline()
        return process

    return run


def test_an_end_is_known_also_where_nobody_has_waited_for_it(start):
    child = start("import time; time.sleep(100)")
    process = open_process(child.pid)
    assert process.is_alive()
    process.kill()
    until(lambda: not process.is_alive())
    process.kill()  # once more is no error
    process.close()
    child.wait()
    assert open_process(child.pid) is None


def test_one_that_computes_wants_it_until_it_is_stopped_and_its_time_is_counted(start):
    child = start("while True: pass")
    process = open_process(child.pid)
    before = process.look()
    assert before.is_ready
    until(lambda: process.look().main_ns > before.main_ns)
    assert process.look().computed_ns > before.computed_ns
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: not process.look().is_ready)
    assert process.rss_bytes() > 1_000_000
    process.kill()
    child.wait()
    assert process.look()[:4] == (False, 0, 0, 0)
    assert process.rss_bytes() == 0
    process.close()


def test_while_the_main_thread_sleeps_those_of_the_middleware_count_whose_lock_it_may_want(start):
    code = """
import signal, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
asleep = threading.Event()
def work():
    open("/proc/thread-self/comm", "w").write("dds.ev.0")
    while True: asleep.wait(); sum(range(10**5))
threading.Thread(target=work, daemon=True).start()
asleep.set(); signal.sigwait({signal.SIGUSR1}); asleep.clear()
while True: pass
"""
    child = start(code)
    process = open_process(child.pid)

    def of_others_ns():
        seen = process.look()
        return seen.computed_ns - seen.main_ns

    until(lambda: of_others_ns() > 3 * 10**8)
    assert process.look().is_ready
    os.kill(child.pid, signal.SIGUSR1)
    until(lambda: of_others_ns() < 10**8)  # what is left is the start of the main thread
    process.close()


def test_a_processor_that_is_there_runs_us_at_once_and_we_go_back():
    before = os.sched_getaffinity(0)
    assert any(runs_at_once(min(before)) for _ in range(100))
    assert runs_at_once(-1) and runs_at_once(4000), "there is none to wait for"
    assert os.sched_getaffinity(0) == before


def test_a_process_was_not_alive_before_it_started_nor_after_its_end(start):
    before_ns = time.monotonic_ns()
    process = start("import time; time.sleep(60)")
    assert not was_alive(process.pid, before_ns)
    until(lambda: was_alive(process.pid, time.monotonic_ns()))
    process.kill()
    process.wait()
    assert not was_alive(process.pid, time.monotonic_ns())


@pytest.mark.parametrize(("allowed", "cores"), [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1, 8, 9}, 3)])
def test_threads_of_one_core_count_once_where_we_may_run(allowed, cores, tmp_path, monkeypatch):
    """Processors 0 and 2, and 1 and 3, share cores; of 8 and 9 nothing is known."""
    for processor in range(4):
        folder = tmp_path / f"cpu{processor}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{processor % 2},{processor % 2 + 2}\n")
    monkeypatch.setattr(processes, "PROCESSORS", tmp_path)
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: allowed)
    assert processes.physical_cores() == cores


@pytest.mark.parametrize(
    "text, name",
    [
        (
            "processor : 0\nmodel name\t: Fast CPU @ 3: GHz\nflags\t: fpu avx2\n",
            "Fast CPU @ 3: GHz",
        ),
        ("Features : fp avx2\nCPU implementer : 0x41\nCPU part : 0xd42\n", "aarch64 0x41 0xd42"),
        (None, "aarch64"),
    ],
)
def test_processors_are_told_apart_also_where_they_have_no_name(text, name, tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    if text:
        info.write_text(text)
    monkeypatch.setattr(processes, "CPU_INFO", info)
    monkeypatch.setattr(processes.platform, "machine", lambda: "aarch64")
    assert processes.cpu_name() == name
    assert ("avx2" in processes.cpu_flags()) == bool(text)


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EMFILE, errno.ESRCH])
def test_what_cannot_be_watched_ends_nobody(monkeypatch, error):
    monkeypatch.setattr(os, "pidfd_open", Mock(side_effect=OSError(error, os.strerror(error))))
    assert open_process(os.getpid()) is None
