"""Channels between two processes, of which one may end at any time."""

import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest
from channel_ends import TIMEOUT_S, Number, heard, held, kill, numbers, remains, send, tell

from perception_nodes.transport import domain as domains
from perception_nodes.transport.lock import open_locked
from perception_nodes.transport.memory import SHM_FOLDER, TransportError
from perception_nodes.transport.remains import sweep
from perception_nodes.transport.shm import Endpoint


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

    @pytest.fixture
    def other(self, start):
        """A process that sends the numbers that it is told."""
        process = start(self.WRITER)
        assert heard(process) == "ready"
        return process

    @pytest.mark.parametrize("names", [["c"], ["quiet", "c"]])
    def test_a_wait_is_ended_by_the_other_process(self, join, other, names):
        """It would end by its timeout only after the test's own."""
        endpoint = join()
        readers = [endpoint.reader(name, Number, 2) for name in names]
        tell(other, "5")
        endpoint.waiter(readers).wait(10 * TIMEOUT_S * 1e3)
        assert numbers(readers[-1]) == [5]

    def test_a_writer_that_leaves_in_order_leaves_nothing(self, domain, other):
        assert held(domain)
        tell(other, "")
        assert heard(other) == "closed"
        other.wait(TIMEOUT_S)
        assert held(domain) == []

    @pytest.mark.parametrize("is_listed_alone", [False, True])
    @pytest.mark.parametrize("by", ["sweep", "next process"])
    def test_a_killed_writer_is_forgotten(self, domain, other, by, is_listed_alone):
        """Also where only its entry in a list is left."""
        kill(other)
        assert held(domain)
        folder, prefix = Path("/tmp/iceoryx2/nodes"), f"perception{domain}_"
        for path in list(folder.glob(f"{prefix}*.node_monitor*")) if is_listed_alone else []:
            number = int(path.name.removeprefix(prefix).split(".")[0])
            shutil.copy(path, folder / path.name.replace(str(number), str(number + 1)))
        if by == "sweep":
            sweep(domain)
            assert remains(domain) == []
        else:
            Endpoint("next", domain).close()
            assert held(domain) == []

    def test_sweep_does_not_touch_a_living_process(self, domain, join, other):
        reader = join().reader("c", Number, 2)
        sweep(domain)
        tell(other, "1")
        assert heard(other) == "sent"
        assert numbers(reader) == [1]

    @pytest.mark.parametrize("kind", ["dynamic", "global_mgmt"])
    def test_an_empty_file_of_a_killed_process_blocks_no_start(self, domain, other, kind):
        """For iceoryx2 its maker is still filling it."""
        kill(other)
        (*_, path) = SHM_FOLDER.glob(f"perception{domain}_*.{kind}")
        path.chmod(0o600)
        os.truncate(path, 0)
        os.utime(path, (0, 0))
        sweep(domain)
        assert remains(domain) == []

    def test_an_empty_file_beside_living_processes_is_named(self, domain, join):
        join()
        path = SHM_FOLDER / f"perception{domain}_empty.dynamic"
        path.touch()
        sweep(domain)  # it may be filled yet
        os.utime(path, (0, 0))
        with pytest.raises(TransportError, match=f"{path} is empty"):
            sweep(domain)
        path.unlink()

    @pytest.fixture
    def unfinished(self, domain, other, monkeypatch):
        """What a process leaves that is killed when it has opened half of a channel."""
        monkeypatch.setattr(domains, "CREATION_TIMEOUT_S", 1)
        services = [Path(path) for path in remains(domain) if path.endswith(".service")]
        kept = [(path, path.read_bytes()) for path in services]
        kill(other)
        sweep(domain)
        assert remains(domain) == []
        for path, data in kept:
            path.write_bytes(data)
        assert len(kept) == 2

    def test_a_channel_is_opened_that_a_killed_process_has_opened_half(self, unfinished, join):
        writer, reader = join().writer("c", Number, 64, 2), join().reader("c", Number, 2)
        writer.send_record(Number(7))
        assert numbers(reader) == [7]

    def test_sweep_leaves_nothing_of_a_half_opened_channel(self, unfinished, domain):
        sweep(domain)
        assert remains(domain) == []

    def test_sweep_leaves_a_camera_by_another_library(self, domain, join):
        """It is in iceoryx2's list of processes, and knows no lock of ours."""
        node = domains.join_domain("foreign", domains.config_of(domain))
        before = remains(domain)
        sweep(domain)
        assert set(before) <= set(remains(domain))
        del node

    def test_who_waits_too_long_for_the_domain_is_told(self, domain, monkeypatch):
        monkeypatch.setattr(domains, "PATIENCE_S", 0.05)
        path = SHM_FOLDER / f"perception_domain{domain}.lock"
        held = open_locked(path, fcntl.LOCK_EX)
        with pytest.raises(TransportError, match=f"another process holds {path} for 0.05 s"):
            Endpoint("waits", domain)
        os.close(held)
        Endpoint("joins", domain).close()

    def test_sweep_takes_nothing_from_a_process_that_joins_meanwhile(self, domain, start):
        """Two graphs of a domain, of which one starts while the other ends."""
        others = [
            start(
                f"""
endpoint.close()
for number in range(100):
    endpoint = Endpoint("joins", {domain})
    writer = endpoint.writer("{channel}", Number, 64, 2)
    reader = endpoint.reader("{channel}", Number, 2)
    writer.send_record(Number(number))
    assert [record.number for record in reader.records()] == [number]
    del writer, reader
    endpoint.close()
say("joined")
"""
            )
            for channel in "ab"
        ]
        while any(other.poll() is None for other in others):
            sweep(domain)
        assert [heard(other) for other in others] == ["joined", "joined"]

    def test_a_new_writer_takes_the_place_of_a_killed_one(self, join, start):
        reader = join().reader("c", Number, 2)
        for number in (1, 2, 3):
            other = start(self.WRITER)
            heard(other)
            tell(other, str(number))
            heard(other)
            kill(other)
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
        kill(other)
        for number in range(2000):
            send(writer, number)

    def test_a_signal_ends_a_wait_for_several(self, join):
        """The wait would end by its timeout only after the test's own."""
        seen = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append("handled"))
        endpoint = join()
        try:
            waiter = endpoint.waiter([endpoint.reader(name, Number, 2) for name in "ab"])
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            waiter.wait(10 * TIMEOUT_S * 1e3)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
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
