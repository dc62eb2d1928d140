"""Who works: a lock between real processes, and what the next one learns of the last."""

import ctypes
import os
import signal
import sys
import threading
import time

import pytest
from observe import until

from perception_nodes.core.frame import MAY_BE_OUT
from perception_nodes.system import life
from perception_nodes.transport import lease as lease_module
from perception_nodes.transport.lease import Lease

pytestmark = pytest.mark.usefixtures("ros_domain")
TIMEOUT_S = 300.0
PATIENCE_NS = 40_000_000
HOLDER = """
import sys, time
from perception_nodes.core.frame import FrameRecord
from perception_nodes.transport.lease import Lease
lease = Lease("front", "detector")
assert lease.acquire(40_000_000)
lease.begin(5, 17, 1234)
lease.take(3, 99)
lease.enter(FrameRecord(sequence=17, incarnation=5, ingested_ns=1234))
lease.take(3, 100)
"""
SIGNS = "while True: lease.sign(40_000_000); time.sleep(0.005)"


@pytest.fixture
def lease(closed):
    return closed(Lease("front", "detector"))


@pytest.fixture
def other(closed):
    """The same lease as another process has it."""
    return closed(Lease("front", "detector"))


@pytest.fixture
def holder(python):
    """Starts another process that holds the lease, does what it is told, and then runs on."""

    def start(does="", then=SIGNS):
        process = python(f"{HOLDER}{does}\nprint(flush=True)\n{then}")
        process.stdout.readline()
        return process

    return start


def acquired(lease, kill=False):
    deadline_s = time.monotonic() + TIMEOUT_S
    while (record := lease.acquire(PATIENCE_NS)) is None:
        assert time.monotonic() < deadline_s
        if kill:
            lease.kill_hung_holder()
        time.sleep(0.005)
    return record


def test_whether_anybody_works_is_seen_from_outside(lease, other, holder):
    assert not other.is_taken, "by nobody yet"
    lease.acquire(PATIENCE_NS)
    assert other.is_taken
    lease.release()
    assert not other.is_taken, "it stopped in good order"
    process = holder()
    assert other.is_taken
    process.kill()
    process.wait()
    assert not other.is_taken


def test_one_alone_works(lease, other):
    assert lease.acquire(PATIENCE_NS)
    assert other.acquire(PATIENCE_NS) is None
    assert Lease("front", "preprocess").acquire(PATIENCE_NS)
    assert Lease("rear", "detector").acquire(PATIENCE_NS)


@pytest.mark.parametrize("in_order", [True, False])
def test_a_lease_that_is_given_up_leaves_no_predecessor_but_in_the_middle_of_a_frame(
    lease, other, in_order
):
    lease.acquire(PATIENCE_NS)
    lease.begin(5, 17, 1234)
    lease.publish()
    if in_order:
        lease.end()
    assert lease.release() == in_order
    record = other.acquire(PATIENCE_NS)
    held = (0, 0, 0) if in_order else (os.getpid(), 5, 17)
    assert (record.predecessor, record.held_incarnation, record.held_sequence) == held
    assert record.reason.endswith(MAY_BE_OUT) != in_order
    assert other.note.ingested_ns == 1234, "where it stood is known all the same"


@pytest.mark.parametrize(
    "code, may_be_out",
    [("lease.publish()", True), ("lease.publish(); lease.begin(5, 18, 1235)", False)],
)
def test_of_a_frame_that_was_just_published_it_is_said(lease, holder, code, may_be_out):
    process = holder(code)
    process.kill()
    record = acquired(lease)
    assert record.held_incarnation == 5
    assert (MAY_BE_OUT in record.reason) == may_be_out


def test_a_killed_holder_is_followed_at_once_with_the_frame_it_held(lease, holder):
    process = holder()
    assert lease.acquire(PATIENCE_NS) is None
    process.kill()
    record = acquired(lease)
    assert record.predecessor == process.pid
    assert (record.held_incarnation, record.held_sequence) == (5, 17)
    assert record.newest_ns == 1234
    assert record.reason.startswith(f"detector {process.pid} died; {os.getpid()} took".encode())
    note = lease.note
    assert (note.source, note.number) == (3, 100)
    assert (note.entered_number, note.entered.sequence) == (99, 17)


def test_wherever_it_is_killed_no_number_is_taken_for_one_of_another_stream(lease):
    """What a successor would read is looked at behind each line of `take`."""
    numbers = {1: 50, 2: 3, 3: 40}
    seen = []

    def look(frame, event, argument):
        seen.append(lease.taken())
        return look

    sys.settrace(lambda frame, *_: look if frame.f_code is Lease.take.__code__ else None)
    try:
        for source, number in numbers.items():
            lease.take(source, number)
    finally:
        sys.settrace(None)
    assert len(seen) > 10
    assert all(taken.items() <= numbers.items() for taken in seen), seen
    assert lease.taken() == numbers


def test_the_last_number_of_each_stream_is_known_to_the_next(lease, other):
    for number in range(100):
        lease.take(1 + number % 3, number)
    lease.take(4, 7)
    assert other.taken() == {1: 99, 2: 97, 3: 98, 4: 7}


def test_the_end_of_the_holder_ends_the_wait(lease, holder):
    process = holder()
    lease.wait(1.0)
    threading.Timer(0.05, process.kill).start()
    lease.wait(10 * TIMEOUT_S * 1e3)  # otherwise it would outlast the test
    assert acquired(lease).predecessor == process.pid


def test_a_holder_that_hangs_is_killed_and_followed(lease, holder):
    process = holder()
    os.kill(process.pid, signal.SIGSTOP)
    record = acquired(lease, kill=True)
    assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    assert b"hung and was killed" in record.reason


def test_a_holder_whose_processor_was_away_is_given_its_patience_again(lease, holder, monkeypatch):
    """Where the host has a processor, those that sleep there are not woken."""
    process = holder()
    os.kill(process.pid, signal.SIGSTOP)  # all that can be seen is that it sleeps
    asked = []
    monkeypatch.setattr(lease_module, "runs_at_once", lambda processor: asked.append(processor))
    until(lambda: len(asked) >= 3, TIMEOUT_S, meanwhile=lease.kill_hung_holder)
    assert process.poll() is None
    assert len(asked) == 3 and set(asked) <= os.sched_getaffinity(0)
    monkeypatch.undo()
    assert b"hung and was killed" in acquired(lease, kill=True).reason


def test_that_one_was_killed_is_not_told_of_the_next_one_which_is_killed_too_where_it_hangs(
    lease, holder
):
    for _ in range(2):
        hanging = holder()
        os.kill(hanging.pid, signal.SIGSTOP)
        while hanging.poll() is None:
            lease.kill_hung_holder()
            time.sleep(0.005)
    faster = holder()
    faster.kill()
    assert f"detector {faster.pid} died".encode() in acquired(lease).reason


def test_of_an_earlier_graph_nothing_is_inherited(lease, holder, closed, monkeypatch):
    """A camera that goes on keeps the file in shared memory alive."""
    process = holder("lease.note.listeners = 3")
    process.kill()
    assert lease.listeners == 3
    assert life.new_life() != life.new_life()
    for name, value in life.new_life().items():
        monkeypatch.setenv(name, value)
    later = closed(Lease("front", "detector"))
    assert later.listeners == 0
    record = acquired(later)
    note = later.note
    assert (record.predecessor, record.held_incarnation, record.newest_ns) == (0, 0, 0)
    assert (note.source, note.number, note.unended, note.process) == (0, 0, 0, os.getpid())


def test_a_holder_that_gives_signs_is_left_alone(lease, holder):
    process = holder()
    for _ in range(30):
        lease.kill_hung_holder()
        time.sleep(0.005)
    assert process.poll() is None
    assert lease.acquire(PATIENCE_NS) is None


def test_a_process_that_only_has_the_number_of_the_holder_is_left_alone(lease, holder, python):
    """The holder is gone and the kernel has given its number to another one, or it is damaged."""
    bystander = python("print(flush=True); input()")
    bystander.stdout.readline()
    process = holder(then="input()")
    for damaged in (bystander.pid, 2**63):
        lease.note.process, lease.note.patience_ns = damaged, 1
        for _ in range(50):
            lease.kill_hung_holder()
            time.sleep(0.002)
    assert bystander.poll() is None
    process.kill()
    lease.note.process = bystander.pid
    assert acquired(lease).predecessor == bystander.pid


def test_the_note_has_no_hidden_padding(lease):
    note = type(lease.note)
    assert ctypes.sizeof(note) == sum(getattr(note, name).size for name, _ in note._fields_)


def test_a_frame_that_was_ended_is_not_held(lease, holder):
    process = holder("lease.end()")
    process.kill()
    record = acquired(lease)
    assert (record.predecessor, record.held_incarnation) == (process.pid, 0)


def test_without_a_holder_the_wait_has_its_time(lease):
    started_s = time.monotonic()
    lease.wait(20.0)
    assert time.monotonic() - started_s > 0.019
