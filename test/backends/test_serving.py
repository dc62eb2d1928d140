"""While a backend is being built another one serves, every frame says so, and then they switch."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from perception_nodes.backends import contract
from perception_nodes.backends import serving as serving_module
from perception_nodes.backends.building import Building, build_command
from perception_nodes.backends.null import Backend as NullBackend
from perception_nodes.backends.serving import Serving
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import FrameHeader, FrameStatus
from perception_nodes.core.inference import BackendError
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.placement import Placement

DECODE = DecodeSettings()
LONG_NS = 3600 * 10**9


class Backend(NullBackend):
    """A backend that finds nothing; as `slow` it must be built, which a file records."""

    opened = []

    def __init__(self, name, settings, built):
        super().__init__(settings)
        self.name, self.may_build, self.built = name, settings.may_build, built
        self.closed = False
        self.opened.append(self)

    def load(self, model):
        if self.name == "slow" and not self.built.exists():
            assert not self.may_build
            raise contract.NotBuilt("the engine of open-n is not built yet")
        super().load(model)
        return contract.BackendInfo(self.name, self.name, "here", 1)

    def infer(self, image):
        assert not self.closed
        return super().infer(image)

    def close(self):
        self.closed = True


class Build:
    """A build in a separate process, which ends when the test says so."""

    def __init__(self, folder):
        self.built = folder / "built"
        self.gate = folder / "gate"
        os.mkfifo(self.gate)

    def command(self, then):
        return [sys.executable, "-c", f"import sys; open({str(self.gate)!r}).read(); {then}"]

    def end(self):
        # Opening the pipe waits until the process opens it for reading.
        with open(self.gate, "w"):
            pass


@pytest.fixture
def build(tmp_path, monkeypatch):
    build = Build(tmp_path)
    Backend.opened.clear()
    monkeypatch.setattr(
        contract, "open_backend", lambda name, settings: Backend(name, settings, build.built)
    )
    build.then = f"open({str(build.built)!r}, 'w')"
    monkeypatch.setattr(serving_module, "build_command", lambda *_: build.command(build.then))
    return build


def serve(models, log=lambda line: None):
    return Serving("slow", models, contract.BackendSettings(1, "", may_build=False), DECODE, log)


def wait_for(serving):
    """Wait until a build has ended and its result is loaded."""
    while not serving.ready():
        threading.Event().wait(0.005)


class Graph:
    """The loop of a node: frames go through a pipeline."""

    def __init__(self, serving, model):
        self.serving, self.model = serving, model
        self.pipeline = Pipeline(serving.candidates, SystemClock(), True, serving.standing_in)

    def frame(self):
        if self.serving.ready():
            self.serving.switch()
            self.pipeline.replace(self.serving.candidates, self.serving.standing_in)
        size = self.model.input
        header = FrameHeader(deadline_ns=LONG_NS * 1000)
        Placement.fit((64, 64), (size.width, size.height)).describe(header, copies=0)
        image = np.zeros((size.height, size.width, 3), np.uint8)
        record, detections = self.pipeline.detect(header, image)
        assert detections is not None
        record = self.pipeline.published(record)
        return FrameStatus(record.status), record.reason.decode()


def test_frames_are_degraded_until_the_build_is_there(build, model):
    lines = []
    serving = serve([model], lines.append)
    graph = Graph(serving, model)
    why = "litert stands in while slow is being built"
    assert [graph.frame() for _ in range(3)] == 3 * [(FrameStatus.DEGRADED, why)]
    assert serving.backend == "litert"
    build.end()
    wait_for(serving)
    stand_in = next(one for one in Backend.opened if one.name == "litert")
    assert not stand_in.closed, "it serves until the next frame"
    assert [graph.frame() for _ in range(3)] == 3 * [(FrameStatus.OK, "")]
    assert stand_in.closed
    assert serving.backend == "slow"
    assert "slow is built and takes over from litert" in lines
    serving.close()
    assert all(one.closed for one in Backend.opened)


def test_thresholds_that_were_changed_hold_for_the_models_that_follow(build, model):
    serving = serve([model])
    size = model.input
    heads = serving.candidates[0].backend.infer(np.zeros((size.height, size.width, 3), np.uint8))
    heads.classes[0][0, 0, 3, 3] = 0.4  # a score of 0.6
    found = []
    for threshold in (None, 0.7, 0.5):
        if threshold:
            serving.decode_with(DecodeSettings(score_threshold=threshold))
        found.append(len(serving.candidates[0].decoder.decode(heads.boxes, heads.classes)))
    assert found == [1, 0, 1]
    serving.decode_with(DecodeSettings(score_threshold=0.7))
    build.end()
    wait_for(serving)
    serving.switch()
    assert len(serving.candidates[0].decoder.decode(heads.boxes, heads.classes)) == 0
    serving.close()


def test_a_build_that_fails_never_stops_the_graph(build, model):
    build.then = "print('whatever'); sys.exit('no kernel fits')"
    serving = serve([model])
    graph = Graph(serving, model)
    build.end()
    wait_for(serving)
    why = "litert stands in, slow cannot be built: no kernel fits"
    assert [graph.frame() for _ in range(3)] == 3 * [(FrameStatus.DEGRADED, why)]
    serving.close()


def test_a_build_that_leaves_nothing_is_told(build, model):
    build.then = "pass"
    serving = serve([model])
    build.end()
    wait_for(serving)
    serving.switch()
    assert "cannot be built: the engine of open-n is not built yet" in serving.standing_in
    serving.close()


def test_what_is_there_serves_at_once(build, model):
    build.built.touch()
    serving = serve([model, load_model("open-xs")])
    assert serving.standing_in == "" and not serving.ready()
    assert [candidate.name for candidate in serving.candidates] == [b"open-n", b"open-xs"]
    assert {one.name for one in Backend.opened} == {"slow"}
    assert Graph(serving, model).frame() == (FrameStatus.OK, "")
    serving.close()


@pytest.mark.parametrize("built", [False, True])
def test_closing_ends_a_build_and_closes_what_it_has_built(build, model, built):
    serving = serve([model])
    if built:
        build.end()
        wait_for(serving)
    serving.close()
    assert all(one.closed for one in Backend.opened)
    assert build.built.exists() == built


def test_closing_during_the_load_closes_what_was_loaded(build, model, monkeypatch):
    serving = serve([model])
    loading, go_on, load = threading.Event(), threading.Event(), Backend.load

    def load_when_told(self, model):
        loading.set()
        go_on.wait()
        return load(self, model)

    monkeypatch.setattr(Backend, "load", load_when_told)
    build.end()
    while not loading.wait(0.005):
        assert not serving.ready()
    go_on.set()
    serving.close()
    assert [one.name for one in Backend.opened] == ["slow", "litert", "slow"]
    assert all(one.closed for one in Backend.opened)


def test_a_crash_of_the_build_is_told():
    building = Building([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], list)
    with pytest.raises(BackendError, match="ended with signal 11 and does not say why"):
        while building.poll() is None:
            threading.Event().wait(0.005)
    building.close()


def test_a_build_that_cannot_be_started():
    with pytest.raises(BackendError, match="cannot be started"):
        Building(["/no/such/program"], list)


def run(command):
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)


def test_the_real_build_leaves_its_files_in_the_cache(tmp_path):
    folder = load_model("open-xs").folder
    done = run(build_command("openvino", [folder], contract.BackendSettings(1, str(tmp_path))))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.glob("*.openvino"))


def test_the_real_build_says_in_one_line_what_it_lacks(tmp_path):
    done = run(build_command("null", [tmp_path], contract.BackendSettings(1, str(tmp_path))))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and f"model '{tmp_path}' is not there" in done.stderr
