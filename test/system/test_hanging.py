"""Starved is not hung: a model of a processor that others take away, and real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.system.hanging import HangJudge
from perception_nodes.system.load import busy
from perception_nodes.system.processes import Seen, open_process
from perception_nodes.system.realtime import give_way

MS = 1_000_000
PATIENCE_MS, TICK_MS = 40, 10


class Silent:
    """A process that gave its last sign at 0, and a judge who looks every tick."""

    def __init__(self):
        self.ms = 0
        self.judge = HangJudge()
        self.ready = False
        self.computed = self.in_kernel = self.waited = self.stolen = self.main = 0
        self.unfinished_wait = 0

    def pass_time(self, ms, computes=0, in_kernel=0, waits=0, stolen=0, by_main=True):
        """Let time pass; a wait is told only when the process runs again, as the kernel does."""
        self.ms += ms
        self.unfinished_wait += waits
        if computes or in_kernel:
            self.waited, self.unfinished_wait = self.waited + self.unfinished_wait, 0
        self.ready = bool(computes or in_kernel or waits)
        self.computed += computes + in_kernel
        self.in_kernel += in_kernel
        self.main += computes if by_main else 0
        self.stolen += stolen

    def hangs(self):
        values = (self.main, self.computed, self.in_kernel, self.waited)
        # The host has taken another processor for longer, before.
        stolen_ns = (60_000 * MS, self.stolen * MS)
        seen = Seen(self.ready, *(value * MS for value in values), stolen_ns)
        return self.judge.update(0, self.ms * MS, PATIENCE_MS * MS, 0, lambda: seen)

    def hangs_after(self, limit_ms=1000, **ways):
        """When it is found hung, None if it is not within the limit."""
        while self.ms < limit_ms:
            self.pass_time(TICK_MS, **ways)
            if self.hangs():
                return self.ms
        return None


@pytest.mark.parametrize(
    ("ways", "patiences"),
    [({}, 1), ({"computes": TICK_MS}, 1), ({"computes": TICK_MS, "by_main": False}, 2)],
    ids=["sleeps for ever", "computes without end", "waits for a thread that computes"],
)
def test_one_that_could_go_on_hangs_after_its_patience_and_one_look_more(ways, patiences):
    assert Silent().hangs_after(**ways) <= patiences * PATIENCE_MS + 2 * TICK_MS


@pytest.mark.parametrize(
    "ways",
    [
        {"waits": 10},
        {"waits": 9, "computes": 1},
        {"computes": 1, "stolen": 9},
        {"stolen": 10, "waits": 10},
        {"in_kernel": 9, "computes": 1},
        {"in_kernel": 5, "waits": 5},
    ],
    ids=["never runs", "a tenth", "the host has it", "both", "the kernel computes", "or waits"],
)
def test_one_that_is_kept_from_running_never_hangs_until_it_had_its_time(ways):
    found_ms = Silent().hangs_after(60_000, **ways)
    had_ms = (found_ms or 60_000) / TICK_MS * ways.get("computes", 0)
    assert found_ms is None or had_ms >= PATIENCE_MS


def test_one_that_was_starved_and_then_sleeps_for_ever_hangs():
    process = Silent()
    assert process.hangs_after(500, waits=10) is None
    process.pass_time(TICK_MS, computes=1)
    assert process.hangs_after() <= 500 + PATIENCE_MS + 3 * TICK_MS


def test_a_sign_of_life_begins_anew():
    judge, seen = HangJudge(), Seen(False, 0, 0, 0, 0, ())
    assert not judge.update(0, 50 * MS, 40 * MS, 0, lambda: seen)
    assert not judge.update(7, 50 * MS, 40 * MS, 0, lambda: seen), "another silence: a first look"
    assert not judge.update(7, 5 * MS, 40 * MS, 0, lambda: pytest.fail("no need to look"))
    assert not judge.update(7, 50 * MS, 40 * MS, 0, lambda: seen)
    assert judge.update(7, 60 * MS, 40 * MS, 0, lambda: seen)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 30),
            st.sampled_from(["sleeps", "computes", "in_kernel", "waits", "stolen"]),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_who_is_found_hung_could_have_run_for_longer_than_its_patience(story):
    process, could_ms = Silent(), 0
    for ms, what in story:
        ways = {} if what == "sleeps" else {what: ms}
        if what == "stolen":
            ways["waits"] = ms
        process.pass_time(ms, **ways)
        could_ms += ms if what in ("sleeps", "computes") else 0
        if process.ms - ms <= PATIENCE_MS < process.ms and not process.ready:
            could_ms = process.ms  # the first look, at which nothing is known of the time before
        if process.hangs():
            # At a look it is known which threads are ready, not for how long they have been.
            assert could_ms + max(ms for ms, _ in story) > PATIENCE_MS


def judged(process, seconds, patience_ms=60):
    """Whether a real process is found hung within some time, if it gives no sign at all."""
    judge, began_ns = HangJudge(), time.monotonic_ns()
    spent_ns = process.look().main_ns
    while (silent_ns := time.monotonic_ns() - began_ns) < seconds * 1e9:
        if judge.update(began_ns, silent_ns, patience_ms * MS, spent_ns, process.look):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def start():
    """Starts Python; gives its process."""
    started = []

    def run(code):
        started.append(subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True))
        return open_process(started[-1].pid)

    yield run
    for child in started:
        child.kill()
        child.wait()


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(100)", "stopped"])
def test_real_processes_that_hang(start, code):
    process = start("while True: pass" if code == "stopped" else code)
    if code == "stopped":
        os.kill(process.pid, signal.SIGSTOP)
    assert judged(process, 20)
    process.close()


def test_a_real_process_that_the_kernel_computes_for_does_not_hang(start):
    """As for one that frees the frames of a camera that has left; it would end no sooner."""
    process = start(
        "import mmap\n"
        "flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE\n"
        "while True: mmap.mmap(-1, 1 << 26, flags).close()"
    )
    while process.look().computed_ns < 10 * MS:
        time.sleep(0.01)  # it imports
    assert not judged(process, 1.0)
    process.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="we need a processor of our own")
def test_a_real_process_that_gets_no_processor_does_not_hang(start):
    core = max(os.sched_getaffinity(0))
    process = start("while True: pass")
    give_way(process.pid)
    os.sched_setaffinity(process.pid, {core})
    with busy([core]):
        give_up_s = time.monotonic() + 20
        computed_ns = [0, process.look().computed_ns]
        while computed_ns[-1] - computed_ns[-2] > 5 * MS:  # the others are only starting
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
            computed_ns.append(process.look().computed_ns)
        hung = judged(process, 1.0)
        had_ns = process.look().computed_ns - computed_ns[-1]
    process.close()
    assert not hung or had_ns > 50 * MS, "unless others were kept from running as well"
