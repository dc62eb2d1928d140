"""A finished network learns kinds of vehicles, lights and signs, and keeps what it reports."""

import cv2
import numpy as np
import pytest
import yaml
from test_distillation import CAR, SIZE, frame_of, known, recipe

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics", reason="needs the build tools: make compression")

from model_compression.distillation.folders import write_folders
from model_compression.distillation.kinds import Before, KindsTrainer, losses_of, read_network
from model_compression.distillation.loss import Grid
from model_compression.distillation.network import RoadNetwork, folded
from model_compression.distillation.pastes import HIDDEN, Pasting, cuts_of
from model_compression.distillation.training import STATE
from model_compression.distillation.views import View
from model_compression.errors import CompressionError
from model_compression.labels import CLASSES
from model_compression.train import to_tensor

TRUCK = CLASSES.index("truck")


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = folded(RoadNetwork(len(CLASSES)))
    for one in made.parameters():
        one.data += 0.01 * torch.randn_like(one)  # equal biases would be stored once
    return made


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), np.uint8)


def kinds_recipe(folder, **changed):
    given = recipe(seed=1)
    kinds = given.kinds.model_copy(update={"size": SIZE, "warm_up_steps": 2, **changed})
    return given.model_copy(update={"kinds": kinds, "data": folder})


def test_a_network_learns_a_kind_and_keeps_how_surely_it_is_a_vehicle(tmp_path, network, picture):
    seen = known([[10, 10, 50, 40]], [TRUCK], [1.0])
    views = [View(picture, seen, Before(network).maps(picture))] * 2
    trainer = KindsTrainer(kinds_recipe(tmp_path, steps=40), tmp_path, network)
    losses = [trainer.learn(views, trainer.recipe.stages[0]) for _ in range(40)]
    assert losses[-1]["kinds"] < losses[0]["kinds"] / 2
    assert losses[-1]["kept"] < 1


def test_nothing_is_lost_by_a_network_that_did_not_change(network, picture):
    view = View(picture, known([[10, 10, 50, 40]], [CAR], [1.0]), Before(network).maps(picture))
    with torch.no_grad():
        outputs = network(to_tensor([picture]))
        found = losses_of(Grid(SIZE), outputs, [view])
        assert found["kept"] < 1e-3 and found["kept_boxes"] < 1e-3
        for one in outputs[3:]:
            one[:, CLASSES.index("bus")] += 9
        assert losses_of(Grid(SIZE), outputs, [view])["kept"] > 1


@pytest.mark.parametrize("hidden", [[], [[0, 0, *SIZE]]])
def test_signs_are_learned_where_they_are_known(network, picture, hidden):
    seen = known(ignored=hidden, of=[["traffic light", "stop sign"]] * len(hidden))
    view = View(picture, seen, Before(network).maps(picture))
    loss = losses_of(Grid(SIZE), network(to_tensor([picture])), [view])["signs"]
    assert (loss > 0) != bool(hidden)


@pytest.mark.parametrize("seed", range(8))
def test_pasted_objects_are_known_and_what_they_cover_is_not(tmp_path, seed):
    rng = np.random.default_rng(seed)
    frame = frame_of(tmp_path, rng.integers(0, 255, (200, 300, 3), np.uint8), [60, 90, 110, 130])
    (tmp_path / "cut").mkdir()
    cut = frame_of(tmp_path / "cut", np.zeros((200, 300, 3), np.uint8), [40, 40, 140, 120])
    cut.labels.classes[:] = TRUCK
    cuts = cuts_of([frame, cut])
    assert {name: len(found) for name, found in cuts.items() if found} == {"truck": 1}
    image, seen = Pasting(frame, cuts, 1.0, rng).read()
    changed = (image != frame.read()[0]).any(2)
    for left, top, right, bottom in np.concatenate([seen.boxes, seen.ignored_boxes]).astype(int):
        changed[top:bottom, left:right] = False
    assert changed.mean() < 1 - HIDDEN, "what lies outside is of objects that others hide"
    assert (seen.classes == TRUCK).any() == (image != frame.read()[0]).any()


def test_kinds_become_a_model_that_says_what_it_was_made_of(tmp_path, network, picture):
    for index in range(10):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), np.roll(picture, 3 * index, 1))
    given = kinds_recipe(tmp_path)
    KindsTrainer(given, tmp_path, network).save()
    made = tmp_path / "models" / "tiny-float"
    made.mkdir(parents=True)
    (made / "model.yaml").write_text("made: {distillation: {steps: 3}}")
    folders = write_folders(given, tmp_path / STATE, "new", (128, 96), tmp_path, of_kinds=made)
    described = yaml.safe_load((folders[1] / "model.yaml").read_text())
    kinds = {"of": "tiny-float", "steps": 0}
    assert described["made"] == {"distillation": {"steps": 3}, "kinds": kinds}
    same = read_network(folders[0]).state_dict()
    torch.testing.assert_close(dict(same), dict(network.state_dict()))
    with pytest.raises(CompressionError, match="cannot be read"):
        read_network(tmp_path / "none")
