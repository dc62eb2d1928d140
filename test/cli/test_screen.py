"""What users name, and devices call themselves, is shown as it is, brackets and all."""

from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from perception_nodes.cameras.v4l2_devices import CaptureDevice
from perception_nodes.cli import camera as cli_camera
from perception_nodes.cli import hil as cli_hil
from perception_nodes.cli.app import app
from perception_nodes.cli.graph import conclude
from perception_nodes.replay.compare import SETTINGS, comparison_table

NAME = "[/x]"
SUMMARY: dict[str, Any] = {
    "frames_sent": 3,
    "frames_in": 3,
    "lost_before_ingest": 0,
    "status": {"OK": 3, "LATE": 0, "SKIPPED_LATE": 0, "SUPERSEDED": 0, "DEGRADED": 0, "FAILED": 0},
    "detections": 4,
    "latency_ms": {},
    "stages_ms": {},
    "miss_rate": None,
    "failures": {},
}


def test_the_folder_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / NAME
    folder.mkdir(parents=True)
    conclude(SUMMARY, folder, as_json=False)
    assert f"Written to {folder}" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        conclude(SUMMARY | {"frames_sent": 5, "lost_before_ingest": 2}, folder, as_json=True)
    assert "5 frames were sent, 3 are accounted for" in capsys.readouterr().err


def test_the_address_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unit:
        address = "[fd00::2]:7737"

        def run(self) -> None:
            pass

    monkeypatch.setattr(cli_hil, "UnitServer", lambda *_: Unit())
    result = CliRunner().invoke(app, ["hil", "unit", "--listen", Unit.address])
    assert f"unit at {Unit.address}" in result.output


def test_the_name_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    device = CaptureDevice("/dev/video0", NAME, "uvcvideo")
    monkeypatch.setattr(cli_camera, "list_devices", lambda: [device])
    assert NAME in CliRunner().invoke(app, ["camera", "--list"]).output


def test_the_names_of_two_runs() -> None:
    console = Console(record=True)
    figures = {name: [1, 1] for name in SETTINGS} | {"frames": [1, 2]}
    objects = {"changes": [], "doubtful": 0, "kinds": {}}
    result = {"runs": [NAME, "b"], "figures": figures, "objects": objects}
    console.print(comparison_table(result | {"identical_messages": True}))
    assert NAME in console.export_text()
