"""Outputs that cannot be written are refused in one line, before any work is begun."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.cli.common import check_folder, check_writable
from perception_nodes.graph.settings import SettingsError

FILES = [
    (["model", "evaluate", "open-n", "--data", "/nowhere"], "--out"),
    (["model", "card", "open-n", "--data", "/nowhere"], "--out"),
    (["model", "calibrate", "open-n", "--bag", "/nowhere"], "--table"),
    (["model", "calibrate", "open-n", "--bag", "/nowhere"], "--sheet"),
    (["bench", "latency", "--model", "none"], "--out"),
    (["bench", "deadline", "--model", "none"], "--out"),
    (["bench", "deadline", "--model", "none"], "--html"),
    (["bench", "cameras", "--model", "none"], "--out"),
    (["bench", "models", "none"], "--out"),
    (["bench", "models", "none"], "--html"),
    (["bench", "models", "none"], "--svg"),
    (["replay", "/nowhere", "--update"], "--golden"),
    (["hil", "run", "camera_stop"], "--junit"),
]
FOLDERS = [
    (["demo", "--bag", "/nowhere"], "--out"),
    (["replay", "/nowhere"], "--out"),
    (["replay", "--compare", "/nowhere", "/nowhere"], "--out"),
    (["model", "calibrate", "open-n", "--bag", "/nowhere"], "--out-model"),
    (["model", "compress", "/nowhere"], "--out"),
    (["model", "import", "/nowhere.onnx"], "--out"),
    (["hil", "run", "camera_stop"], "--out"),
    (["accept", "cameras:=a,b"], "--out"),
]


@pytest.mark.parametrize("place", ["file/below", "x" * 300, "new/" + "x" * 300])
@pytest.mark.parametrize(("arguments", "option"), FILES + FOLDERS, ids=str)
def test_the_output_is_what_is_refused_first(arguments, option, place, tmp_path, monkeypatch):
    """The other arguments are wrong too, and only found to be so by doing the work."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    error = CliRunner().invoke(app, [*arguments, option, place]).exception
    assert isinstance(error, SettingsError)
    assert str(error).startswith(f"{option} {place} cannot be written: ")
    assert "; name another " in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("arguments", "option"), FILES + FOLDERS, ids=str)
def test_a_folder_is_no_file_and_a_file_no_folder(arguments, option, tmp_path):
    (tmp_path / "file").touch()
    is_file = (arguments, option) in FILES
    path, problem = (
        (tmp_path, "is a folder; name a file")
        if is_file
        else (tmp_path / "file", "is a file; name a folder")
    )
    error = CliRunner().invoke(app, [*arguments, option, str(path)]).exception
    assert isinstance(error, SettingsError)
    assert str(error) == f"{option} {path} {problem}"


def test_a_device_is_not_replaced_by_a_file():
    with pytest.raises(SettingsError, match="/dev/null is a device or pipe; name a file"):
        check_writable(Path("/dev/null"), "--json")


def test_what_can_be_written_is_left_as_it_was(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    check_writable(path, "--json")
    check_writable(tmp_path / "new/result.json", "--json")
    check_folder(tmp_path, "--out")
    check_folder(tmp_path / "new/folder", "--out")
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"
