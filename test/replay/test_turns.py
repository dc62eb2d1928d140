"""Threads that call one backend: what each gets, and what it has waited for the others."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.networks.model import load_model
from perception_nodes.replay import turns as replay_turns
from perception_nodes.replay.turns import CameraTurn, Ends, turns

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    clock = SimpleNamespace(now_ns=0)
    monkeypatch.setattr(replay_turns.time, "monotonic_ns", lambda: clock.now_ns)
    return clock


class Caller:
    """Its call ends at one instant, and its thread goes on at another; meanwhile others call."""

    def __init__(self, clock, ended_ns, goes_on_ns, others=()):
        self.clock, self.others = clock, others
        self.ended_ns, self.goes_on_ns = ended_ns, goes_on_ns

    def infer(self, image):
        for other in self.others:
            other.infer(image)
        self.clock.now_ns = self.goes_on_ns
        return HeadTensors([], [])


@pytest.mark.parametrize(
    ("before", "own"),
    [
        ([(10, 10)], (25, 25)),
        ([(10, 24)], (20, 25)),  # a thread goes on late: that takes nothing from the next call
        ([(10, 10), (30, 30)], (20, 31)),  # one has ended after ours, whose thread goes on late
    ],
)
def test_a_call_has_waited_for_those_that_ended_before_it(clock, before, own):
    ends = Ends()
    others = [CameraTurn(Caller(clock, *times), ends) for times in before]
    turn = CameraTurn(Caller(clock, *own, others), ends)
    clock.now_ns = 3
    turn.infer(IMAGE)
    assert (others[0].waited_ns, turn.waited_ns) == (0, 7)


def test_openvino_knows_when_a_call_ended_however_late_its_thread_goes_on(monkeypatch):
    model = load_model("open-xs")
    backend = open_backend("openvino", BackendSettings(threads=1))
    backend.load(model)
    (request,) = backend.queue(1)
    image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
    begun_ns = time.monotonic_ns()
    request.infer(image)
    ended_ns, returned_ns = request.ended_ns, time.monotonic_ns()
    assert begun_ns < ended_ns < returned_ns
    monkeypatch.setattr(replay_turns.time, "monotonic_ns", lambda: returned_ns + 10**9)
    assert request.ended_ns == ended_ns
    with pytest.raises(BackendError):
        request.infer(image[:8])
    assert request.ended_ns == ended_ns
    backend.close()


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_each_thread_gets_what_is_its_own(name):
    """Runtimes that queue calls, and those that are called by one at a time."""
    model = load_model("open-xs")
    size = (model.input.height, model.input.width, 3)
    images = [np.full(size, value, np.uint8) for value in (20, 120, 220)]
    backend = open_backend(name, BackendSettings(threads=1))
    backend.load(model)
    expected = []
    for image in images:
        heads = backend.infer(image)
        expected.append([t.copy() for t in [*heads.boxes, *heads.classes]])

    def call(turn, image, tensors):
        for _ in range(10):
            heads = turn.infer(image)
            for one, other in zip([*heads.boxes, *heads.classes], tensors, strict=True):
                np.testing.assert_array_equal(one, other)

    with ThreadPoolExecutor(len(images)) as threads:
        list(threads.map(call, turns(backend, len(images)), images, expected))
    backend.close()
