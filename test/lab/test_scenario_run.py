"""Runs of scenarios, without a graph: where they run, what was put in, what ends them."""

import json
import os
import time
from contextlib import nullcontext
from threading import Event
from unittest.mock import Mock

import numpy as np
import pytest
from made_runs import scenario
from observe import children, is_alive, until

from perception_nodes.faults import lossy_network
from perception_nodes.faults.scenario import CpuFault, NetworkFault, SubscriberFault
from perception_nodes.faults.unit import UnitError
from perception_nodes.lab import hil
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.lab.scenario_run import ScenarioRun
from perception_nodes.lab.undisturbed import agreement_share
from perception_nodes.report.recording import FrameDetections

MS = 1_000_000


def found(*labels):
    boxes = np.array([[10, 10, 50, 50]] * len(labels), np.float32).reshape(-1, 4)
    return FrameDetections(labels, np.full(len(labels), 0.9, np.float32), boxes)


def test_agreement_is_of_frames_that_both_have():
    expected = {0: found("car"), 1: found("car"), 2: found("car")}
    assert agreement_share(expected, {0: found("car"), 1: found()}) == pytest.approx(2 / 3)
    assert agreement_share(expected, {0: found("person")}) == 0
    assert agreement_share({0: found()}, {0: found()}) is None


def test_what_cannot_be_simulated_is_not_run_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(lossy_network, "why_unavailable", lambda: "no namespace is granted")
    cut = scenario(network={}, faults=[{"kind": "network", "for_s": 1, "loss": 1}])
    assert hil.run_scenario(cut, tmp_path).problems == [
        "not run: the network cannot be simulated: no namespace is granted"
    ]


@pytest.mark.parametrize(
    ("error", "logs"), [(UnitError("the unit\nis gone"), 0), (ValueError("a defect of ours"), 1)]
)
def test_what_ends_a_run_is_its_verdict(tmp_path, monkeypatch, error, logs):
    monkeypatch.setattr(hil, "run_here", Mock(side_effect=error))
    (problem,) = hil.run_scenario(scenario(), tmp_path).problems
    assert problem.startswith("not run: ")
    assert " ".join(str(error).split()) in problem
    assert len(list(tmp_path.iterdir())) == logs, "a traceback is for defects"


def test_the_second_camera_may_lose_no_more_than_the_first_and_stays_nominal(tmp_path, monkeypatch):
    ran = []

    def child(prefix, scenario, out):
        ran.append(scenario)
        return nullcontext(lambda: ScenarioVerdict(scenario="b", title=""))

    monkeypatch.setattr(hil, "child", child)
    monkeypatch.setattr(hil, "run_here", lambda *_: ScenarioVerdict(scenario="a", title=""))
    expect = {"lost": "-", "lost_at_most": 2, "told": "UNSAFE", "at_worst": "UNSAFE"}
    faults = [{"kind": "camera_stop", "for_s": 1}]
    two = scenario(cameras=2, graph={"source": "shm"}, faults=faults, expect=expect)
    hil.run_scenario(two, tmp_path)
    (second,) = ran
    assert (second.faults, second.expect.lost_at_most) == ((), 2)
    assert (second.expect.told, second.expect.at_worst) == ("NOMINAL", None)


def test_a_child_that_is_stopped_leaves_nothing_behind(tmp_path):
    before = set(children(os.getpid()))
    with hil.child(("sh", "-c", "exec sleep 99"), scenario(), tmp_path):
        (child,) = set(children(os.getpid())) - before
    until(lambda: not is_alive(child))
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_gives_no_verdict_has_failed(tmp_path):
    with hil.child(("sh", "-c", "echo nobody >&2; exit 3"), scenario(), tmp_path) as verdict:
        problems = verdict().problems
    assert problems == ["not run: its process ended with status 3: nobody"]


@pytest.fixture
def run(tmp_path):
    return ScenarioRun(scenario(), tmp_path, tmp_path)


def test_when_a_fault_begins_and_ends(run, tmp_path, monkeypatch):
    (tmp_path / "started").write_text("0")
    monkeypatch.setattr(run, "_put", lambda *_: None)
    run.inject(0, CpuFault(kind="cpu_contention", after_s=0.5, for_s=1), None, Event())
    slow = SubscriberFault(kind="slow_subscriber", after_s=0.5, for_s=0.001)
    run.inject(1, slow, None, Event())  # its time ran from when it listened
    (begin_ns, end_ns), (_, heard_ns) = run.put_in[0], run.put_in[1]
    assert end_ns - begin_ns == 1000 * MS
    assert begin_ns <= heard_ns <= time.time_ns()


def test_why_a_fault_is_not_put_in(run, tmp_path, monkeypatch):
    over, network = Event(), NetworkFault(kind="network", after_s=0.5, for_s=1)
    (tmp_path / "started").write_text("0")
    run.inject(1, network, None, over)
    assert "is a real one" in run.not_put_in[1]
    monkeypatch.setattr(run, "_put", lambda *_: 1 / 0)
    run.inject(2, network, None, over)
    assert run.not_put_in[2] == "ZeroDivisionError: division by zero"
    over.set()
    (tmp_path / "started").write_text(str(time.time_ns()))
    run.inject(0, CpuFault(kind="cpu_contention", after_s=100, for_s=1), None, over)
    assert (run.put_in, run.not_put_in[0]) == ({}, "the run was over before its time")


def test_a_fault_counts_as_put_in_where_it_hit_a_drive_that_went_on(tmp_path):
    kinds = ("camera_stop", "cpu_contention", "shm_full", "night", "slow_subscriber")
    faults = [{"kind": kind, "for_s": 1} for kind in kinds]
    sent = {"sent": [[0, 1000], [1, 2000], [1, 9000]], "warnings": []}
    (tmp_path / "sent.json").write_text(json.dumps(sent))
    (tmp_path / "played.json").write_text('{"hits": [0], "closing": 1, "late": [[2000, 9]]}')
    played = ScenarioRun(scenario(faults=faults), tmp_path, tmp_path)
    played.put_in = {0: (1500, 1600), 1: (1500, 1600), 2: (2001, 2100), 3: (1500, 1600)}
    played.not_put_in = {4: "nobody is there"}
    played.frames_changed = {3: 7}
    played.gather()
    run = played.run
    assert (run.sent, run.closing, run.late) == ([1000, 2000], [9000], [(2000, 9)])
    assert run.faults == [("cpu_contention", 1500, 1600), ("night", 1500, 1600)]
    assert run.not_put_in == [
        "camera_stop (faults.0) was not put in: it changed no frame",
        "shm_full (faults.2) was not put in: the drive was over before its time",
        "slow_subscriber (faults.4) was not put in: nobody is there",
    ]
