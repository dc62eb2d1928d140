"""Where the sample drive is found, and that it is fetched where it is not."""

from pathlib import Path

import pytest

from perception_nodes.drives import sample
from perception_nodes.drives.sample import sample_drive

MAKER = """
import pathlib, sys
assert sys.argv[1:4] == ["--only", "road", "--out"]
folder = pathlib.Path(sys.argv[4])
folder.mkdir(parents=True)
(folder / "road.mp4").touch()
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that is no checkout, below one with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sample, "share_folder", lambda: tmp_path)
    (tmp_path / "bags").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_it_is_fetched_once(elsewhere: Path) -> None:
    maker = elsewhere / "bags/make_sample.py"
    maker.write_text(MAKER)
    made = elsewhere / "cache/perception_nodes/bags/road.mp4"
    assert sample_drive() == made and made.is_file()
    maker.write_text("raise SystemExit(1)")
    assert sample_drive() == made


def test_that_of_the_checkout_comes_first(elsewhere: Path) -> None:
    (elsewhere / "work/bags/sample").mkdir(parents=True)
    assert sample_drive() == Path("bags/sample")
    (elsewhere / "work/bags/road.mp4").touch()
    assert sample_drive() == Path("bags/road.mp4")
