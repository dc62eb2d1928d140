"""The cache has a limit: what was used last stays."""

import os

import pytest

from perception_nodes.system.cache import cached, trim


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of three files of 100 bytes, used one after the other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number, name in enumerate(("old", "models/used", "new")):
        path = tmp_path / "perception_nodes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "kept"), [(300, ["new", "used", "old"]), (250, ["new", "used"]), (0, [])]
)
def test_what_was_used_last_is_kept(folder, limit, kept):
    assert trim(limit) == 100 * (3 - len(kept))
    assert [one.path.name for one in cached()] == kept


def test_no_cache_is_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert (cached(), trim()) == ([], 0)
