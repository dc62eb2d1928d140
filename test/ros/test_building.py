"""A graph whose engine is not built yet: openvino serves until it is. The GPU is a libcuda in C
whose device is the host, TensorRT one in Python that finds an empty road; all else is real."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from kills import Rig, with_graph

from perception_nodes.core.frame import FrameStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
BACKENDS = Path(__file__).parents[1] / "backends"
COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
TENSORRT = """
import sys
from collections import Counter

sys.path.append({folder!r})
import fake_tensorrt
from fake_gpu import bytes_at


class Gpu:
    calls, failures = Counter(), {{}}

    def allocate(self, nbytes):
        pass

    def stream_at(self, address):
        return self

    def put(self, operation):
        operation()

    def view(self, address, nbytes):
        return bytes_at(address, nbytes)


def on_build():
    open({gate!r}).read()


module = fake_tensorrt.make(Gpu(), on_build=on_build, value_of=lambda mean, place: -20.0)
globals().update((k, v) for k, v in vars(module).items() if k == "__version__" or k[:2] != "__")
"""


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a build waits for until somebody opens it for writing."""
    if COMPILER is None:
        pytest.skip("no C compiler")
    pytest.importorskip("cuda.bindings.driver")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    library = tmp_path / "lib/libcuda.so.1"
    library.parent.mkdir()
    source = BACKENDS / "stub_libcuda.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    package = tmp_path / "site/tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TENSORRT.format(folder=str(BACKENDS), gate=str(gate)))
    for name, folder in (("LD_LIBRARY_PATH", library.parent), ("PYTHONPATH", package.parent)):
        monkeypatch.setenv(name, f"{folder}:{os.environ.get(name, '')}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("STUB_CUDA_FAILS", str(tmp_path / "fails"))
    return gate


def test_openvino_serves_until_the_engine_is_built(gate: Path) -> None:
    def scenario(rig: Rig) -> None:
        _, causes = rig.listen()
        why = "openvino stands in while tensorrt is being built"
        rig.wait_until(lambda: any(why in cause for cause in causes))
        assert rig.next_detections().status == FrameStatus.DEGRADED
        with open(gate, "w"):
            pass
        rig.wait_until(lambda: causes[-1] == "detections arrive in time")
        # Of a frame to come: what was detected meanwhile is still waiting to be read.
        assert rig.next_detections(time.monotonic_ns()).status == FrameStatus.OK

    with_graph(scenario, backend="tensorrt", model="road-xs", standby="never")


def test_both_of_a_pair_go_over_to_it(gate: Path) -> None:
    def scenario(rig: Rig) -> None:
        _, causes = rig.listen()
        rig.wait_for_standby("detector")
        with open(gate, "w"):
            pass
        rig.wait_until(lambda: bool(causes) and causes[-1] == "detections arrive in time")
        rig.wait_until(lambda: rig.next_detections().status == FrameStatus.OK)

    with_graph(scenario, backend="tensorrt", model="road-xs", standby="always")


def test_a_device_that_fails_ends_the_process_and_the_standby_works(gate: Path) -> None:
    def scenario(rig: Rig) -> None:
        _, causes = rig.listen()
        with open(gate, "w"):
            pass
        rig.wait_until(lambda: bool(causes) and causes[-1] == "detections arrive in time")
        rig.wait_for_standby("detector")
        victim, standby = rig.members("detector")
        (gate.parent / "fails").touch()
        rig.wait_until(lambda: rig.leases["detector"].note.process == standby)
        assert rig.next_detections(time.monotonic_ns()).status == FrameStatus.OK
        rig.wait_until(lambda: victim not in rig.members("detector"))
        assert b"died" in rig.takeover("detector").reason

    with_graph(scenario, backend="tensorrt", model="road-xs", standby="always")
