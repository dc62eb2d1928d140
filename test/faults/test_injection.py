"""What a bench puts in from outside: clocks, weather, drives, the network, processes, backends."""

import os
import signal
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
from made_runs import scenario

from perception_nodes.backends.contract import BACKENDS, BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, IMAGE
from perception_nodes.faults import faulty_backend, inject
from perception_nodes.faults.clock_offset import clock_offset
from perception_nodes.faults.drive import prepare
from perception_nodes.faults.faulty_backend import VARIABLE, Orders, hit_file
from perception_nodes.faults.graphs import SlowSubscriberSettings
from perception_nodes.faults.inject import NotInjected, UnderTest, put_in
from perception_nodes.faults.lossy_network import OWN_NETWORK, why_unavailable
from perception_nodes.faults.scenario import BackendFault, SubscriberFault
from perception_nodes.faults.scratch import PREFIX, scratch_folder
from perception_nodes.faults.weather import with_weather
from perception_nodes.graph.graph import LIVE, Graph
from perception_nodes.graph.node_spec import NodeKind
from perception_nodes.networks.model import load_model

MS = 1_000_000


def test_the_fastest_round_trip_tells_the_offset_and_its_error():
    offset = clock_offset([(0, 107 * MS, 20 * MS), (50 * MS, 152 * MS, 54 * MS)])
    assert (offset.offset_ms, offset.error_ms) == pytest.approx((100, 2))
    for answered_ms in (0, 1, 3, 4):  # however unequal the two ways are
        offset = clock_offset([(0, (7 + answered_ms) * MS, 4 * MS)])
        assert abs(offset.offset_ms - 7) <= offset.error_ms


@pytest.mark.parametrize("kind", ["night", "rain", "sun_glare", "lens_blocked"])
def test_weather_can_be_repeated_and_grows_with_its_strength(kind):
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (320, 180))
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


def test_how_many_frames_the_weather_has_changed_is_known(tmp_path: Path):
    faults = [
        {"kind": "camera_stop", "for_s": 1},
        {"kind": "rain", "after_s": 0.5, "for_s": 0.2},
        {"kind": "night", "after_s": 5, "for_s": 1},
    ]
    path = tmp_path / "drive.mcap"
    assert prepare(scenario(faults=faults), path, disturbed=True) == {1: 2, 2: 0}
    assert prepare(scenario(faults=faults), path, disturbed=False) == {}


NETWORK = """
import socket, subprocess, sys, time
from contextlib import suppress
from perception_nodes.faults.inject import NotInjected
from perception_nodes.faults.lossy_network import LossyLink, UNIT_ADDRESS
from perception_nodes.faults.scenario import NetworkConditions

ECHO = '''
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
    far.bind(("10.77.0.2", 9))
    while True:
        far.sendto(*far.recvfrom(99))
'''
datagrams = socket.AF_INET, socket.SOCK_DGRAM
with LossyLink(NetworkConditions()) as link, socket.socket(*datagrams) as near:
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
    for values in ({}, {"loss": 0.2}, {"reorder": 0.2}):
        back, changed = [], True
        try:
            with link.under(NetworkConditions(**values)):
                for number in range(100):
                    near.send(b"%d" % number)
                    time.sleep(0.001)
                with suppress(TimeoutError):
                    while True:
                        back.append(int(near.recv(99)))
        except NotInjected:
            changed = False
        print(len(back), back == sorted(back), changed)
    echo.kill()
    echo.wait()
"""


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "-")
def test_the_network_loses_and_reorders():
    result = subprocess.run(
        [*OWN_NETWORK, sys.executable, "-c", NETWORK],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    good, lossy, unordered = (line.split() for line in result.stdout.splitlines())
    assert good == ["100", "True", "False"]
    assert 40 <= int(lossy[0]) <= 85
    assert lossy[2] == "True"
    assert unordered == ["100", "False", "True"]


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
        fault = SubscriberFault(kind="slow_subscriber", for_s=1)
        put_in(fault, UnderTest(graph, "rear", said), wait)
    assert waited_s.count(1) == (problem != "got no message"), "its time begins when it listens"
    assert all(text in said.read_text() for text in ('camera:="rear"', 'topic:="seen"'))


@pytest.mark.parametrize(
    ("kind", "hit_after", "is_put_in"),
    [("backend_nan", 1, True), ("backend_nan", 2, False), ("backend_hang", 3, True)],
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
        put_in(fault, UnderTest(None, "front", orders), wait)
    assert Orders.model_validate_json(orders.read_bytes()).fault == kind.removeprefix("backend_")


FOR_EVER_NS = 2**62
BLANK = np.zeros((256, 416, 3), np.uint8)


@pytest.fixture
def orders(tmp_path, monkeypatch):
    """Writes orders to the file that the backend obeys."""
    path = tmp_path / "orders.json"
    monkeypatch.setenv(VARIABLE, str(path))

    def give(**values):
        Orders(**{"until_ns": FOR_EVER_NS, **values}).write(path)

    give()
    give.path = path
    return give


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(BACKENDS, "faulty", faulty_backend.__name__)


@pytest.fixture
def backend(orders, registered):
    opened = open_backend("faulty", BackendSettings(threads=2, max_batch=2))
    opened.load(load_model("open-n"))
    yield opened
    opened.close()


def test_it_is_refused_without_orders(registered, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(BackendError, match="use it through `perception hil run`"):
        open_backend("faulty", BackendSettings())


def test_slow_takes_so_many_times_as_long(backend, orders):
    orders(call_ms=10.0, fault="slow", factor=3.0)
    started_s = time.monotonic()
    backend.infer(BLANK)
    assert time.monotonic() - started_s >= 0.03


def test_exception(backend, orders):
    orders(fault="exception")
    with pytest.raises(BackendError, match="ordered to fail"):
        backend.infer(BLANK)


@pytest.mark.parametrize(("fault", "finite"), [("nan", False), ("absurd", True)])
def test_nonsense(backend, orders, fault, finite):
    orders(fault=fault)
    heads = backend.infer(BLANK)
    assert all(np.isfinite(tensor).all() == finite for tensor in heads.classes)
    assert not any((abs(tensor) < 1e20).any() for tensor in heads.boxes)


def test_a_fault_is_that_of_all_images_of_a_call(backend, orders):
    assert len(backend.infer_batch([BLANK] * 2)) == 2
    orders(fault="nan")
    for heads in backend.infer_batch([BLANK] * 2):
        assert all(np.isnan(tensor).all() for tensor in (*heads.boxes, *heads.classes))


def test_a_call_that_is_hit_is_noted_beside_the_orders(backend, orders):
    heads = backend.infer(BLANK)
    assert all(np.isfinite(tensor).all() for tensor in (*heads.boxes, *heads.classes))
    orders(fault="exception", until_ns=time.monotonic_ns() - 1)
    backend.infer(BLANK)
    assert not hit_file(orders.path).exists()
    orders(fault="nan")
    backend.infer(BLANK)
    assert hit_file(orders.path).exists()


def test_a_segfault_ends_one_process_only(orders):
    orders(fault="segfault")
    code = (
        "import numpy as np\n"
        "from perception_nodes.backends.contract import BackendSettings, open_backend\n"
        "from perception_nodes.faults.faulty_backend import register\n"
        "register()\n"
        "open_backend('faulty', BackendSettings()).infer(np.zeros((256, 416, 3), np.uint8))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert result.returncode == -signal.SIGSEGV
    assert Orders.model_validate_json(orders.path.read_bytes()).fault == ""
    assert hit_file(orders.path).exists()
