"""What a deadline measurement says of made-up runs, and what keeps the machine busy meanwhile."""

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace

import pytest
from made_runs import MS, in_time, report
from observe import children, until
from rich.console import Console

from perception_nodes.core.frame import FrameStatus
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.lab import calibration, conditions, deadline, host
from perception_nodes.lab.bench import BenchSetup
from perception_nodes.lab.calibration import calibrate
from perception_nodes.lab.conditions import CONDITIONS, ON_DISK, Surroundings
from perception_nodes.lab.deadline import LOOKS, REAL_TIME, DeadlineBench, figures, result_table
from perception_nodes.lab.host import HostWatch
from perception_nodes.lab.page import deadline_page, deadline_verdict, tail
from perception_nodes.lab.resources import Sample, constancy, processor_shares
from perception_nodes.lab.run import Run
from perception_nodes.system import load
from perception_nodes.system.load import LoadEnded, busy, compilations

SETUP = BenchSetup(20, "64x48", 30, "open-n", "null", 1, 10.0)
STAMPS = [1_000_000_000 + i * 33 * MS for i in range(100)]


def measured(run):
    return figures(run, SETUP, lambda begin_ns, end_ns: False)


def result(soak_minutes=0.0, samples=(), **runs):
    bench = DeadlineBench(SETUP, ["quiet"], soak_minutes)
    return bench.result({name: measured(run) for name, run in runs.items()}, samples)


def soaked(memory=lambda i: 200.0, pid=lambda i: 7, files=lambda i: 9):
    name = "detector_node"
    return [
        Sample(float(i), {name: memory(i)}, {name: files(i)}, {name: 0.3 * i}, 50.0, {name: pid(i)})
        for i in range(400)
    ]


@pytest.mark.parametrize(
    ("samples", "state"),
    [
        (soaked(lambda i: 200 + (i % 7)), "constant"),
        (soaked(lambda i: min(100 + 10 * i, 300)), "constant"),  # the start may grow
        (soaked(lambda i: 200 + 0.1 * i), "growing"),
        ([], "not known, 0 samples are too few"),
        (soaked(pid=lambda i: 7 if i < 300 else 8), "detector_node died"),
        (soaked(pid=lambda i: 7 if i < 9 else 8), "constant"),
        ([*soaked()[:350], Sample(350.0, {}, {}, {}, 50.0), *soaked()[351:]], "detector_node died"),
    ],
)
def test_constancy(samples, state):
    found = constancy(samples)
    assert (found["state"], found["constant"]) == (state, state == "constant")
    if state == "growing":
        assert found["memory_growth_mb"]["detector_node"] == pytest.approx(22.5, rel=0.1)


def test_a_descriptor_that_is_open_half_of_the_time_has_grown():
    found = constancy(soaked(files=lambda i: 9 + (i > 300 and i % 2))[:384])
    assert (found["descriptor_growth"], found["state"]) == ({"detector_node": 0.5}, "growing")


def test_processor_shares_are_those_of_the_steady_state_and_of_each_process_alone():
    def held(second, spent_s, pid=1):
        return Sample(float(second), {}, {}, {"node": spent_s, "dead": 1.0}, 0.0, {"node": pid})

    steady = [held(second, 0.9 + 0.03 * (second - 1)) for second in range(2, 11)]
    del steady[-1].processor_s["dead"]
    assert processor_shares([held(0, 0.0), held(1, 0.9), *steady]) == {"node": 0.03}
    assert processor_shares(steady[:1]) == {}
    again = [held(s, 0.3 * (s if s < 70 else s - 70), 1 if s < 70 else 2) for s in range(100)]
    assert processor_shares(again)["node"] == 0.3


def test_the_host_is_seen_where_stolen_time_grows(monkeypatch):
    stolen = iter([0, 0, 10 * MS, 10 * MS])
    over = threading.Event()

    def look():
        value = next(stolen, 20 * MS)
        if value == 20 * MS:
            over.set()
        return 500 * MS, value

    monkeypatch.setattr(host, "stolen_ns", look)
    monkeypatch.setattr(host, "SAMPLE_S", 0.0)
    began_ns, watch = time.time_ns(), HostWatch()
    watch(None, over)
    ended_ns = time.time_ns()
    assert watch.had_a_processor(began_ns, ended_ns)
    assert not watch.had_a_processor(ended_ns, ended_ns + MS)
    assert not watch.had_a_processor(began_ns - MS, began_ns - 1)


def test_what_cannot_be_measured_is_refused(monkeypatch):
    with pytest.raises(SettingsError, match="'stormy' is unknown; known are quiet"):
        DeadlineBench(SETUP, ["stormy"], 0)
    monkeypatch.setattr(deadline, "allowed_priority", lambda: 0)
    with pytest.raises(SettingsError, match="real time is not allowed here"):
        DeadlineBench(SETUP, ["disk"], 0, real_time=[True])
    with pytest.raises(SettingsError, match="second_look: 'often' is not allowed"):
        DeadlineBench(SETUP, ["disk"], 0, second_look=["off", "often"])
    with pytest.raises(SettingsError, match="second_look 1,1: a value comes twice"):
        DeadlineBench(SETUP, ["disk"], 0, second_look=["1", "1"])


def test_the_graph_has_real_time_only_where_it_is_measured_with(monkeypatch):
    monkeypatch.setattr(deadline, "allowed_priority", lambda: 40)
    bench = DeadlineBench(SETUP, ["disk"], 0, real_time=[False, True], fifo_priority=30)
    for real_time, expected in [(False, (0, "never")), (True, (30, "auto"))]:
        specs = LIVE.nodes(bench.values(real_time, "off") | {"standby": "never"})
        (found,) = [spec.parameters for spec in specs if spec.executable == "detector_node"]
        assert (found["fifo_priority"], found["stay_awake"]) == expected


def test_a_calibration_times_the_model_and_memory(monkeypatch):
    asked = []

    def apart(model, backend, threads, frames, fifo_priority):
        asked.append((model, backend, threads, fifo_priority))
        return [1.0, 2.0, 9.0]

    monkeypatch.setattr(calibration, "apart_ms", apart)
    found = calibrate("open-n", "null", 1, 5)
    assert found.bare_ms == 2.0 and found.memory_gb_s > 0
    assert asked == [("open-n", "null", 1, 5)]


def test_page_and_table():
    loaded = in_time(STAMPS, 12.0)
    loaded.reports[3] = report(STAMPS[3], FrameStatus.LATE)
    quiet = in_time(STAMPS)
    loaded.reports[4] = replace(loaded.reports[4], looks=("looked",) * 25)
    runs = {f"quiet{LOOKS}2": quiet, "all_cores": loaded, f"quiet{REAL_TIME}": quiet}
    found = result(1.0, soaked(), **runs)
    assert found["passed"]
    assert deadline_verdict(found) == (
        "fair",
        "Of 300 frames these missed the deadline of 10 ms: 0.50% without real-time priority, "
        "0.00% with it. Each one is reported. 99 more were published in time, but arrived after "
        "it.",
    )
    page = deadline_page(found)
    assert "Share of frames that take longer" in page and "1 minutes: constant" in page
    assert [*result_table(found).renderables[1].columns[-2].cells] == ["0", "99", "0"]
    assert [*result_table(found).renderables[1].columns[1].cells] == ["0.00", "0.25", "0.00"]
    narrow = Console(width=80, record=True)
    narrow.print(result_table(found))
    assert narrow.export_text().count(f" quiet{REAL_TIME} ") == 2, "a name is not whole"
    found["conditions"]["before: quiet"] = found["conditions"].pop("all_cores")
    assert "before: quiet" in deadline_page(found), "a condition in another checkout"
    found["soak"] |= {"constant": False, "state": "growing"}
    assert deadline_verdict(found) == ("bad", "The graph grew in 1 minutes: it has a leak.")


@pytest.mark.parametrize(
    ("run", "tone", "words", "passed"),
    [
        (in_time(STAMPS), "good", "All 100 frames met the deadline of 10 ms.", True),
        (
            in_time(STAMPS, 40.0),
            "fair",
            "All 100 frames were published within 10 ms, but 100 arrived after that.",
            True,
        ),
        (Run(sent=[]), "bad", "Nothing can be said: no frame was sent.", False),
        (Run(sent=STAMPS), "bad", "100 of 100 frames missed the deadline, and no", False),
    ],
)
def test_verdicts(run, tone, words, passed):
    found = result(quiet=run)
    assert (found["passed"], deadline_verdict(found)[0]) == (passed, tone)
    assert deadline_verdict(found)[1].startswith(words)


def test_frames_without_detections_are_the_slowest_in_table_page_and_chart():
    run = in_time(STAMPS)
    run.reports, run.detections = [report(s, FrameStatus.LATE) for s in STAMPS], run.detections[2:]
    found = json.loads(json.dumps(result(quiet=run), allow_nan=False))
    cells = [next(iter(column.cells)) for column in result_table(found).renderables[0].columns]
    assert cells[2:6] == ["8.00", "none", "none", "none"]
    assert '<td class="number">8.00</td><td class="number">none</td>' in deadline_page(found)
    assert min(tail(found["conditions"], 10.0).tables[0][1]) == pytest.approx(0.02)


def own_children() -> set[int]:
    return set(children(os.getpid()))


@pytest.mark.parametrize("name", [name for name in CONDITIONS if name != "second_graph"])
def test_what_keeps_the_machine_busy_computes_and_is_gone_afterwards(name, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "STREAM_BYTES", 1 << 20)
    before = own_children()
    with CONDITIONS[name](Surroundings(tmp_path, {}, "")):
        ours = own_children() - before
        processors = os.sched_getaffinity(0)
        assert len(ours) == {"quiet": 0, "one_core": 1, "disk": 1}.get(name, len(processors))
        for child in ours:
            nice = load.NICEST if name == "build" else os.getpriority(os.PRIO_PROCESS, 0)
            assert os.getpriority(os.PRIO_PROCESS, child) == nice
            group = os.getpgid(child)
        if name == "one_core":
            assert os.sched_getaffinity(*ours) == {min(processors)}
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
        until(lambda: said.exists() and said.read_text().endswith("\n"), 20)
    assert said.read_text() == f"{tmp_path}\n"


def test_nothing_is_measured_beside_a_compiler_that_fails(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexit 7\n")
    compiler.chmod(0o755)
    ended = pytest.raises(LoadEnded, match=f"{compiler} ended by itself, status 7")
    with ended, compilations(1, str(compiler), tmp_path):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)


def test_a_load_that_is_killed_is_gone():
    before = own_children()
    with (
        pytest.raises(LoadEnded, match="a busy loop ended by itself, signal 9"),
        busy([min(os.sched_getaffinity(0))]),
    ):
        (child,) = own_children() - before
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert own_children() == before


def test_nothing_is_measured_beside_a_second_graph_that_does_not_work(tmp_path, monkeypatch):
    before = own_children()

    def start(command, stdout, stderr):
        stdout.write(b"starting\nwaiting for a camera\n")
        return subprocess.Popen(["sleep", "60"])

    monkeypatch.setattr(conditions, "START_TIMEOUT_S", 0)
    monkeypatch.setattr(conditions, "start", start)
    with (
        pytest.raises(GraphFailure, match="does not work after 0 s: waiting for a camera"),
        CONDITIONS["second_graph"](Surroundings(tmp_path, {}, "")),
    ):
        pytest.fail("it was measured")
    assert own_children() == before
