"""The command line with backend fpga, on a fake board."""

import csv
import json

import pytest
from typer.testing import CliRunner

from perception_nodes.cli.app import app


@pytest.fixture
def sample(root):
    folder = root / "bags/sample"
    if not (folder / "metadata.yaml").is_file():
        pytest.skip("the sample drive is not made (make sample)")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments, status=0):
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "160"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_replay_tells_what_the_engine_counted(sample, bitstream, tmp_path):
    arguments = ("replay", sample, "--model", "open-xs", "--every", 80, "--frames", 3)
    ours = ("--backend", "fpga", "--out", tmp_path / "fpga")
    golden = run(*arguments, "--backend", "golden", "--out", tmp_path / "golden", "--json").stdout
    summary = json.loads(run(*arguments, *ours, "--json").stdout)
    # The very same bytes: objects, scores, statuses.
    assert summary["detections_sha256"] == json.loads(golden)["detections_sha256"]
    assert summary["detections"] > 0
    assert summary["engine"]["frames"] == 3
    assert summary["engine"]["cycles"] == dict.fromkeys(("p50", "p99", "max"), 696_000)
    assert summary["engine"]["latency_ms"]["p50"] == 2.784
    assert summary["engine"]["simulated"] is False
    with (tmp_path / "fpga/engine.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["frame"]) for row in rows] == [0, 80, 160]
    assert {row["stalled_port"] for row in rows} == {"77"}
    report = (tmp_path / "fpga/report.html").read_text()
    assert "2.78 ms at 250 MHz" in report
    assert not (tmp_path / "golden/engine.csv").exists()
    assert "2.78 ms at 250 MHz" in run(*arguments, *ours).stderr


def test_a_frame_that_the_engine_fails_on_is_accounted_for(sample, bitstream, engine, tmp_path):
    end, left = engine.end, iter([""] * 2 + ["READ"])  # one when it is loaded

    def failing():
        engine.fault = next(left, "")
        end()

    engine.end = failing
    arguments = ("replay", sample, "--model", "open-xs", "--every", 80, "--frames", 3, "--json")
    summary = json.loads(run(*arguments, "--backend", "fpga", "--out", tmp_path / "out").stdout)
    assert summary["status"]["FAILED"] == 1
    assert summary["status"]["OK"] == 2
    (reason,) = summary["failures"]
    assert "reports READ" in reason
    assert summary["engine"]["frames"] == 2


def test_compile_shows_what_each_layer_takes(sample, bitstream, tmp_path):
    arguments = ("model", "compile", "open-xs", "--backend", "fpga", "--bag", sample)
    facts = json.loads(
        run(*arguments, "--frames", 16, "--min-parent-agreement", 0, "--json").stdout
    )
    layers = facts["layers"]
    assert [layer["mode"] for layer in layers[:2]] == ["load", "narrow"]
    assert sum(layer["bytes_written"] for layer in layers) > 0
    assert all(0 <= layer["utilisation"] <= 1 for layer in layers)
    golden = [check["value"] for check in facts["checks"] if "on golden" in check["reference"]]
    assert golden == [1.0]
    (file,) = facts["cache"]
    assert file.endswith(".fpga")
    text = run(*arguments, "--frames", 1, status=1).stdout  # too few to judge by
    assert "How much of the engine each layer uses" in text
    assert f"{len(layers)} in all" in text
