"""Channels in shared memory: samples, records and their order."""

import time

import pytest
from channel_ends import TIMEOUT_S, Number, ends_of, numbers, pages, send

from perception_nodes.core.frame import FrameRecord
from perception_nodes.transport import channels
from perception_nodes.transport.memory import SHM_FOLDER, reserve


class TestOneProcess:
    def test_a_sample_arrives_whole(self, join):
        writer, reader = ends_of(join(), 100, 4)
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
        writer, reader = ends_of(join(), 16, 4)
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

    def test_newest_gives_the_others_back_unread(self, join):
        writer, reader = ends_of(join())
        for cycle in range(50):
            for number in range(3):
                send(writer, 10 * cycle + number)
            sample = reader.newest()
            assert sample.header.number == 10 * cycle + 2
            sample.release()
            assert reader.newest() is None

    def test_the_newest_arrives_while_the_one_before_is_still_held(self, join):
        writer, reader = ends_of(join())
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
        # More than any queue of samples or notifications can hold.
        for number in range(3000):
            writer.send_record(FrameRecord(record=number))
        found = [record.record for record in watched.records()]
        assert found == list(range(3000 - channels.RECORD_DEPTH, 3000))

    def test_a_wait_ends_at_once_where_something_waits_and_in_time_where_nothing_does(self, join):
        writer, reader = ends_of(join(), depth=4)
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
        # A notification of a sample that was read already does not end the next wait.
        before_ns = time.monotonic_ns()
        waiter.wait(20)
        assert time.monotonic_ns() - before_ns >= 20_000_000
        for writer in writers:
            send(writer, 5)
        waiter.wait(TIMEOUT_S * 1e3)
        assert [numbers(reader) for reader in readers] == [[5], [5]]

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
