"""Files that are whole or not there."""

from pathlib import Path

import pytest

from perception_nodes.system.files import write_whole


@pytest.mark.parametrize("content", ["größer", "größer".encode()])
def test_a_file_and_its_folder_are_made(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "new/file.txt"
    write_whole(path, content)
    assert path.read_text(encoding="utf-8") == "größer"
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
