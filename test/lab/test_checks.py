"""What the verdict on a drive says, on made-up drives."""

import re
from dataclasses import replace
from operator import delitem

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import MS, SECOND
from made_runs import report as reported

from perception_nodes.core.frame import IN_TIME, PUBLISHED, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.faults.loading import shipped
from perception_nodes.graph.graph import REPLAY, VEHICLE
from perception_nodes.lab.acceptance import FAILOVERS
from perception_nodes.lab.budgets import PACES, PROCESSOR_MS, SETTLING_S, START_S
from perception_nodes.lab.drive_checks import drive_checks, failover_check
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.lab.resources import STANDBY, Sample
from perception_nodes.lab.run import Run
from perception_nodes.report import recording
from perception_nodes.report.account import HealthMessage

START_NS = 1_700_000_000 * SECOND
FIRST_S = 4.0
"""When the first detections came, from the start."""
SECONDS, PERIOD_NS = 40, 33_333_333
NAMES = ("detector_node", "detector_node" + STANDBY)


def report(number: int, status: FrameStatus = FrameStatus.OK, took_ms: float = 5.0):
    """The report of a frame of a camera with 30 Hz."""
    at_ns = START_NS + round(FIRST_S * SECOND) + number * PERIOD_NS
    return reported(at_ns, status, took_ms, sequence=number)


def times_ns(rate_hz: float) -> list[int]:
    """Arrivals at a rate, from the first detections to the end."""
    begin_ns = START_NS + round(FIRST_S * SECOND)
    return [begin_ns + round(i * SECOND / rate_hz) for i in range(round(SECONDS * rate_hz))]


def sample(second: int, memory_mb: float = 100.0, processor_s: float = 0.2) -> Sample:
    return Sample(
        float(second),
        dict.fromkeys(NAMES, memory_mb),
        dict.fromkeys(NAMES, 20),
        {NAMES[0]: second * processor_s, NAMES[1]: second * 0.01},
        30.0,
        dict(zip(NAMES, (7, 8), strict=True)),
    )


REPORTS = tuple(report(number) for number in range(1700))


def good(reports=None) -> Run:
    """A drive with nothing wrong, and any reports."""
    reports = list(REPORTS[: 30 * SECONDS]) if reports is None else reports
    shown = [r for r in reports if r.status in PUBLISHED]
    return Run(
        started_ns=START_NS,
        ended_ns=START_NS + round((FIRST_S + SECONDS) * SECOND),
        reports=reports,
        detections=[(r.log_time_ns, r.stamp_ns) for r in shown],
        health=[HealthMessage(START_NS, HealthMode.NOMINAL)],
        arrivals_ns={
            recording.DETECTIONS_TOPIC: [r.log_time_ns for r in shown],
            recording.FRAME_REPORT_TOPIC: [r.log_time_ns for r in reports],
            recording.HEALTH_TOPIC: times_ns(10),
            recording.SAFE_STOP_TOPIC: times_ns(10),
            recording.DIAGNOSTICS_TOPIC: times_ns(1),
        },
        samples=[sample(second) for second in range(SECONDS)],
    )


def checked(run: Run, seconds: float = 1.0, tracks: bool = False):
    """The checks of a drive, by name."""
    checks = drive_checks(run, seconds, 10.0, tracks, lambda begin_ns, end_ns: False)
    return {check.name: check for check in checks}


def failed(run: Run, seconds: float = SECONDS - SETTLING_S, tracks: bool = False) -> set[str]:
    """Names of the checks that the drive does not pass."""
    return {name for name, check in checked(run, seconds, tracks).items() if not check.passed}


def test_a_good_drive_passes_every_check():
    assert failed(good()) == set()
    assert len(checked(good())) == 18


def started_earlier(seen):
    seen.started_ns -= round((START_S - FIRST_S + 0.1) * SECOND)


def late_and_called_ok(seen):
    seen.reports[400] = report(400, FrameStatus.OK, took_ms=11)


def suspect(seen):
    seen.reports[700] = replace(seen.reports[700], clock_suspect=True)


def busy(seen):
    share = 1.1 * PROCESSOR_MS["detector_node"] * 30 / 1000
    seen.samples = [sample(second, processor_s=share) for second in range(SECONDS)]


def leaking(seen):
    seen.samples = [sample(second, memory_mb=100 + 0.6 * second) for second in range(SECONDS)]


def growing_while_it_starts(seen):
    seen.samples[:8] = [sample(second, memory_mb=10 * second) for second in range(8)]


def silent(topic, gone):
    """A topic on which nothing came for a while, and its check."""
    return lambda seen: delitem(seen.arrivals_ns[topic], gone), {topic}


WRONG = {
    "without detections": (lambda seen: seen.detections.clear(), {"start-up"}),
    "started earlier": (started_earlier, {"start-up"}),
    "late and called OK": (late_and_called_ok, {"told"}),
    "not arrived": (lambda seen: seen.detections.pop(500), {"told"}),
    "suspect": (suspect, {"camera's clock"}),
    "died": (lambda seen: seen.samples[20].pids.update(detector_node=9), {"processes"}),
    "busy": (busy, {"processor time: detector_node"}),
    "leaking": (leaking, {"memory"}),
    "growing while it starts": (growing_while_it_starts, set()),
    "silent before the end": silent(recording.DIAGNOSTICS_TOPIC, slice(-3, None)),
    "silent at first": silent(recording.SAFE_STOP_TOPIC, slice(-30)),
    "silent meanwhile": silent(recording.HEALTH_TOPIC, slice(200, 210)),
    "a number is missing": (lambda seen: seen.reports.pop(600), {"frame numbers"}),
    "a number is there twice": (
        lambda seen: seen.reports.insert(600, seen.reports[600]),
        {"frame numbers", "told"},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails_its_check(name):
    seen, (change, checks) = good(), WRONG[name]
    change(seen)
    assert failed(seen) == checks


def test_a_drive_that_ended_early():
    assert failed(good(), seconds=600) == {"drive"}


@settings(max_examples=30)
@given(st.integers(100, 1500), st.integers(0, 4), st.sampled_from(list(FrameStatus)))
def test_one_frame_in_a_thousand_may_miss_the_deadline(count, missed, status):
    at = 200  # behind the first five seconds, which do not count
    took_ms = 30.0 if status == FrameStatus.LATE else 5.0
    reports = list(REPORTS[: at + count])
    for number in range(missed):
        reports[at + 7 * number] = report(at + 7 * number, status, took_ms)
    begin_ns = reports[0].log_time_ns + SETTLING_S * SECOND
    judged = sum(begin_ns <= r.log_time_ns for r in reports)
    lost = 0 if status in IN_TIME else missed
    seen = good(reports)
    seen.ended_ns = reports[-1].log_time_ns
    checks = checked(seen)
    assert checks["p99.9"].passed == (1000 * lost <= judged)
    assert checks["told"].passed


def test_what_the_monitor_has_late_is_told_and_not_judged():
    seen = good()
    late = enumerate(seen.detections)
    seen.detections = [(s + (65 if number >= 1000 else 6) * MS, s) for number, (_, s) in late]
    tail = checked(seen)["p99.9"]
    assert tail.passed
    assert tail.notes[0].startswith("detections of 200 frames that were published in time")
    assert checked(good())["p99.9"].notes == ()


@pytest.mark.parametrize(("at_s", "is_judged"), [(8.0, True), (20.0, True), (60.0, False)])
def test_unsafe_while_the_drive_is_judged(at_s, is_judged):
    """A mode holds until the next one: it may have begun before, and be over after the end."""
    seen = good()
    at_ns = START_NS + round(at_s * SECOND)
    seen.health.append(HealthMessage(at_ns, HealthMode.UNSAFE, "no frame"))
    assert failed(seen) == ({"health"} if is_judged else set())


@pytest.mark.parametrize("name", ["view_node", "detector_node" + STANDBY])
def test_a_process_that_was_to_run_and_does_not(name):
    seen = good()
    seen.wanted = set(NAMES)
    assert failed(seen) == set()
    seen.wanted.add("view_node")
    for second, held in enumerate(seen.samples):
        held.pids["view_node"] = 9
        if second >= 30:
            del held.pids[name]
    check = checked(seen)["processes"]
    assert (check.passed, check.found) == (False, f"{name} did not run all the time")
    seen.wanted.remove(name)
    assert "processes" not in failed(seen), "one that was not to run"


def test_tracks_are_asked_for_where_objects_are_followed():
    assert failed(good(), tracks=True) == {"/perception/tracks"}


def test_a_failover_is_judged_by_its_scenario():
    verdict = ScenarioVerdict(scenario="detector_kill", title="", sent=240, detections_ms=21.0)
    assert failover_check(verdict).passed
    check = failover_check(verdict.model_copy(update={"problems": ["never"]}))
    assert not check.passed and check.notes == ("never",)
    assert "after 21 ms" in check.found


def test_every_process_and_topic_has_its_budget():
    kinds = {kind for kind in (*VEHICLE.kinds, *REPLAY.kinds) if kind in VEHICLE.kinds}
    names = {k.executable for k in kinds} | {k.executable + STANDBY for k in kinds if k.has_standby}
    assert set(PROCESSOR_MS) == names
    assert set(FAILOVERS) <= set(shipped())
    assert recording.DETECTIONS_TOPIC in PACES


def test_the_documented_budgets_are_those(root):
    page = (root / "docs/accept.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w ]+)` \| ([\d.]+) \|", page, re.MULTILINE)
    assert {name: float(budget_ms) for name, budget_ms in rows} == PROCESSOR_MS
