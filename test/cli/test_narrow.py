"""What commands print on a terminal of 80 columns, and without colours."""

import pytest
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.cli.common import say_written
from perception_nodes.cli.doctor import _conclusion
from perception_nodes.graph.graph import LIVE
from perception_nodes.report.screen import BAR_WIDTH, _bar
from perception_nodes.system.findings import Finding

NARROW = {"COLUMNS": "80"}


@pytest.mark.parametrize("command", ["replay", "run", "demo", "accept", "doctor"])
def test_help_is_broken_where_the_terminal_ends_and_nowhere_else(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], env=NARROW).output
    lines = [line.strip() for line in text.partition("Usage")[2].partition("╭")[0].split("\n")]
    for line, following in zip(lines[1:], lines[2:], strict=False):
        if line and following:  # the next word had no room
            assert len(line) + 1 + len(following.split()[0]) > 77, line


def test_no_name_of_a_parameter_is_cut():
    text = CliRunner().invoke(app, ["run", "--parameters"], env=NARROW).output
    assert "…" not in text
    assert all(f"│ {name} " in text for name in LIVE.parameters)


def test_a_bar_is_read_without_colours():
    half = _bar(0.5, "green").plain
    assert len(half) == BAR_WIDTH and half.count(half[0]) == half.count(half[-1]) == BAR_WIDTH / 2


def test_the_doctor_ends_in_one_sentence_and_what_is_optional_is_no_failure():
    gpu = Finding("GPU", False, "none", "plug one in", needed=False)
    memory = Finding("/dev/shm", False, "full", "make room")
    assert _conclusion([gpu]) == "Fit; better still with: GPU."
    assert _conclusion([gpu, memory]) == "Not fit: it lacks /dev/shm (make room)."


def test_the_page_is_named_last(tmp_path, capsys):
    for name in ("report.html", "summary.json"):
        (tmp_path / name).touch()
    say_written(tmp_path)
    assert capsys.readouterr().err.split()[-1] == str(tmp_path / "report.html")
