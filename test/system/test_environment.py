"""Folders of a process, whoever runs it."""

from pathlib import Path

from perception_nodes.system.environment import cache_folder


def test_a_user_without_a_home_is_told_of_a_cache_that_cannot_be_written(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() == Path("/.cache/perception_nodes")
