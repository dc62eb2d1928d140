"""`perception accept` on the real graph: a short drive and one failover."""

import json

import pytest

from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS
from perception_nodes.lab import acceptance
from perception_nodes.report.recording import read_messages

VALUES = {"bag": "synthetic:320x240@30*100000", "source": "shm"}
VALUES |= {"backend": "null", "deadline_ms": "200"}
ALWAYS = ("camera's clock", "frame numbers", "processes", "file descriptors")
"""Checks that hold on a machine of any speed and load."""


@pytest.mark.ros
@pytest.mark.slow
def test_a_short_acceptance(tmp_path, monkeypatch):
    monkeypatch.setattr(acceptance, "FAILOVERS", ("detector_kill",))
    steps: list[tuple[str, int, int]] = []
    out = tmp_path / "out"
    asked = acceptance.Acceptance(VALUES, NO_ROS_ARGUMENTS, 0.1, print)
    verdict = asked.run(out, lambda *step: steps.append(step))

    passed = {check["name"]: check["passed"] for check in verdict["checks"]}
    assert [name for name in ALWAYS if not passed[name]] == [], verdict["checks"]
    assert passed.keys() >= {"failover: detector_kill", "processor time: detector_node standby"}
    assert "not run" not in str(verdict["checks"][-1])
    assert verdict["parameters"]["backend"] == "null"
    assert {step[0] for step in steps} == {"driving, seconds", "failing over"}

    assert json.loads((out / "verdict.json").read_text()) == json.loads(json.dumps(verdict))
    assert "Is this computer fit?" in (out / "report.html").read_text()
    assert (out / "failover/report.html").is_file() and (out / "nodes.log").is_file()
    topics = {message.topic for message in read_messages(out / "drive.mcap")}
    assert topics >= {"/perception/safe_stop", "/perception/health", "/diagnostics"}
