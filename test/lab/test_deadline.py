"""What a deadline measurement counts, on made-up runs."""

import json
import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.lab import conditions, deadline, host
from perception_nodes.lab.conditions import CONDITIONS, ON_DISK, Surroundings
from perception_nodes.lab.deadline import (
    REAL_TIME,
    DeadlineBench,
    account,
    result_table,
)
from perception_nodes.lab.deadline_report import render, tail, verdict
from perception_nodes.lab.host import HostWatch
from perception_nodes.lab.resources import ResourcesHeld, constancy, processor_shares
from perception_nodes.lab.setup import BenchSetup
from perception_nodes.system import load
from perception_nodes.system.load import LoadEnded, busy, compilations

SETUP = BenchSetup(20, "64x48", 30, "road-n", "null", 1, 10.0)

MS = 1_000_000
STAMPS = [1_000_000_000 + i * 33 * MS for i in range(100)]


def arrivals(latency_ms=8.0):
    return [(stamp, stamp + round(latency_ms * MS)) for stamp in STAMPS]


def reports(status="OK"):
    return [{"stamp_ns": stamp, "status": status} for stamp in STAMPS]


def test_all_in_time():
    found = account(STAMPS, arrivals(), reports(), 10.0)
    assert (found.sent, found.missed, found.silent, found.arrived_late) == (100, 0, 0, 0)
    assert found.latencies_ms == [8.0] * 100


def test_a_miss_that_is_reported_is_not_silent():
    told = reports()
    told[3]["status"], told[4]["status"] = "LATE", "SKIPPED_LATE"
    came = [arrival for arrival in arrivals() if arrival[0] != STAMPS[4]]
    found = account(STAMPS, came, told, 10.0)
    assert (found.missed, found.silent) == (2, 0)
    assert found.statuses == {"OK": 98, "LATE": 1, "SKIPPED_LATE": 1}


def test_a_miss_is_the_hosts_where_it_had_a_processor_from_capture_to_arrival():
    told = reports()
    told[3]["status"] = told[4]["status"] = told[5]["status"] = "LATE"
    came = [arrival for arrival in arrivals(12.0) if arrival[0] != STAMPS[5]]
    asked = []

    def host_took(begin_ns, end_ns):
        asked.append((begin_ns, end_ns))
        return begin_ns != STAMPS[3]

    found = account(STAMPS, came, told, 10.0, host_took)
    assert (found.missed, found.missed_by_host) == (3, 2)
    late_ns = [12 * MS, 12 * MS, 10 * MS]
    assert asked == [(stamp, stamp + ns) for stamp, ns in zip(STAMPS[3:6], late_ns, strict=True)]


def test_the_host_is_seen_where_stolen_time_grows(monkeypatch):
    stolen = iter([0, 0, 10 * MS, 10 * MS])
    looks = threading.Event()

    def look():
        value = next(stolen, 20 * MS)
        if value == 20 * MS:
            looks.set()
        return 500 * MS, value

    monkeypatch.setattr(host, "stolen_ns", look)
    monkeypatch.setattr(host, "SAMPLE_S", 0.0)
    began_ns = time.time_ns()
    with HostWatch() as watch:
        assert looks.wait(10)
    ended_ns = time.time_ns()
    assert watch.had_a_processor(began_ns, ended_ns)
    assert not watch.had_a_processor(ended_ns, ended_ns + MS)
    assert not watch.had_a_processor(began_ns - MS, began_ns - 1)


def test_a_frame_without_a_report_is_a_silent_miss():
    assert account(STAMPS, arrivals(), reports()[1:], 10.0).silent == 1


def test_reports_without_a_stamp_that_the_warm_up_accounts_for_excuse_no_frame():
    told = [{"stamp_ns": 0, "status": "SUPERSEDED"}] * 3 + reports()[12:]
    came, warm_up = arrivals()[12:], STAMPS[:10]
    assert account(STAMPS[10:], came, told, 10.0, warm_up=warm_up).silent == 2
    told += reports()[:8]
    assert account(STAMPS[10:], came, told, 10.0, warm_up=warm_up).silent == 1


def test_a_frame_that_was_pushed_out_before_it_was_read_is_reported_without_a_stamp():
    told = reports()
    told[7] = {"stamp_ns": 0, "status": "SUPERSEDED"}
    came = [arrival for arrival in arrivals() if arrival[0] != STAMPS[7]]
    found = account(STAMPS, came, told, 10.0)
    assert (found.missed, found.silent) == (1, 0)
    assert found.statuses["without a stamp"] == 1


def test_detections_reported_in_time_that_never_came_are_a_silent_miss():
    assert account(STAMPS, arrivals()[1:], reports(), 10.0).silent == 1


def test_detections_that_arrive_late_are_counted_though_published_in_time():
    assert account(STAMPS, arrivals(10.5), reports(), 10.0).arrived_late == 100


def soak(memory, pid=lambda i: 7):
    return [
        ResourcesHeld(
            float(i),
            {"detector_node": memory(i)},
            {"detector_node": 9},
            {},
            50.0,
            {"detector_node": pid(i)},
        )
        for i in range(400)
    ]


def test_constancy():
    assert constancy(soak(lambda i: 200 + (i % 7)))["constant"]
    assert constancy(soak(lambda i: min(100 + 10 * i, 300)))["constant"], "the start may grow"
    growing = constancy(soak(lambda i: 200 + 0.1 * i))
    assert not growing["constant"]
    assert growing["memory_growth_mb"]["detector_node"] == pytest.approx(22.5, rel=0.1)
    assert not constancy([])["constant"]


def test_of_few_samples_and_of_two_processes_nothing_is_called_constant():
    steady = soak(lambda i: 200.0)
    assert constancy(steady[:1])["state"] == "not known, 1 samples are too few"
    died = constancy(soak(lambda i: 200.0, pid=lambda i: 7 if i < 300 else 8))
    assert (died["constant"], died["state"]) == (False, "detector_node died")
    assert constancy(soak(lambda i: 200.0, pid=lambda i: 7 if i < 9 else 8))["constant"]
    steady[350].pids.clear()
    assert constancy(steady)["state"] == "detector_node died"


def test_an_unknown_condition_is_refused():
    with pytest.raises(SettingsError, match="'stormy' is unknown; known are quiet"):
        DeadlineBench(SETUP, ["stormy"], 0)


def result():
    bench = DeadlineBench(SETUP, ["quiet"], 1.0)
    quiet = account(STAMPS, arrivals(), reports(), 10.0)
    told = reports()
    told[3]["status"] = "LATE"
    loaded = account(STAMPS, arrivals(12.0), told, 10.0)
    measured = {"quiet": quiet, "all_cores": loaded, f"quiet{REAL_TIME}": quiet}
    return bench._result(measured, soak(lambda i: 200.0))


def test_page_and_table():
    found = result()
    assert found["passed"]
    assert verdict(found) == (
        "fair",
        "Of 300 frames these missed the deadline of 10 ms: 0.50% without real-time priority, "
        "0.00% with it. Each one is reported. 99 more were published in time, but arrived after "
        "it.",
    )
    page = render(found)
    assert "Share of frames that take longer" in page
    assert "1 minutes: constant" in page
    assert result_table(found).row_count == 3
    quiet, loaded, prior = tail(found).data
    assert (quiet.name, loaded.name) == ("quiet", "all cores")
    assert prior.name == "quiet, real time"
    assert prior.line.color == quiet.line.color != loaded.line.color
    assert (quiet.line.dash, prior.line.dash) == ("dot", "solid")
    assert max(quiet.y) == pytest.approx(0.99)
    assert min(quiet.y) == pytest.approx(0.01), "the slowest but one: one in a hundred is slower"


def test_frames_without_detections_are_the_slowest_in_table_page_and_chart():
    came = account(STAMPS, arrivals()[2:], reports("LATE")[2:], 10.0)
    found = DeadlineBench(SETUP, ["quiet"], 0)._result({"quiet": came}, [])
    quiet = json.loads(json.dumps(found, allow_nan=False))["conditions"]["quiet"]
    assert quiet["latency_ms"] == {"p50": 8.0, "p99": None, "p99_9": None, "max": None}
    cells = [next(iter(column.cells)) for column in result_table(found).columns]
    assert cells[2:6] == ["8.00", "none", "none", "none"]
    assert '<td class="number">8.00 ms</td><td class="number">none</td>' in render(found)
    assert min(tail(found).data[0].y) == pytest.approx(0.02)


def test_growth_is_bad_news_though_every_miss_was_reported():
    found = result()
    found["soak"] |= {"constant": False, "state": "growing"}
    assert verdict(found) == ("bad", "The graph grew in 1 minutes: it has a leak.")


def test_a_death_in_the_soak_is_told():
    found = result()
    found["soak"] |= {"constant": False, "state": "detector_node died"}
    assert verdict(found) == (
        "bad",
        "Whether the graph grows in 1 minutes: detector_node died.",
    )
    assert "1 minutes: detector_node died" in render(found)


def test_what_arrives_after_the_deadline_is_not_good_news():
    late = account(STAMPS, arrivals(40.0), reports(), 10.0)
    found = DeadlineBench(SETUP, ["quiet"], 0)._result({"quiet": late}, [])
    assert verdict(found) == (
        "fair",
        "All 100 frames were published within 10 ms, but 100 arrived after that.",
    )
    assert [*result_table(found).columns[-1].cells] == ["100"]
    assert '<td class="number">100</td>\n<td>OK 100' in render(found)


def test_of_no_frames_nothing_is_said_to_be_in_time():
    found = DeadlineBench(SETUP, ["quiet"], 0)._result({"quiet": account([], [], [], 10.0)}, [])
    assert not found["passed"]
    assert verdict(found) == ("bad", "Nothing can be said: no frame was sent.")


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("name", [name for name in CONDITIONS if name != "second_graph"])
def test_what_keeps_the_machine_busy_computes_and_is_gone_afterwards(name, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "STREAM_BYTES", 1 << 20)
    before = children()
    with CONDITIONS[name](Surroundings(tmp_path, {}, "")):
        ours = children() - before
        many = len(os.sched_getaffinity(0))
        assert len(ours) == {"quiet": 0, "one_core": 1, "disk": 1}.get(name, many)
        for child in map(int, ours):
            nice = load.NICEST if name == "build" else os.getpriority(os.PRIO_PROCESS, 0)
            assert os.getpriority(os.PRIO_PROCESS, child) == nice
            group = os.getpgid(child)
    for child in ours:
        assert not os.path.exists(f"/proc/{child}")
    if ours:
        with pytest.raises(ProcessLookupError):  # nor is there a child of theirs
            while True:
                os.killpg(group, 0)
    assert not list(ON_DISK.glob(f"perception_bench_{os.getpid()}*"))


def test_what_killed_compilers_leave_goes_with_their_folder(tmp_path):
    compiler, said = tmp_path / "cc", tmp_path / "said"
    compiler.write_text(f'#!/bin/sh\n[ -e {said} ] || echo "$TMPDIR" > {said}\nsleep 60\n')
    compiler.chmod(0o755)
    with compilations(1, str(compiler), tmp_path):
        until_s = time.monotonic() + 20
        while not (said.exists() and said.read_text().endswith("\n")):
            assert time.monotonic() < until_s
            time.sleep(0.01)
    assert said.read_text() == f"{tmp_path}\n"


@pytest.mark.parametrize("has_ended", [True, False])
def test_nothing_is_measured_beside_a_compiler_that_fails(tmp_path, has_ended):
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{'exit 7' if has_ended else 'sleep 60'}\n")
    compiler.chmod(0o755)
    end = pytest.raises(LoadEnded, match=f"{compiler} ended by itself, status 7")
    with end if has_ended else nullcontext(), compilations(1, str(compiler), tmp_path):
        if has_ended:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)


def test_a_load_that_is_killed_is_gone(tmp_path):
    before = children()
    with (
        pytest.raises(LoadEnded, match="a busy loop ended by itself, signal 9"),
        busy([min(os.sched_getaffinity(0))]),
    ):
        (child,) = map(int, children() - before)
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert children() == before


def test_nothing_is_measured_beside_a_second_graph_that_does_not_work(tmp_path, monkeypatch):
    signals = []

    def start(command, stdout, **_):
        stdout.write(b"starting\nwaiting for a camera\n")
        stdout.flush()
        return SimpleNamespace(poll=lambda: None, send_signal=signals.append, wait=lambda _: 0)

    monkeypatch.setattr(conditions, "START_TIMEOUT_S", 0)
    monkeypatch.setattr(conditions.subprocess, "Popen", start)
    with (
        pytest.raises(GraphFailure, match="does not work after 0 s: waiting for a camera"),
        CONDITIONS["second_graph"](Surroundings(tmp_path, {}, "")),
    ):
        pytest.fail("it was measured")
    assert signals == [signal.SIGTERM]


def test_the_graph_has_real_time_only_where_it_is_measured_with(monkeypatch):
    monkeypatch.setattr(deadline, "allowed_priority", lambda: 40)
    arguments = (SETUP, ["disk"], 0)
    bench = DeadlineBench(*arguments, real_time=[False, True], fifo_priority=30)
    for real_time, expected in [(False, (0, "never")), (True, (30, "auto"))]:
        (spec,) = [
            spec
            for spec in LIVE.nodes(bench.values(real_time) | {"standby": "never"})
            if spec.executable == "detector_node"
        ]
        assert (spec.parameters["fifo_priority"], spec.parameters["stay_awake"]) == expected
    monkeypatch.setattr(deadline, "allowed_priority", lambda: 0)
    with pytest.raises(SettingsError, match="real time is not allowed here"):
        DeadlineBench(*arguments, real_time=[True])


def test_busy_processes_are_pinned_and_go():
    core = min(os.sched_getaffinity(0))
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        before = set(file.read().split())
        with busy([core]):
            file.seek(0)
            (child,) = set(file.read().split()) - before
            assert os.sched_getaffinity(int(child)) == {core}
        deadline_s = time.monotonic() + 5
        while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{child}")


def test_processor_shares_are_those_of_the_steady_state():
    def held(second: int, spent_s: float) -> ResourcesHeld:
        return ResourcesHeld(float(second), {}, {}, {"watchdog_node": spent_s, "dead": 1.0}, 0.0)

    start = [held(0, 0.0), held(1, 0.9)]
    steady = [held(second, 0.9 + 0.03 * (second - 1)) for second in range(2, 11)]
    del steady[-1].processor_s["dead"]
    assert processor_shares([*start, *steady]) == {"watchdog_node": 0.03}
    assert processor_shares(start[:1]) == {}


def test_the_processor_share_of_a_process_that_was_started_again_is_that_of_both():
    def held(second: int) -> ResourcesHeld:
        pid, age_s = (1, second) if second < 70 else (2, second - 70)
        return ResourcesHeld(
            float(second), {}, {}, {"detector": 0.3 * age_s}, 0.0, {"detector": pid}
        )

    samples = [held(second) for second in range(100)]
    assert processor_shares(samples) == {"detector": 0.3}
    del samples[60].processor_s["detector"]
    assert processor_shares(samples) == {"detector": 0.3}
