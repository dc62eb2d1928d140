"""Names are shown as they are, brackets and all, and figures whole."""

import io
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
from perception_nodes.cli.graph import conclude
from perception_nodes.replay.drives import Replayed, ReplayRequest

NAME = "[/x]"
SUMMARY: dict[str, Any] = {
    "frames_sent": 3,
    "frames_in": 3,
    "status": {"OK": 3, "LATE": 0, "SKIPPED_LATE": 0, "SUPERSEDED": 0, "DEGRADED": 0, "FAILED": 0},
    "models": {"road-n": 2, "road-xs": 1},
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
    assert (
        "failed: Not all is accounted for (frames without a report: 2)" in capsys.readouterr().err
    )


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
