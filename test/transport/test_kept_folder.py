"""systemd cleans /tmp: it removes what is old, except in folders that somebody has locked."""

import fcntl
import os
import subprocess
from contextlib import contextmanager

import iceoryx2 as iox2
import pytest

from perception_nodes.transport import domain as domains
from perception_nodes.transport import shm
from perception_nodes.transport.memory import TransportError
from perception_nodes.transport.remains import sweep


@pytest.fixture
def folder(tmp_path, domain, monkeypatch):
    """The folder of iceoryx2, here alone: others of this machine may keep the usual one."""
    path, config = tmp_path / "iceoryx2", domains.config_of(domain)
    config.global_cfg.root_path = iox2.Path.new(str(path))
    monkeypatch.setattr(domains, "config_of", lambda _: config)
    return path


def is_kept(folder):
    """Whether systemd would leave it alone."""
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def program():
    """Another program, which is given all descriptors that may be inherited."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as process:
        yield
        process.communicate()


def test_who_shares_memory_keeps_the_folder_until_it_leaves(folder, join):
    first, second = join(), join()
    with program():
        first.close()
        assert is_kept(folder)
        second.close()
        assert not is_kept(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_who_cannot_enter_keeps_nothing(folder, domain, monkeypatch):
    monkeypatch.setattr(domains, "PATIENCE_S", 0.05)
    alone = domains.open_locked(domains.presence_file(domain), fcntl.LOCK_EX)
    with pytest.raises(TransportError, match="another process holds"):
        shm.Endpoint("waits", domain)
    os.close(alone)
    assert not is_kept(folder)


def test_a_damaged_folder_is_told(folder, domain):
    folder.mkdir()
    (folder / "nodes").touch()
    with pytest.raises(TransportError, match=f"{folder}/nodes cannot be listed: "):
        sweep(domain)
    assert not is_kept(folder)
    (folder / "nodes").unlink()
