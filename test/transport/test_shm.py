"""Shared-memory channels between real processes."""

import ctypes
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from perception_nodes.core.frame import FrameHeader, FrameRecord
from perception_nodes.transport import channels
from perception_nodes.transport.domain import sweep
from perception_nodes.transport.memory import SHM_FOLDER, TransportError, require_room, reserve
from perception_nodes.transport.shm import MAX_PROCESSES, Endpoint

TIMEOUT_S = 30
DOMAINS = itertools.count(1000 * os.getpid())


class Number(ctypes.Structure):
    """A header with a number and something behind it."""

    _fields_ = [("number", ctypes.c_uint64), ("text", ctypes.c_char * 16)]


@pytest.fixture
def domain():
    """A domain of the test's own, in which nothing may be left."""
    number = next(DOMAINS)
    yield number
    sweep(number)
    assert remains(number) == []


@pytest.fixture
def join(domain):
    """Opens endpoints in the test's domain and closes them in the end."""
    opened = []

    def open_endpoint(name="test"):
        opened.append(Endpoint(name, domain))
        return opened[-1]

    yield open_endpoint
    for endpoint in opened:
        endpoint.close()


@pytest.fixture
def start(domain, root):
    """Starts Python in another process; it reports and is told by lines."""
    started = []

    def start_python(body):
        code = f"""
import ctypes, sys
sys.path.insert(0, {str(root)!r})
from perception_nodes.core.frame import FrameRecord
from perception_nodes.transport import channels
from perception_nodes.transport.shm import Endpoint
class Number(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint64), ("text", ctypes.c_char * 16)]
def say(text): print(text, flush=True)
def told(): return sys.stdin.readline().strip()
endpoint = Endpoint("other", {domain})
{body}
endpoint.close()
say("closed")
"""
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start_python
    for process in started:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def heard(process):
    return process.stdout.readline().strip()


def tell(process, text):
    process.stdin.write(text + "\n")
    process.stdin.flush()


def remains(domain):
    """What is left of a domain, in memory and in iceoryx2's folder of services."""
    prefix = f"perception{domain}_"
    folders = (SHM_FOLDER, Path("/tmp/iceoryx2"))
    return [str(path) for folder in folders for path in folder.rglob(f"*{prefix}*")]


def held(domain):
    """The same less iceoryx2's list of processes, which only a sweep of the domain removes."""
    return [name for name in remains(domain) if not name.endswith(".global_mgmt")]


def pages(domain):
    """Of files in memory that hold samples."""
    files = SHM_FOLDER.glob(f"perception{domain}_*.data")
    return {path.name: path.stat().st_blocks for path in files}


def send(writer, number, payload=b""):
    sample = writer.loan(len(payload))
    sample.header.number = number
    sample.payload[:] = np.frombuffer(payload, np.uint8)
    writer.send(sample)


def numbers(reader):
    return [header.number for header in reader.records()]


class TestOneProcess:
    def test_a_sample_arrives_whole(self, join):
        endpoint = join()
        writer = endpoint.writer("c", Number, 100, 4)
        reader = endpoint.reader("c", Number, 4)
        sample = writer.loan(5)
        sample.header.number, sample.header.text = 7, b"seven"
        sample.payload[:] = (1, 2, 3, 4, 5)
        writer.send(sample)
        received = reader.receive()
        assert (received.header.number, received.header.text) == (7, b"seven")
        assert received.payload.tolist() == [1, 2, 3, 4, 5]
        received.release()
        assert reader.receive() is None

    def test_what_was_written_is_what_is_read_in_the_same_memory(self, join):
        """No pixel is copied: the reader sees what the writer still changes."""
        endpoint = join()
        writer = endpoint.writer("c", Number, 16, 4)
        reader = endpoint.reader("c", Number, 4)
        sample = writer.loan(16)
        pixels = sample.payload
        writer.send(sample)
        received = reader.receive()
        pixels[:] = 42
        assert received.payload.tolist() == [42] * 16
        received.release()

    def test_a_lent_header_is_zeroed(self, join):
        writer = join().writer("c", Number, 16, 2)
        for _ in range(20):
            sample = writer.loan()
            assert (sample.header.number, sample.header.text) == (0, b"")
            sample.header.number, sample.header.text = 9, b"x" * 16
            sample.release()

    def test_the_newest_wins_and_the_losers_are_a_gap(self, join):
        endpoint = join()
        writer = endpoint.writer("c", Number, 8, 2)
        reader = endpoint.reader("c", Number, 2)
        for number in range(10):
            send(writer, number)
        assert numbers(reader) == [8, 9]

    def test_newest_gives_the_others_back_unread(self, join):
        endpoint = join()
        writer = endpoint.writer("c", Number, 8, 2)
        reader = endpoint.reader("c", Number, 2)
        for cycle in range(50):
            for number in range(3):
                send(writer, 10 * cycle + number)
            sample = reader.newest()
            assert sample.header.number == 10 * cycle + 2
            sample.release()
            assert reader.newest() is None

    def test_the_newest_arrives_while_the_one_before_is_still_held(self, join):
        endpoint = join()
        writer = endpoint.writer("c", Number, 8, 2)
        reader = endpoint.reader("c", Number, 2)
        send(writer, 1)
        held = reader.receive()
        for number in range(2, 20):
            send(writer, number)
        sample = reader.receive()
        assert (held.header.number, sample.header.number) == (1, 18)
        held.release()
        sample.release()

    def test_unread_channels_do_not_hold_up_the_writer(self, join):
        endpoint = join()
        writer = channels.record_writer(endpoint, "front", "test")
        channels.record_reader(endpoint, "front", "test")
        watched = channels.record_reader(endpoint, "front", "test")
        # More than any queue of samples or of notifications holds.
        for number in range(3000):
            writer.send_record(FrameRecord(record=number))
        found = [record.record for record in watched.records()]
        assert found == list(range(3000 - channels.RECORD_DEPTH, 3000))

    def test_without_readers_samples_are_let_go(self, join):
        writer = join().writer("c", Number, 8, 2)
        for number in range(100):
            send(writer, number)

    def test_a_record_arrives_as_a_copy(self, join):
        endpoint = join()
        writer = channels.record_writer(endpoint, "front", "test")
        reader = channels.record_reader(endpoint, "front", "test")
        writer.send_record(FrameRecord(sequence=3, reason=b"why", camera=b"front"))
        (record,) = reader.records()
        writer.send_record(FrameRecord(sequence=4))
        assert (record.sequence, record.reason, record.camera) == (3, b"why", b"front")

    def test_a_wait_ends_at_once_where_something_waits_and_in_time_where_nothing_does(self, join):
        endpoint = join()
        writer = endpoint.writer("c", Number, 8, 4)
        reader = endpoint.reader("c", Number, 4)
        send(writer, 1)
        reader.wait(TIMEOUT_S * 1e3)
        assert numbers(reader) == [1]
        reader.wait(1)
        assert numbers(reader) == []

    def test_a_wait_for_several_ends_where_any_has_something(self, join):
        endpoint = join()
        writers = [endpoint.writer(name, Number, 8, 4) for name in "ab"]
        readers = [endpoint.reader(name, Number, 4) for name in "ab"]
        waiter = endpoint.waiter(readers)
        for turn, (writer, reader) in enumerate(zip(writers, readers, strict=True)):
            waiter.wait(1)
            send(writer, turn)
            waiter.wait(TIMEOUT_S * 1e3)
            assert numbers(reader) == [turn]
        # What was read before its notification came does not end the next wait for good.
        before_ns = time.monotonic_ns()
        waiter.wait(20)
        assert time.monotonic_ns() - before_ns >= 20_000_000
        for writer in writers:
            send(writer, 5)
        waiter.wait(TIMEOUT_S * 1e3)
        assert [numbers(reader) for reader in readers] == [[5], [5]]

    def test_slots_hold_the_models_image(self, join):
        endpoint = join()
        writer = channels.slot_writer(endpoint, "front", 416, 256)
        reader = channels.slot_reader(endpoint, "front")
        sample = writer.loan()
        image = sample.payload.reshape(256, 416, 3)
        image[:] = 5
        writer.send(sample)
        received = reader.newest()
        assert received.payload.shape == (256 * 416 * 3,)
        assert isinstance(received.header, FrameHeader)
        received.release()

    @pytest.mark.parametrize("size", [100_000, 5_000_000])
    def test_samples_have_their_pages_before_they_are_needed(self, join, domain, size):
        endpoint = join("a")
        writer = endpoint.writer("t/large", Number, 100_000, 4)
        readers = [endpoint.reader("t/large", Number, 4) for _ in range(2)]
        writer.loan(size).release()
        before = pages(domain)
        for number in range(20):
            send(writer, number, bytes([number]) * size)
            if number > 10:
                readers[0].receive()  # and never given back
        assert pages(domain) == before

    def test_other_files_have_theirs(self, join, domain):
        endpoint = join("a")
        endpoint.writer("t", Number, 100_000, 4)
        endpoint.reader("t", Number, 4)
        reserve()
        for path in SHM_FOLDER.glob(f"perception{domain}_*"):
            whole = path.stat().st_blocks * 512 >= path.stat().st_size
            assert whole or path.suffix == ".data", path


class TestErrors:
    def test_pages_that_are_not_to_be_had_are_told_of(self, join, monkeypatch):
        endpoint = join("a")

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(TransportError, match="No space left"):
            endpoint.writer("t/large", Number, 5_000_000, 4)
        with pytest.raises(TransportError, match="No space left"):
            reserve()

    def test_a_channel_grows_with_its_payload(self, join):
        endpoint = join()
        writer, reader = endpoint.writer("c", Number, 8, 2), endpoint.reader("c", Number, 2)
        for size in (8, 1_000_000, 8, 3_000_000):
            sample = writer.loan(size)
            sample.payload[:] = size % 251
            writer.send(sample)
            received = reader.newest()
            assert received.payload.shape == (size,)
            assert (received.payload == size % 251).all()
            received.release()
        with pytest.raises(TransportError, match="are needed"):
            writer.loan(1 << 44)

    def test_more_loans_than_agreed_are_refused_and_returned_ones_are_lent_again(self, join):
        writer = join().writer("c", Number, 8, 2)
        first, second = writer.loan(), writer.loan()
        with pytest.raises(TransportError, match="no free slot"):
            writer.loan()
        first.release()
        writer.loan().release()
        second.release()

    def test_a_channel_of_another_make_is_refused(self, join):
        endpoint = join()
        endpoint.writer("c", Number, 8, 2)
        with pytest.raises(TransportError, match="'c'.*ROS_DOMAIN_ID"):
            endpoint.reader("c", FrameRecord, 2)
        with pytest.raises(TransportError, match="'c'"):
            endpoint.reader("c", Number, 3)

    def test_more_writers_than_there_is_room_for_are_refused(self, join):
        endpoint = join()
        kept = [endpoint.writer("c", Number, 8, 2) for _ in range(MAX_PROCESSES)]
        with pytest.raises(TransportError, match="'c'"):
            endpoint.writer("c", Number, 8, 2)
        assert len(kept) == MAX_PROCESSES

    def test_domains_do_not_hear_each_other(self, join):
        other = next(DOMAINS)
        stranger = Endpoint("stranger", other)
        reader = stranger.reader("c", Number, 2)
        send(join().writer("c", Number, 8, 2), 1)
        assert numbers(reader) == []
        stranger.close()
        sweep(other)
        assert remains(other) == []

    def test_the_domain_is_that_of_ros(self, monkeypatch, domain):
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        endpoint, same = Endpoint("a"), Endpoint("b", domain)
        reader = same.reader("c", Number, 2)
        send(endpoint.writer("c", Number, 8, 2), 1)
        assert numbers(reader) == [1]
        endpoint.close()
        same.close()

    @pytest.mark.parametrize("value", ["front", "-1", "1.5", "²"])
    def test_a_domain_that_is_no_number_is_told(self, monkeypatch, value):
        monkeypatch.setenv("ROS_DOMAIN_ID", value)
        with pytest.raises(TransportError, match="ROS_DOMAIN_ID is"):
            Endpoint("a")

    def test_full_memory_is_told_with_what_is_free_and_what_is_needed(self, join, monkeypatch):
        endpoint = join()
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64e6, 62.5e6, 1.5e6))
        with pytest.raises(TransportError, match=r"1\.5 MB free, 2\.0 MB are needed"):
            require_room(2_000_000)
        with pytest.raises(TransportError, match=r"/dev/shm has 1\.5 MB free, 2\d\d\.\d MB"):
            channels.camera_writer(endpoint, "front", 3840 * 2160 * 3)
        require_room(1_000_000)

    def test_full_memory_of_a_real_small_machine_is_told(self, root, domain):
        inside = f"""
import sys; sys.path.insert(0, {str(root)!r})
from perception_nodes.transport import channels
from perception_nodes.transport.domain import sweep
from perception_nodes.transport.memory import TransportError
from perception_nodes.transport.shm import Endpoint
try:
    channels.slot_writer(Endpoint("a", {domain}), "front", 1920, 1080)
except TransportError as error:
    print(error)
with open("/dev/shm/filler", "wb", 0) as filler:
    try:
        while filler.write(bytes(4096)): pass
    except OSError: pass
try:
    writer = channels.record_writer(Endpoint("b", {domain}), "front", "test")
except TransportError as error:
    print(error)
sweep({domain})
print("swept")
"""
        mount = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$0" -c "$1"'
        command = ["unshare", "-rm", "sh", "-c"]
        if (
            shutil.which("unshare") is None
            or subprocess.run(
                [*command, "mount -t tmpfs none /dev/shm"], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("needs user namespaces")
        run = subprocess.run(
            [*command, mount, sys.executable, inside],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        lines = run.stdout.splitlines()
        assert len(lines) == 3, run.stdout + run.stderr
        assert "/dev/shm has 1.0 MB free, 49." in lines[0]
        assert "/dev/shm" in lines[1]
        assert lines[2] == "swept"


class TestTwoProcesses:
    WRITER = """
writer = endpoint.writer("c", Number, 64, 2)
say("ready")
while (line := told()):
    sample = writer.loan(4)
    sample.header.number = int(line)
    sample.payload[:] = int(line) % 256
    writer.send(sample)
    say("sent")
"""

    def test_samples_travel_in_order(self, join, start):
        reader = join().reader("c", Number, 2)
        other = start(self.WRITER)
        assert heard(other) == "ready"
        for number in range(1, 6):
            tell(other, str(number))
            reader.wait(TIMEOUT_S * 1e3)
            sample = reader.receive()
            assert sample.header.number == number
            assert sample.payload.tolist() == [number] * 4
            sample.release()
            assert heard(other) == "sent"

    def test_a_slow_reader_gets_the_newest_and_sees_the_gap(self, join, start):
        reader = join().reader("c", Number, 2)
        other = start(self.WRITER)
        heard(other)
        for number in range(1, 8):
            tell(other, str(number))
            heard(other)
        assert numbers(reader) == [6, 7]

    def test_a_wait_is_ended_by_the_other_process(self, join, start):
        """It would end by its timeout only after the test's own."""
        reader = join().reader("c", Number, 2)
        other = start(self.WRITER)
        heard(other)
        tell(other, "5")
        reader.wait(10 * TIMEOUT_S * 1e3)
        assert numbers(reader) == [5]

    def test_a_wait_for_several_is_ended_by_the_other_process(self, join, start):
        endpoint = join()
        readers = [endpoint.reader(name, Number, 2) for name in ("quiet", "c")]
        waiter = endpoint.waiter(readers)
        other = start(self.WRITER)
        heard(other)
        tell(other, "5")
        waiter.wait(10 * TIMEOUT_S * 1e3)
        assert numbers(readers[1]) == [5]

    def test_a_writer_that_leaves_in_order_leaves_nothing(self, domain, start):
        other = start(self.WRITER)
        heard(other)
        assert held(domain)
        tell(other, "")
        assert heard(other) == "closed"
        other.wait(TIMEOUT_S)
        assert held(domain) == []

    def test_a_killed_writers_memory_is_reclaimed_by_the_next_process(self, domain, start):
        other = start(self.WRITER)
        heard(other)
        other.send_signal(signal.SIGKILL)
        other.wait(TIMEOUT_S)
        assert held(domain)
        Endpoint("next", domain).close()
        assert held(domain) == []

    def test_sweep_leaves_nothing_of_a_killed_writer(self, domain, start):
        other = start(self.WRITER)
        heard(other)
        other.send_signal(signal.SIGKILL)
        other.wait(TIMEOUT_S)
        sweep(domain)
        assert remains(domain) == []

    @pytest.mark.parametrize("by", ["sweep", "next process"])
    def test_a_process_of_which_only_its_entry_in_a_list_is_left_is_forgotten(
        self, domain, start, by
    ):
        other = start(self.WRITER)
        heard(other)
        other.send_signal(signal.SIGKILL)
        other.wait(TIMEOUT_S)
        folder, prefix = Path("/tmp/iceoryx2/nodes"), f"perception{domain}_"
        for path in list(folder.glob(f"{prefix}*.node_monitor*")):
            number = int(path.name.removeprefix(prefix).split(".")[0])
            shutil.copy(path, folder / path.name.replace(str(number), str(number + 1)))
        if by == "sweep":
            sweep(domain)
            assert remains(domain) == []
        else:
            Endpoint("next", domain).close()
            assert held(domain) == []

    def test_sweep_does_not_touch_a_living_process(self, domain, join, start):
        reader = join().reader("c", Number, 2)
        other = start(self.WRITER)
        heard(other)
        sweep(domain)
        tell(other, "1")
        assert heard(other) == "sent"
        assert numbers(reader) == [1]

    def test_a_new_writer_takes_the_place_of_a_killed_one(self, join, start):
        reader = join().reader("c", Number, 2)
        for number in (1, 2, 3):
            other = start(self.WRITER)
            heard(other)
            tell(other, str(number))
            heard(other)
            other.send_signal(signal.SIGKILL)
            other.wait(TIMEOUT_S)
            assert numbers(reader) == [number]

    def test_a_killed_reader_does_not_hold_up_the_writer(self, join, start):
        writer = join().writer("c", Number, 64, 2)
        other = start(
            """
reader = endpoint.reader("c", Number, 2)
say("ready")
reader.wait(60e3)
sample = reader.receive()
say(sample.header.number)
told()
"""
        )
        assert heard(other) == "ready"
        send(writer, 1)
        assert heard(other) == "1"
        other.send_signal(signal.SIGKILL)
        other.wait(TIMEOUT_S)
        for number in range(2000):
            send(writer, number)

    def test_a_signal_ends_a_wait_for_several(self, domain):
        """The wait would end by its timeout only after the test's own."""
        seen = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append("handled"))
        endpoint = Endpoint("a", domain)
        try:
            readers = [endpoint.reader(name, Number, 2) for name in "ab"]
            waiter = endpoint.waiter(readers)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            waiter.wait(10 * TIMEOUT_S * 1e3)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            endpoint.close()
        assert seen == ["handled"]

    def test_python_keeps_its_signals(self, domain):
        before = signal.getsignal(signal.SIGINT)
        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append("handled"))
        try:
            endpoint = Endpoint("a", domain)
            reader = endpoint.reader("c", Number, 2)
            signal.raise_signal(signal.SIGINT)
            reader.wait(1)
            endpoint.close()
            sweep(domain)
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)
        assert seen == ["handled", "handled"]
