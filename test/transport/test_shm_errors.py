"""Errors of shared memory, and their texts."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from channel_ends import DOMAINS, TIMEOUT_S, Number, ends_of, numbers, remains, send

from perception_nodes.cameras.channel import camera_writer
from perception_nodes.core.frame import FrameRecord
from perception_nodes.transport.memory import TransportError, require_room, reserve
from perception_nodes.transport.remains import sweep
from perception_nodes.transport.shm import MAX_PROCESSES, Endpoint


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
        writer, reader = ends_of(join())
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

    def test_domains_are_those_of_ros_and_do_not_hear_each_other(self, join, monkeypatch, domain):
        other = next(DOMAINS)
        stranger = Endpoint("stranger", other)
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        same = Endpoint("same")
        readers = [one.reader("c", Number, 2) for one in (stranger, same)]
        send(join().writer("c", Number, 8, 2), 1)
        assert [numbers(reader) for reader in readers] == [[], [1]]
        stranger.close()
        same.close()
        sweep(other)
        assert remains(other) == []

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
        with pytest.raises(TransportError, match=r"/dev/shm has 1\.5 MB free, 3\d\d\.\d MB"):
            camera_writer(endpoint, "front", 3840 * 2160 * 3)
        require_room(1_000_000)

    def test_full_memory_of_a_real_small_machine_is_told(self, root, domain):
        inside = f"""
import sys; sys.path.insert(0, {str(root)!r})
from perception_nodes.transport import channels
from perception_nodes.transport.remains import sweep
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
        assert "/dev/shm has 1.0 MB free, 62." in lines[0]
        assert "/dev/shm" in lines[1]
        assert lines[2] == "swept"
