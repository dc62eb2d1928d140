"""What commands print: help with examples that work, names as they are, on 80 columns too."""

import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from perception_nodes.cameras.v4l2_devices import CaptureDevice, Mode
from perception_nodes.cli import camera as cli_camera
from perception_nodes.cli import replay_screen
from perception_nodes.cli.app import app
from perception_nodes.cli.common import say_written
from perception_nodes.cli.doctor import _conclusion
from perception_nodes.cli.graph import conclude
from perception_nodes.graph.graph import LIVE
from perception_nodes.replay.drives import Replayed, ReplayRequest
from perception_nodes.report.screen import BAR_WIDTH, _bar
from perception_nodes.system.findings import Finding

TOP = typer.main.get_command(app)


def commands(group, *names):
    """The names of every command below a group."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, *names, name)
        else:
            yield (*names, name)


def command_of(names):
    """A command by its names."""
    found = TOP
    for name in names:
        found = found.get_command(None, name)
    return found


@pytest.mark.parametrize("names", list(commands(TOP)), ids=" ".join)
def test_every_command_teaches(names: tuple[str, ...]) -> None:
    command = command_of(names)
    paragraphs = [" ".join(part.split()) for part in command.help.split("\n\n")]
    marker = f"Example: perception {' '.join(names)}"
    examples = [part for part in paragraphs if part.startswith(marker)]
    assert examples, f"the help lacks a paragraph that begins with {marker!r}"
    for example in examples:
        arguments = shlex.split(example.removeprefix(marker))
        with command.make_context(" ".join(names), arguments) as context:  # parses, runs nothing
            assert context.params
    assert [p.name for p in command.params if not p.help] == []


def test_the_first_help_groups_the_commands():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"})
    titles = re.findall(r"╭─ (.+?) ─", result.stdout)
    assert titles == ["Options", "Detect", "Prepare", "Measure and test"]
    for name in TOP.list_commands(None):
        assert re.search(rf"^│ {name} ", result.stdout, re.MULTILINE)


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


NAME = "[/x]"
SUMMARY: dict[str, Any] = {
    "frames_sent": 3,
    "frames_in": 3,
    "status": {"OK": 3, "LATE": 0, "SKIPPED_LATE": 0, "SUPERSEDED": 0, "DEGRADED": 0, "FAILED": 0},
    "models": {"open-n": 2, "open-xs": 1},
    "detections": 4,
    "latency_ms": {},
    "stages_ms": {},
    "miss_rate": None,
    "failures": {},
}


def test_the_folder_of_a_run(tmp_path, capsys):
    folder = tmp_path / NAME
    folder.mkdir(parents=True)
    conclude(SUMMARY, folder, as_json=False)
    assert f"Written to {folder}" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        conclude(SUMMARY | {"unaccounted": {"frames without a report": 2}}, folder, as_json=True)
    said = capsys.readouterr().err
    assert "failed: Not all is accounted for (frames without a report: 2)" in said


def test_long_names_of_drives_leave_room_for_the_figures(monkeypatch):
    console = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(replay_screen, "screen", console)
    facts = SUMMARY | {
        "frames_in": 54000,
        "status": SUMMARY["status"] | {"OK": 51234},
        "lost_in_bag": 1234,
        "detections": 7654321,
        "latency_ms": {"p50": 12.345, "p99": 1234.567},
        "golden_changes": 12345,
    }
    name = f"{NAME}.truck.Front_Cam_1.image_rect_color"
    replayed = Replayed({name: facts}, {}, {"totals": facts}, False, [], None)
    replay_screen.show_replayed(replayed, ReplayRequest([], Path("out")), as_json=False)
    rows = console.file.getvalue().splitlines()
    (row,) = (row.split() for row in rows if NAME in row)
    assert row[1:] == ["54000", "2766", "1234", "7654321", "12.35", "1234.57", "0"]
    assert "".join(row.strip() for row in rows).count("…") == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_name_and_formats_of_a_device(monkeypatch, options):
    """Big-endian formats have a bit set that no letter has."""
    modes = [Mode(code, 640, 480, 30.0) for code in (b"NV12", b"Y16\xa0")]
    device = CaptureDevice("/dev/video0", NAME, "uvcvideo", modes)
    monkeypatch.setattr(cli_camera, "list_devices", lambda: [device])
    result = CliRunner().invoke(app, ["camera", "--list", *options])
    assert result.exit_code == 0
    assert all(text in result.output for text in (NAME, "NV12", "Y16 -BE"))
