"""One graph a camera, in real processes."""

import errno
import os
from unittest.mock import Mock

import pytest
from channel_ends import kill

from perception_nodes.transport.claim import Claim
from perception_nodes.transport.memory import TransportError

HOLDER = """
import pathlib, sys, time
from perception_nodes.transport.claim import Claim
claim = Claim("front", "it", pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def domain(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")


@pytest.fixture
def holder(tmp_path, python):
    process = python(HOLDER, tmp_path)
    process.stdout.readline()
    return process


def test_the_holder_is_named(holder, tmp_path):
    with pytest.raises(TransportError) as caught:
        Claim("front", "it", tmp_path)
    assert str(caught.value).startswith(f"process {holder.pid} runs it in ROS domain 7 already")


def test_a_killed_holder_has_given_it_up(holder, tmp_path):
    kill(holder)
    Claim("front", "it", tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_cameras_and_domains_do_not_disturb_each_other(holder, tmp_path, monkeypatch):
    rear = Claim("rear", "it", tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", "8")
    front = Claim("front", "it", tmp_path)
    rear.release()
    front.release()


def test_a_claim_on_a_file_that_was_just_removed_is_made_again(tmp_path, monkeypatch):
    first, real = Claim("front", "it", tmp_path), os.open

    def late(*arguments):
        descriptor = real(*arguments)
        if first is not None:
            monkeypatch.undo()
            monkeypatch.setenv("ROS_DOMAIN_ID", "7")
            first.release()  # after the second has opened the file, before it locks it
        return descriptor

    monkeypatch.setattr(os, "open", late)
    second = Claim("front", "it", tmp_path)
    with pytest.raises(TransportError, match=f"process {os.getpid()} "):
        Claim("front", "it", tmp_path)
    second.release()


def test_a_claim_whose_file_is_removed_stands_no_more_and_takes_no_other_away(tmp_path):
    first = Claim("front", "it", tmp_path)
    assert first.stands
    first.path.unlink()
    assert not first.stands
    second = Claim("front", "it", tmp_path)
    assert not first.stands
    first.release()
    assert second.stands
    second.release()


def test_what_fills_the_shared_memory_keeps_nobody_from_a_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", Mock(side_effect=OSError(errno.ENOSPC, "it is full")))
    claim = Claim("front", "a graph", tmp_path)
    with pytest.raises(TransportError, match=r"process \(starting\) runs a graph"):
        Claim("front", "a graph", tmp_path)
    claim.release()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TransportError, match="No such file or directory"):
        Claim("front", "it", tmp_path / "none")
