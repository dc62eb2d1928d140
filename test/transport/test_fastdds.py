"""Remains of Fast DDS are removed, and nothing else."""

import fcntl

import pytest

from perception_nodes.transport import fastdds


@pytest.fixture(params=fastdds.PREFIXES)
def prefix(request):
    return str(request.param)


@pytest.fixture
def folder(prefix, tmp_path, monkeypatch):
    """Stands in for /dev/shm, with a segment and a port that nobody holds."""
    monkeypatch.setattr(fastdds, "STARTING_S", -1.0)
    for name in ("ab", "ab_el", "port7411", "port7411_sl"):
        (tmp_path / f"{prefix}{name}").touch()
    (tmp_path / f"sem.{prefix}port7411_mutex").touch()
    (tmp_path / "another").touch()
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_nobody_holds_is_removed(folder):
    fastdds.sweep_segments(folder)
    assert names(folder) == ["another"]


def test_what_a_process_holds_stays_whole(folder, prefix):
    with (folder / f"{prefix}port7411_sl").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        fastdds.sweep_segments(folder)
    port = f"{prefix}port7411"
    assert names(folder) == ["another", port, f"{port}_sl", f"sem.{port}_mutex"]


def test_what_is_just_being_made_stays(folder, monkeypatch):
    monkeypatch.setattr(fastdds, "STARTING_S", 60.0)
    fastdds.sweep_segments(folder)
    assert len(names(folder)) == 6
