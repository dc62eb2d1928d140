"""Threads that call one backend: what each gets, and what it has waited for the others."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.model import load_model
from perception_nodes.core.inference import HeadTensors
from perception_nodes.replay import offline_camera as camera
from perception_nodes.replay.offline_camera import CameraTurn, turns

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def clock(monkeypatch):
    """Moves on only when it is told to."""
    clock = SimpleNamespace(now_ns=0)
    monkeypatch.setattr(camera.time, "monotonic_ns", lambda: clock.now_ns)
    return clock


class Caller:
    """Ends at an instant; before that another one ends."""

    def __init__(self, clock, ends_ns, between=lambda: None):
        self.clock, self.ends_ns, self.between = clock, ends_ns, between

    def infer(self, image):
        self.between()
        self.clock.now_ns = self.ends_ns
        return HeadTensors([], [])


def test_a_call_that_others_run_before_has_waited_for_them(clock):
    ended_ns = [0]
    first = CameraTurn(Caller(clock, 10), ended_ns)
    second = CameraTurn(Caller(clock, 25, lambda: first.infer(IMAGE)), ended_ns)
    clock.now_ns = 3
    second.infer(IMAGE)
    assert (first.waited_ns, second.waited_ns, ended_ns) == (0, 7, [25])
    clock.now_ns = 30
    second.infer(IMAGE)
    assert second.waited_ns == 0


def test_a_call_that_fails_has_had_its_turn_too(clock):
    ended_ns = [0]

    def fail():
        clock.now_ns = 9
        raise RuntimeError

    with pytest.raises(RuntimeError):
        CameraTurn(Caller(clock, 0, fail), ended_ns).infer(IMAGE)
    assert ended_ns == [9]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_each_thread_gets_what_is_its_own(name):
    """Runtimes that queue calls, and those that are called by one at a time."""
    model = load_model("road-xs")
    size = (model.input.height, model.input.width, 3)
    images = [np.full(size, value, np.uint8) for value in (20, 120, 220)]
    backend = open_backend(name, BackendSettings(threads=1))
    backend.load(model)
    expected = []
    for image in images:
        heads = backend.infer(image)
        expected.append([t.copy() for t in [*heads.boxes, *heads.classes]])
    wrong = []

    def call(turn, image, tensors):
        for _ in range(10):
            heads = turn.infer(image)
            for one, other in zip([*heads.boxes, *heads.classes], tensors, strict=True):
                if not np.array_equal(one, other):
                    wrong.append(image)

    callers = zip(turns(backend, len(images)), images, expected, strict=True)
    threads = [threading.Thread(target=call, args=each) for each in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.close()
    assert not wrong
