"""Files in a store behave as files do; the store is the disk, through obstore."""

import fcntl
import os
import pickle
from threading import Timer

import pytest

from perception_nodes.core.errors import InputError
from perception_nodes.system import object_path
from perception_nodes.system.files import try_writing, write_whole
from perception_nodes.system.object_path import ObjectPath, path_of, uploaded
from perception_nodes.system.signals import ASKED_TO_END

pytest.importorskip("obstore")
OLD = ("old.csv", "older.csv")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder of the disk as one of a store; copies are kept beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path_of((tmp_path / "store").as_uri())


def test_a_url_stays_one_through_what_is_done_with_paths():
    url = "s3://bucket/a week/drive.mcap"
    path = path_of(url)
    there = pickle.loads(pickle.dumps(path.parent / "drive.mcap"))
    assert str(path) == str(there) == str(path.resolve()) == f"{path}" == url
    assert path == there and hash(path) == hash(there) and path.suffix == ".mcap"
    assert type(path_of("s3/drive")) is not ObjectPath is type(path.parent)


def test_what_is_written_is_read_listed_and_removed(store, tmp_path):
    file = store / "run" / "summary.json"
    try_writing(file)
    assert not file.exists() and not store.is_dir() and store.versions() == []
    write_whole(file, "first")
    version = file.versions()
    write_whole(file, "second one")
    assert (tmp_path / "store/run/summary.json").read_text() == file.read_text() == "second one"
    assert file.read_range(3, 4) == file.read_bytes()[3:7]
    assert file.is_file() and store.is_dir() and not file.is_dir() and not store.is_file()
    assert list(store.iterdir()) == [] and list(file.parent.iterdir()) == [file]
    assert file.versions() == store.versions() != version
    file.unlink()
    file.unlink(missing_ok=True)
    for fails in (file.unlink, file.read_bytes, file.version):
        with pytest.raises(FileNotFoundError) as caught:
            fails()
        assert caught.value.filename == str(file)


def test_files_are_uploaded_the_marker_last_and_not_after_an_error(store, tmp_path, monkeypatch):
    uploads = []
    upload = ObjectPath.upload
    monkeypatch.setattr(
        ObjectPath, "upload", lambda path, of: (uploads.append(path.name), upload(path, of))
    )
    for name in ("old.csv", "recorded.mcap"):
        write_whole(store / "drive" / name, "of an earlier run, or of somebody")
    uploads.clear()
    with pytest.raises(KeyError), uploaded(store / "drive", "a.json", OLD) as folder:
        (folder / "a.json").write_text("half")
        raise KeyError
    assert not uploads
    with uploaded(store / "drive", "a.json", OLD) as folder:
        for name in ("a.json", "b.csv", "c.mcap"):
            (folder / name).write_text(name)
    assert uploads == ["b.csv", "c.mcap", "a.json"]
    there = sorted(path.name for path in (store / "drive").iterdir())
    assert there == sorted([*uploads, "recorded.mcap"])
    assert not list((tmp_path / "cache/perception_nodes/uploads").iterdir())


def test_copies_are_kept_while_they_are_fresh_and_there_is_room(store, monkeypatch):
    monkeypatch.setattr(object_path, "BLOCK_BYTES", 7)
    monkeypatch.setattr(object_path, "CACHE_BYTES", 100)
    for name in "abc":
        write_whole(store / f"{name}.db3", name * 40)
    write_whole(store / "a.db3-wal", "log")
    copy = (store / "a.db3").fetched(["-wal", "-journal"])
    assert copy.read_text() == "a" * 40
    assert sorted(one.name for one in copy.parent.iterdir()) == ["a.db3", "a.db3-wal"]
    other = (store / "b.db3").fetched()
    for old in (copy, other):
        os.utime(old.parent, (0, 0))
    assert (store / "a.db3").fetched(["-wal", "-journal"]) == copy  # and so used last
    (store / "c.db3").fetched()
    assert copy.exists() and not other.exists()
    write_whole(store / "a.db3-wal", "longer log")
    assert (store / "a.db3").fetched(["-wal"]) != copy
    write_whole(store / "large.db3", "x" * 101)
    with pytest.raises(OSError, match="101 bytes, and copies of 100 at most"):
        (store / "large.db3").fetched()


def test_a_wait_for_the_copy_of_another_process_ends_when_this_one_is_asked_to(store):
    write_whole(store / "a.db3", "abc")
    folder = (store / "a.db3").fetched().parents[1]
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Timer(0.2, ASKED_TO_END.set).start()
        with pytest.raises(KeyboardInterrupt):
            (store / "a.db3").fetched()
    ASKED_TO_END.clear()


def test_errors_do_not_repeat_what_a_query_signs(store, monkeypatch):
    write_whole(store / "a", "abc")
    monkeypatch.setattr(object_path, "ATTEMPTS", 2)
    with pytest.raises(OSError, match="the store sends 3 of 4 bytes"):
        (store / "a").read_range(0, 4)
    import obstore

    def fails(*_, **__):
        raise obstore.exceptions.GenericError("GET http://host/a?sig=secret failed\n\nDebug source")

    monkeypatch.setattr(obstore, "get_async", fails)
    with pytest.raises(OSError, match="GET http://host/a failed: ") as caught:
        (store / "a").version()
    assert "secret" not in str(caught.value)


def test_what_changes_while_it_is_read_is_refused(store):
    file = store / "drive.mcap"
    write_whole(file, "abcdef")
    _, _, tag = file.version()
    assert file.read_range(0, 3, tag) == b"abc"
    write_whole(file, "ABCDEF!")
    with pytest.raises(OSError, match="it has changed while it was read"):
        file.read_range(3, 3, tag)


@pytest.mark.parametrize("secret", ["user:word@host/a.mcap", "host/a.mcap?sig=word"])
def test_a_login_or_signature_in_a_url_is_refused_and_not_repeated(secret):
    with pytest.raises(InputError, match="http://host/a.mcap: a login") as caught:
        path_of(f"http://{secret}")
    assert "word" not in str(caught.value)
