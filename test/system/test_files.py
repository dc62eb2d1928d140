"""Files that are whole or not there."""

import os
import resource
from contextlib import contextmanager

import pytest

from perception_nodes.system.files import PROOF_BYTES, staged, try_writing, write_whole


@contextmanager
def a_full_disk():
    """No file of this process may grow, which looks like a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PROOF_BYTES - 1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("content", ["größer", "größer".encode()])
def test_a_file_and_its_folder_are_made(tmp_path, content):
    path = tmp_path / "new/file.txt"
    write_whole(path, content)
    assert path.read_text(encoding="utf-8") == "größer"
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_trial_leaves_nothing(tmp_path):
    try_writing(tmp_path / "a/b/file.txt")
    assert list(tmp_path.iterdir()) == []
    kept = tmp_path / "kept.txt"
    kept.write_text("old")
    try_writing(kept)
    assert kept.read_text() == "old"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_trial_fails_where_writing_would(tmp_path):
    (tmp_path / "file").touch()
    for path in ("x" * 300, "file/below", f"{'x' * 300}/below", f"new/{'x' * 300}"):
        with pytest.raises(OSError):
            try_writing(tmp_path / path)
    with a_full_disk(), pytest.raises(OSError, match="File too large"):
        try_writing(tmp_path / "new/full")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_staged_folder_is_there_as_a_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new/out"
    with pytest.raises(KeyboardInterrupt), staged(out) as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert not out.exists()
    for content in ("old", "new"):
        with staged(out) as folder:
            (folder / "below").mkdir()
            (folder / "below" / content).touch()
            (folder / "file").write_text(content)
    assert sorted(path.name for path in out.rglob("*")) == ["below", "file", "new"]
    assert (out / "file").read_text() == "new"


def test_an_interrupt_while_a_staged_folder_is_made_leaves_nothing(tmp_path, monkeypatch):
    make = os.mkdir

    def interrupted(path, mode=0o777):
        make(path, mode)
        if ".part-" in os.fspath(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_last_file_is_not_there_before_the_others(tmp_path):
    (tmp_path / "z").mkdir()  # where no file can go
    with pytest.raises(OSError), staged(tmp_path, last="a") as folder:
        (folder / "a").touch()
        (folder / "z").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["z"]
