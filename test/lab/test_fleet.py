"""`bench fleet`: replays of a drive beside the bare network."""

import json

import pytest
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.lab import fleet


def test_a_replay_is_compared_with_the_bare_network(monkeypatch):
    monkeypatch.setattr(fleet, "BARE_S", 0.2)
    drive, chosen = "synthetic:320x240@30*12", ["--backend", "null", "--workers", "2"]
    result = CliRunner().invoke(app, ["bench", "fleet", drive, *chosen, "--rounds", "1", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    bare, one, every = (
        found[f"{name}_frames_per_s"] for name in ("bare", "one_worker", "all_workers")
    )
    assert bare > every > 0 and found["times_the_bare_network"] == pytest.approx(bare / every)
    assert found["times_one_worker"] == pytest.approx(every / one)
    # 60,000 s of driving with 30 frames each, by two cores.
    assert found["core_hours_per_1000_km"] == pytest.approx(2 * 1_800_000 / every / 3600)
