"""Real scenarios: the whole graph, a fault, a witness. What is timed is judged by `perception hil`.

A machine that runs tests may be too busy for the times that a scenario expects; what must hold on
any is asserted here: the fault is noticed, told, survived, and no frame is lost silently.
"""

import subprocess
import sys

import pytest
from made_runs import scenario

from perception_nodes.core.health import HealthMode
from perception_nodes.faults.loading import load_scenario
from perception_nodes.faults.lossy_network import why_unavailable
from perception_nodes.faults.unit import TOKEN_VARIABLE, RemoteUnit
from perception_nodes.lab.hil import run_scenario
from perception_nodes.report.account import ACCOUNTING

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.usefixtures("domain")]
DRIVE = "synthetic:320x240@15*105"
ACCOUNT = (*(name for name, _ in ACCOUNTING), "frames by health")
"""How problems of accounting begin."""
SLACK = {"deadline_ms": 500.0, "hang_after_ms": 1000.0}


@pytest.mark.parametrize(
    ("name", "drive"),
    [
        ("camera_stop", DRIVE),
        ("detector_kill", DRIVE),
        ("backend_exception", DRIVE),
        ("jpeg_truncated", DRIVE + ".jpeg"),
    ],
)
def test_the_fault_is_told_survived_and_accounted_for(tmp_path, name, drive):
    scenario = load_scenario(name, {**SLACK, "bag": drive})
    verdict = run_scenario(scenario, tmp_path)
    assert verdict.sent > 70, verdict.problems
    assert sum(verdict.statuses.values()) == verdict.sent
    assert verdict.lost_silently == 0
    assert verdict.detected_ms is not None
    assert verdict.detections_ms is not None
    assert max(HealthMode[mode] for mode, _, _ in verdict.told) >= HealthMode[scenario.expect.told]
    assert not [problem for problem in verdict.problems if problem.startswith(ACCOUNT)]
    assert {path.suffix for path in tmp_path.iterdir()} >= {".mcap", ".log"}


@pytest.mark.parametrize(
    ("after_s", "for_s", "loss"),
    [(2.5, 2, 0.1), (6.0, 1.6, 1.0)],
    ids=["a tenth for 2 s", "all beyond the drive's end"],
)
def test_a_unit_over_a_network_that_loses_packets_accounts_for_every_frame(
    tmp_path, after_s, for_s, loss
):
    lossy = scenario(
        drive=f"{DRIVE}.jpeg",
        network={"delay_ms": 0.2},
        graph={"backend": "null", "standby": "never", **SLACK},
        faults=[{"kind": "network", "after_s": after_s, "for_s": for_s, "loss": loss}],
        expect={"lost": "-", "lost_on_the_way_at_most": 30, "recovered_within_ms": 60_000},
    )
    verdict = run_scenario(lossy, tmp_path)
    if why_unavailable():
        why = f"the network cannot be simulated: {why_unavailable()}"
        assert verdict.problems == [f"not run: {why}"]
        return
    behind_the_end = after_s + for_s > 7
    assert (verdict.sent > 105) if behind_the_end else (verdict.sent >= 105), verdict.problems
    assert any("after the end of the drive" in note for note in verdict.notes) >= behind_the_end
    assert verdict.statuses.get("SUPERSEDED", 0) > 0
    assert verdict.lost_silently == 0
    assert not [problem for problem in verdict.problems if problem.startswith(ACCOUNT)]
    assert verdict.clock is not None
    assert abs(verdict.clock.offset_ms) <= verdict.clock.error_ms  # it is one clock


def test_a_unit_that_dies_in_mid_run_fails_and_what_was_seen_of_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "0123456789abcdef")
    command = [sys.executable, "-m", "perception_nodes", "hil", "unit", "--listen"]
    unit = subprocess.Popen([*command, "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    monkeypatch.setattr(RemoteUnit, "put_in", lambda *_: unit.kill())
    dies = scenario(
        drive=DRIVE,
        graph={"backend": "null", "standby": "never", **SLACK},
        faults=[{"kind": "process_kill", "role": "detector"}],
    )
    try:
        verdict = run_scenario(dies, tmp_path, unit.stderr.readline().split()[-1])
    finally:
        unit.kill()
        unit.communicate()
    assert any("does not answer" in problem for problem in verdict.problems)
    assert (tmp_path / f"{dies.name}.mcap").is_file()
