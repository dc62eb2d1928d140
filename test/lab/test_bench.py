"""The bench's own parts: clocks, weather, drives, the network."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from perception_nodes.core.frame import FrameStatus
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, IMAGE
from perception_nodes.faults import inject
from perception_nodes.faults.clock_offset import RoundTrip, clock_offset
from perception_nodes.faults.drive import prepare
from perception_nodes.faults.faulty_backend import Orders, hit_file
from perception_nodes.faults.graphs import SlowSubscriberSettings
from perception_nodes.faults.inject import NotInjected, Target, put_in
from perception_nodes.faults.lossy_network import OWN_NETWORK, why_unavailable
from perception_nodes.faults.scenario import (
    BackendFault,
    CpuFault,
    NetworkFault,
    Scenario,
    SubscriberFault,
)
from perception_nodes.faults.scratch import PREFIX, scratch_folder
from perception_nodes.faults.unit import UnitError
from perception_nodes.faults.weather import with_weather
from perception_nodes.graph.graph import LIVE, Graph
from perception_nodes.graph.node_spec import NodeKind
from perception_nodes.lab import topology
from perception_nodes.lab.judge import Verdict
from perception_nodes.lab.page import render
from perception_nodes.lab.run import _Run
from perception_nodes.lab.undisturbed import agreement_share
from perception_nodes.report.recording import FrameDetections
from perception_nodes.transport.memory import TransportError

MS = 1_000_000


def test_the_fastest_round_trip_tells_the_offset_and_its_error():
    trips = [RoundTrip(0, 107 * MS, 20 * MS), RoundTrip(50 * MS, 152 * MS, 54 * MS)]
    offset = clock_offset(trips)
    assert offset.offset_ms == pytest.approx(100)
    assert offset.error_ms == pytest.approx(2)


@pytest.mark.parametrize("answered_ms", [0, 1, 3, 4])
def test_the_truth_is_within_the_error_however_unequal_the_ways_are(answered_ms):
    offset = clock_offset([RoundTrip(0, (7 + answered_ms) * MS, 4 * MS)])
    assert abs(offset.offset_ms - 7) <= offset.error_ms


@pytest.mark.parametrize("kind", ["night", "rain", "sun_glare", "lens_blocked"])
def test_weather_can_be_repeated_and_grows_with_its_strength(kind):
    picture = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8), (320, 180)
    )
    before = picture.copy()
    weak, strong = (with_weather(kind, picture, strength, 3) for strength in (0.2, 1.0))
    assert (weak.shape, weak.dtype) == (picture.shape, np.uint8)
    assert np.array_equal(weak, with_weather(kind, picture, 0.2, 3))
    assert np.array_equal(picture, before)
    harm = [np.abs(one.astype(int) - picture).mean() for one in (weak, strong)]
    assert 1 < harm[0] < harm[1]


def test_no_two_pictures_of_a_blocked_lens_are_the_same():
    picture = np.full((36, 64, 3), 90, np.uint8)
    assert not np.array_equal(*(with_weather("lens_blocked", picture, 1.0, n) for n in (1, 2)))


def scenario(**values) -> Scenario:
    base = {"name": "t", "title": "t", "drive": "synthetic:64x32@10*10", "expect": {"lost": "-"}}
    return Scenario.model_validate({**base, **values})


def played(tmp_path: Path, **values):
    prepare(scenario(**values), tmp_path / "drive.mcap", disturbed=True)
    with open_drive(tmp_path / "drive.mcap") as drive:
        return drive.message_type, list(drive.frames())


def test_a_drive_is_cut_or_repeated_to_its_duration(tmp_path: Path):
    assert len(played(tmp_path, duration_s=0.5)[1]) == 5
    frames = played(tmp_path, duration_s=2.5)[1]
    times = [frame.log_time_ns - 1 for frame in frames]
    assert times == [number * 100 * MS for number in range(25)]
    assert frames[0].data == frames[10].data == frames[20].data


def test_weather_is_there_while_it_lasts_and_jpeg_always(tmp_path: Path):
    kind, good = played(tmp_path)
    assert kind == IMAGE
    _, rainy = played(tmp_path, faults=[{"kind": "rain", "after_s": 0.5, "for_s": 0.2}])
    assert [a.data != b.data for a, b in zip(good, rainy, strict=True)] == [
        5 <= number < 7 for number in range(10)
    ]
    assert played(tmp_path, jpeg_quality=50)[0] == COMPRESSED_IMAGE


NETWORK = """
import socket, subprocess, sys, time
from perception_nodes.faults.lossy_network import LossyLink, UNIT_ADDRESS
from perception_nodes.faults.scenario import Conditions

ECHO = '''
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
    far.bind(("10.77.0.2", 9))
    while True:
        far.sendto(*far.recvfrom(99))
'''
with LossyLink(Conditions()) as link, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
    echo = link.in_unit_namespace(lambda: subprocess.Popen([sys.executable, "-S", "-c", ECHO]))
    near.settimeout(0.3)
    near.connect((UNIT_ADDRESS, 9))
    back = []
    for attempt in range(50):  # it is still starting
        try:
            near.send(b"0")
            near.recv(99)
            break
        except OSError:
            time.sleep(0.1)
    for conditions in (Conditions(), Conditions(loss=0.2), Conditions(reorder=0.2)):
        changed, link.conditions = link.changed, conditions
        for number in range(100):
            near.send(b"%d" % number)
            time.sleep(0.001)
        back = []
        try:
            while True:
                back.append(int(near.recv(99)))
        except TimeoutError:
            print(len(back), back == sorted(back), link.changed > changed)
    echo.kill()
    echo.wait()
"""


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "-")
def test_the_network_loses_and_reorders():
    result = subprocess.run(
        [*OWN_NETWORK, sys.executable, "-c", NETWORK],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    good, lossy, unordered = (line.split() for line in result.stdout.splitlines())
    assert good == ["100", "True", "False"]
    assert 40 <= int(lossy[0]) <= 85
    assert lossy[2] == "True"
    assert unordered == ["100", "False", "True"]


def found(*labels: str) -> FrameDetections:
    boxes = np.array([[10, 10, 50, 50]] * len(labels), np.float32).reshape(-1, 4)
    return FrameDetections(labels, np.full(len(labels), 0.9, np.float32), boxes)


def test_agreement_is_of_frames_that_both_have():
    expected = {0: found("car"), 1: found("car"), 2: found("car")}
    assert agreement_share(expected, {0: found("car"), 1: found()}) == pytest.approx(2 / 3)
    assert agreement_share(expected, {0: found("person")}) == 0
    assert agreement_share({0: found()}, {0: found()}) is None


def test_the_page_tells_of_what_was_not_run_too(tmp_path: Path):
    verdicts = [
        Verdict(scenario="a", title="All <well>", statuses={FrameStatus.OK.name: 3}, sent=3),
        Verdict(scenario="b", title="b", problems=["not run: no network"]),
    ]
    page = render("a machine", verdicts, tmp_path)
    assert "1 of 2 scenarios are as expected" in page
    assert "All &lt;well&gt;" in page
    assert "not run: no network" in page


def test_folders_of_killed_runs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as ended:
        pass
    left = tmp_path / f"{PREFIX}{ended.pid}_left"
    other = tmp_path / f"{PREFIX}{os.getpid()}_other"
    left.mkdir()
    other.mkdir()
    with scratch_folder() as folder:
        assert not left.exists()
        assert other.exists()
    assert not Path(folder).exists()


def test_what_cannot_be_simulated_is_not_run_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(topology, "why_unavailable", lambda: "no namespace is granted")
    cut = scenario(network={}, faults=[{"kind": "network", "for_s": 1, "loss": 1}])
    assert topology.run_scenario(cut, tmp_path).problems == [
        "not run: the network cannot be simulated: no namespace is granted"
    ]


@pytest.mark.parametrize(
    ("error", "logs"),
    [
        (UnitError("the unit\nis gone"), 0),
        (TransportError("no shared memory"), 0),
        (ValueError("a defect of ours"), 1),
    ],
)
def test_what_ends_a_run_is_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error, logs
):
    def run(*_):
        raise error

    monkeypatch.setattr(topology, "run_here", run)
    (problem,) = topology.run_scenario(scenario(), tmp_path).problems
    assert problem.startswith("not run: ")
    assert " ".join(str(error).split()) in problem
    assert len(list(tmp_path.iterdir())) == logs, "a traceback is for defects"


def test_the_second_camera_may_lose_no_more_than_the_first_and_stays_nominal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran = []

    def process(prefix, scenario, out, environment):
        ran.append(scenario)
        return nullcontext(SimpleNamespace(verdict=lambda: Verdict(scenario="b", title="")))

    monkeypatch.setattr(topology, "_ScenarioProcess", process)
    monkeypatch.setattr(topology, "run_here", lambda *_: Verdict(scenario="a", title=""))
    scenario = Scenario.model_validate(
        {
            "name": "two",
            "title": "-",
            "cameras": 2,
            "graph": {"source": "shm"},
            "faults": [{"kind": "camera_stop", "for_s": 1}],
            "expect": {"lost": "-", "lost_at_most": 2, "told": "UNSAFE", "at_worst": "UNSAFE"},
        }
    )
    topology.run_scenario(scenario, tmp_path)
    (second,) = ran
    assert (second.faults, second.expect.lost_at_most) == ((), 2)
    assert (second.expect.told, second.expect.at_worst) == ("NOMINAL", None)


def test_a_stopped_scenario_process_leaves_nothing_behind(tmp_path: Path):
    with topology._ScenarioProcess(
        ("sh", "-c", "exec sleep 99"), scenario(), tmp_path, {}
    ) as child:
        assert child._process.poll() is None
    assert child._process.returncode
    assert list(tmp_path.iterdir()) == []


def test_a_scenario_process_that_gives_no_verdict_fails(tmp_path: Path):
    command = ("sh", "-c", "echo nobody >&2; exit 3")
    with topology._ScenarioProcess(command, scenario(), tmp_path, {}) as child:
        problems = child.verdict().problems
    assert problems == ["not run: its process ended with status 3: nobody"]


@pytest.mark.parametrize(
    ("then", "problem"),
    [
        ("print(flush=True); time.sleep(99)", None),
        ("print(flush=True); sys.exit(3)", "status 3"),
        ("sys.exit(4)", "status 4"),
        ("time.sleep(99)", "got no message"),
    ],
)
def test_a_slow_subscriber_listens_to_its_graph_and_must_live_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, problem: str | None
):
    said = tmp_path / "said"
    (tmp_path / "subscriber.py").write_text(
        f"import sys, time\nopen({str(said)!r}, 'w').write(' '.join(sys.argv))\n{then}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = NodeKind("subscriber", SlowSubscriberSettings, "")
    monkeypatch.setattr(NodeKind, "module", "subscriber")
    monkeypatch.setattr(inject, "SLOW_SUBSCRIBER", Graph((module,)))
    specs = LIVE.nodes({"camera": "rear", "detections_topic": "seen", "standby": "never"})
    graph = SimpleNamespace(processes=[(spec, None) for spec in specs])

    waited_s = []

    def wait(seconds: float) -> bool:
        waited_s.append(seconds)
        if "exit" in then:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        time.sleep(0.01)
        return said.exists() and "print" not in then and "exit" not in then  # the run is over

    with pytest.raises(NotInjected, match=problem) if problem else nullcontext():
        put_in(SubscriberFault(kind="slow_subscriber", for_s=1), Target(graph, "rear", said), wait)
    assert waited_s.count(1) == (problem != "got no message"), "its time begins when it listens"
    assert all(text in said.read_text() for text in ('camera:="rear"', 'topic:="seen"'))


@pytest.mark.parametrize(
    ("kind", "hit_after", "is_put_in"),
    [
        ("backend_nan", 1, True),
        ("backend_nan", 2, False),
        ("backend_hang", 3, True),
        ("backend_hang", None, False),
    ],
)
def test_a_fault_of_the_backend_that_meets_no_call_is_not_put_in(
    tmp_path: Path, kind: str, hit_after: int | None, is_put_in: bool
):
    orders, waits = tmp_path / "orders.json", []
    hit_file(orders).touch()  # by the fault before

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == hit_after:
            hit_file(orders).touch()
        return len(waits) > 9

    fault = BackendFault(kind=kind, for_s=1)
    with nullcontext() if is_put_in else pytest.raises(NotInjected, match="met no call"):
        put_in(fault, Target(None, "front", orders), wait)
    assert Orders.model_validate_json(orders.read_bytes()).fault == kind.removeprefix("backend_")


@pytest.mark.parametrize("packets", [0, 1])
def test_a_fault_of_the_network_that_meets_no_packet_is_not_put_in(tmp_path: Path, packets: int):
    link = SimpleNamespace(conditions="before", changed=7)
    run = _Run(scenario(), tmp_path, tmp_path, None, link)
    fault = NetworkFault(kind="network", for_s=1, loss=1)

    def wait(_: float) -> None:
        assert link.conditions is fault
        link.changed += packets

    run._over.wait = wait
    with nullcontext() if packets else pytest.raises(NotInjected, match="of no packet"):
        run._disturb_network(fault)
    assert link.conditions == "before"


def test_the_time_of_a_slow_subscriber_is_over_when_it_has_run(tmp_path: Path):
    run = _Run(scenario(), tmp_path, tmp_path, None, None)
    (tmp_path / "started").write_text("0")
    run._put = lambda *_: None
    run._inject(0, CpuFault(kind="cpu_contention", after_s=0.5, for_s=1), None)
    run._inject(1, SubscriberFault(kind="slow_subscriber", after_s=0.5, for_s=0.001), None)
    (begin_ns, end_ns), (_, heard_ns) = run._put_in[0], run._put_in[1]
    assert end_ns - begin_ns == 1000 * MS
    assert begin_ns <= heard_ns <= time.time_ns()


def test_how_many_frames_the_weather_has_changed_is_known(tmp_path: Path):
    faults = [
        {"kind": "camera_stop", "for_s": 1},
        {"kind": "rain", "after_s": 0.5, "for_s": 0.2},
        {"kind": "night", "after_s": 5, "for_s": 1},
    ]
    path = tmp_path / "drive.mcap"
    assert prepare(scenario(faults=faults), path, disturbed=True) == {1: 2, 2: 0}
    assert prepare(scenario(faults=faults), path, disturbed=False) == {}


def test_a_fault_counts_as_put_in_where_it_hit_a_drive_that_went_on(tmp_path: Path):
    kinds = ("camera_stop", "cpu_contention", "shm_full", "night", "slow_subscriber")
    faults = [{"kind": kind, "for_s": 1} for kind in kinds]
    (tmp_path / "sent.json").write_text('{"sent": [[0, 1000], [1, 2000], [1, 9000]]}')
    (tmp_path / "played.json").write_text('{"hits": [0], "closing": 1, "late": [[2000, 9]]}')
    run = _Run(scenario(faults=faults), tmp_path, tmp_path, None, None)
    run._put_in = {0: (1500, 1600), 1: (1500, 1600), 2: (2001, 2100), 3: (1500, 1600)}
    run._not_put_in = {4: "nobody is there"}
    run._frames_changed = {3: 7}
    seen = run._gathered()
    assert (seen.sent, seen.closing, seen.late) == ([1000, 2000], [9000], [(2000, 9)])
    assert seen.faults == [("cpu_contention", 1500, 1600), ("night", 1500, 1600)]
    assert seen.not_put_in == [
        "camera_stop (faults.0) was not put in: it changed no frame",
        "shm_full (faults.2) was not put in: the drive was over before its time",
        "slow_subscriber (faults.4) was not put in: nobody is there",
    ]


def test_a_fault_whose_time_does_not_come_is_not_put_in(tmp_path: Path):
    run = _Run(scenario(), tmp_path, tmp_path, None, None)
    (tmp_path / "started").write_text(str(time.time_ns()))
    run._over.set()
    run._inject(0, CpuFault(kind="cpu_contention", after_s=100, for_s=1), None)
    assert (run._put_in, run._not_put_in) == ({}, {0: "the run was over before its time"})
    run._over.clear()
    run._over.wait = lambda _: False
    run._inject(1, NetworkFault(kind="network", after_s=0.5, for_s=1), None)
    assert "is a real one" in run._not_put_in[1]
    run._put = lambda *_: 1 / 0
    run._inject(2, CpuFault(kind="cpu_contention", after_s=0.5, for_s=1), None)
    assert run._not_put_in[2] == "ZeroDivisionError: division by zero"
