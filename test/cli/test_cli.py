"""The command line as a user meets it: outputs, exit statuses, one-line errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PERCEPTION = [sys.executable, "-m", "perception_nodes"]


def perception(
    *arguments: str, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [*PERCEPTION, *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_replay_writes_what_it_promises(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = perception("replay", "bags/sample_sqlite3", "--out", str(out), "--json", cwd=root)
    assert result.returncode == 0, result.stderr
    names = {"summary.json", "detections.mcap", "report.html", "overview.png", "timing.csv"}
    assert {path.name for path in out.iterdir()} == names
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames_in"] == sum(summary["status"].values()) == 60
    assert summary["detections"] > 30
    assert summary["latency_ms"]["p50"] > 0


def test_both_runtimes_find_the_same_objects(root: Path, tmp_path: Path) -> None:
    counts = []
    for backend in ("openvino", "onnxruntime"):
        out = tmp_path / backend
        options = ("--backend", backend, "--out", str(out))
        assert perception("replay", "bags/sample_sqlite3", *options, cwd=root).returncode == 0
        counts.append(json.loads((out / "summary.json").read_text())["detections"])
    assert counts[0] == pytest.approx(counts[1], rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["replay", "/nowhere"], "/nowhere does not exist"),
        (["replay", "models"], "models"),
        (["replay", "bags/sample_sqlite3", "--topic", "/nose"], "/nose"),
        (["replay", "bags/sample_sqlite3", "--model", "road-z"], "known are dense-416x256"),
        (["replay", "bags/sample_sqlite3", "--backend", "abacus"], "'abacus' is unknown"),
        (["run", "deadline_ms:=-1"], "parameter deadline_ms: '-1' is not allowed"),
        (["run", "nose:=1"], "parameter 'nose' is unknown"),
        (["run", "deadline_ms=20"], "not of the form NAME:=VALUE"),
        (["demo", "--bag", "/nowhere"], "/nowhere does not exist"),
        (["bench", "latency", "--size", "huge"], "synthetic:huge"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(
    root: Path, tmp_path: Path, arguments: list[str], text: str
) -> None:
    result = perception(*arguments, cwd=root)
    assert result.returncode == 2
    assert text in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_model_whose_file_changed_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "models/road-n", tmp_path / "models/road-n")
    onnx = tmp_path / "models/road-n/road-n.u8.onnx"
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    options = ("--model", str(onnx.parent), "--out", str(tmp_path / "out"))
    result = perception("replay", "bags/sample_sqlite3", *options, cwd=root)
    assert result.returncode == 2
    assert "is not the one that was measured" in result.stderr
    assert not (tmp_path / "out").exists()


def test_help_teaches_and_machines_get_json(root: Path) -> None:
    assert "recorded drive" in perception("--help", cwd=root).stdout
    table = perception("run", "--parameters", cwd=root).stdout
    assert "deadline of a frame, from its capture to the publication" in table
    models = json.loads(perception("model", "list", "--json", cwd=root).stdout)
    assert "road-n" in [model["name"] for model in models]
    findings = json.loads(perception("doctor", "--json", cwd=root).stdout)
    assert {"subject", "ok", "found", "remedy", "needed"} == set(findings[0])
    assert "rclpy" in [finding["subject"] for finding in findings]


def test_ctrl_c_while_it_loads_leaves_no_traceback(root: Path) -> None:
    code = (
        "import signal, sys\n"
        "from perception_nodes import __main__\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'perception_nodes.cli.app':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "__main__.main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")
