"""One graph a camera, in real processes."""

import errno
import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
from channel_ends import kill
from other_user import needs_root

from perception_nodes.transport.claim import Claim
from perception_nodes.transport.memory import TransportError

HOLDER = """
from perception_nodes.transport.claim import Claim
claim = Claim("front", "it")
print("held", flush=True)
input()
"""

pytestmark = pytest.mark.usefixtures("ros_domain")


@pytest.fixture
def holder(ros_domain, python):
    process = python(HOLDER)
    process.stdout.readline()
    yield process
    kill(process)
    Claim("front", "it").release()  # which removes the file that it has left


def test_the_holder_is_named(holder, domain):
    with pytest.raises(
        TransportError, match=f"^process {holder.pid} runs it in .*{domain} already"
    ):
        Claim("front", "it")


def test_a_killed_holder_has_given_it_up(holder):
    kill(holder)
    Claim("front", "it").release()


def test_cameras_and_domains_do_not_disturb_each_other(holder, domain, monkeypatch):
    rear = Claim("rear", "it")
    with monkeypatch.context() as other:
        other.setenv("ROS_DOMAIN_ID", f"{domain}8")
        Claim("front", "it").release()
    rear.release()


def test_a_claim_on_a_file_that_was_just_removed_is_made_again(monkeypatch, domain):
    first, real = Claim("front", "it"), os.open

    def late(*arguments):
        descriptor = real(*arguments)
        if first is not None:
            monkeypatch.undo()
            monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
            first.release()  # after the second has opened the file, before it locks it
        return descriptor

    monkeypatch.setattr(os, "open", late)
    second = Claim("front", "it")
    with pytest.raises(TransportError, match=f"process {os.getpid()} "):
        Claim("front", "it")
    second.release()


def test_a_claim_whose_file_is_removed_is_noticed_and_yet_keeps_others_out():
    first = Claim("front", "it")
    assert first.stands
    first.path.unlink()
    assert not first.stands
    with pytest.raises(TransportError, match="an unseen process, perhaps in another"):
        Claim("front", "it")
    first.release()
    second = Claim("front", "it")
    assert second.stands
    second.release()


@needs_root
def test_another_container_on_the_same_network_is_kept_out(holder):
    other = [*"unshare --mount sh -c".split(), 'mount -t tmpfs none /dev/shm && exec "$0" -c "$1"']
    claimed = 'from perception_nodes.transport.claim import Claim; Claim("front", "it")'
    process = subprocess.run([*other, sys.executable, claimed], capture_output=True, text=True)
    assert "perhaps in another container" in process.stderr, process.stderr


def test_what_fills_the_shared_memory_keeps_nobody_from_a_claim(monkeypatch, domain):
    monkeypatch.setattr(os, "pwrite", Mock(side_effect=OSError(errno.ENOSPC, "it is full")))
    claim = Claim("front", "a graph")
    with pytest.raises(TransportError, match=r"process \(starting\) runs a graph"):
        Claim("front", "a graph")
    claim.release()
