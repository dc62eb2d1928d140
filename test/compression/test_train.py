"""A training that is killed while it measures, and the curve of what was measured."""

import csv

import numpy as np
import pytest
from scenes import write_labelled

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics")

from model_compression.config import Shape, Training
from model_compression.pipeline import add_row, keep
from model_compression.plain import PlainNetwork
from model_compression.train import Samples, train

SIZE = (64, 64)
SHAPE = Shape(widths=(32, 32, 32, 32), depths=(1, 1, 1, 1), stem_kernel=4, neck=32, head=32)


class Killed(BaseException):
    """In place of a signal."""


def test_what_was_being_measured_is_measured_again(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(2):
        image = rng.integers(0, 255, (64, 64, 3), np.uint8)
        write_labelled(tmp_path, f"{index}.jpg", ["0 0.5 0.5 0.6 0.6"], image)
    measured, kill_at = [], 2

    def measure(_network, facts):
        if facts["step"] == kill_at:
            raise Killed
        measured.append(facts["step"])

    def go_on():
        network, teacher = (PlainNetwork(SHAPE, "relu", 1) for _ in range(2))
        state = tmp_path / "state.pt"
        train(
            network,
            teacher,
            Samples(tmp_path),
            Training(epochs=3, batch=2, measure_every=1),
            size_px=SIZE,
            seed=0,
            state=state,
            report=lambda facts: None,
            measure=measure,
        )

    with pytest.raises(Killed):
        go_on()
    kill_at = None
    go_on()
    assert measured == [1, 2, 3]


def test_a_curve_has_each_step_of_a_stage_once(tmp_path):
    curve = tmp_path / "curve.csv"
    for stage, step, found in [("a", 1, 0.1), ("a", 2, 0.2), ("b", 1, 0.3), ("b", 2, 0.4)]:
        add_row(curve, {"stage": stage, "step": step, "cars": found})
    add_row(curve, {"stage": "b", "step": 1, "cars": 0.5, "vans": 0.6})
    with curve.open(newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    assert rows == [["a", "1", "0.1", ""], ["a", "2", "0.2", ""], ["b", "1", "0.5", "0.6"]]


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_share_of_the_weights_before_is_kept(share):
    network = PlainNetwork(SHAPE, "relu", 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for value in network.state_dict().values():
        value += 1
    keep(network, before, share)
    for name, value in network.state_dict().items():
        moved = 1 - share if value.is_floating_point() else 1
        assert torch.allclose(value, before[name] + moved), name
