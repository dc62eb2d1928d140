"""Training from a road detector's maps and soft labels: views, assignment, a step, going on."""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics", reason="needs the build tools: make compression")

import model_compression
from model_compression.contract import REG_MAX
from model_compression.distillation import readers
from model_compression.distillation.__main__ import write_checkpoint
from model_compression.distillation.config import (
    Images,
    Material,
    Readers,
    Recipe,
    Stage,
    read_recipe,
)
from model_compression.distillation.folders import write_folders
from model_compression.distillation.intel import (
    BLOCKS,
    STEM,
    WIDTH,
    IntelNetwork,
    Inverted,
    Original,
    Towers,
)
from model_compression.distillation.intel_training import IntelTrainer
from model_compression.distillation.loss import Grid, assign, label_loss, unknown
from model_compression.distillation.teacher import Teacher
from model_compression.distillation.thresholds import best_score, move_scores
from model_compression.distillation.training import BEGUN, STATE, rate
from model_compression.distillation.views import Frame, Known, Pool, View, draw_view
from model_compression.distillation.weather import EFFECTS, worsen
from model_compression.errors import CompressionError
from model_compression.frames import letterboxed
from model_compression.labels import CLASSES, Labels, write
from model_compression.model import count_gmac
from model_compression.train import Maps, to_tensor
from perception_nodes.evaluation.matching import ClassMatches
from perception_nodes.networks.model import load_model
from perception_nodes.networks.terms import Terms, terms_of

SIZE = (96, 64)
DATA = Path(os.environ.get("PERCEPTION_DATA", ""))
INTEL = DATA / "open/weights/person-vehicle-bike-detection-2004.xml"
CAR = CLASSES.index("car")
MAPS = [(32, 8), (96, 16), (320, 32), (WIDTH, 8), (WIDTH, 16), (WIDTH, 32)]
"""Channels and strides of a network's maps."""


def known(boxes=(), classes=(), scores=(), ignored=(), of=()):
    masks = [[name in one for name in CLASSES] for one in of]
    return Known(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(scores, np.float32),
        np.array(ignored, np.float32).reshape(-1, 4),
        np.array(masks, bool).reshape(-1, len(CLASSES)),
    )


def recipe(steps=10, **changed):
    usual = {"batch": 2, "warm_up_steps": 2, "readers": Readers(views=8, steps=2, batch=4)}
    return Recipe(
        stages=(Stage(until=steps, size=SIZE),),
        data=Path(),
        teacher="none.xml",
        license="Apache-2.0",
        teachers=(Material(name="a teacher", license="MIT"),),
        sources=(Images(name="none", images="*.jpg", license="CC0"),),
        **(usual | changed),
    )


def frame_of(folder, picture, box):
    """A frame on the disk that shows a car."""
    cv2.imwrite(str(folder / "a.png"), picture)
    one, none = np.array([box], np.float32), np.zeros((0, 4), np.float32)
    classes, scores = np.array([CAR]), np.ones(1, np.float32)
    masks = np.zeros((0, len(CLASSES)), bool)
    labels = Labels("a.png", None, "a", picture.shape[1::-1], one, classes, scores, none, masks)
    return Frame(folder / "a.png", labels)


def pictures_in(folder):
    """Write ten pictures that a recipe's source matches."""
    rng = np.random.default_rng(0)
    for index in range(10):
        picture = rng.integers(0, 255, (16, 24, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.jpg"), cv2.resize(picture, SIZE))


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    shapes = [(c, SIZE[1] // stride, SIZE[0] // stride) for c, stride in MAPS]
    return [
        View(
            rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8),
            known([[10, 10, 50, 40]], [CAR], [0.8], [[60, 0, 96, 64]], [["person"]]),
            [rng.normal(size=shape).astype(np.float16) for shape in shapes],
        )
        for _ in range(2)
    ]


@pytest.fixture
def frames(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    return [frame_of(tmp_path, picture, [30, 20, 70, 50])]


def begin(trainer, frames, until=lambda: False):
    return trainer.begin(frames, lambda _: None, until)


class Tiny(Original):
    """A network like Intel's, of random weights."""

    def __init__(self):
        torch.manual_seed(0)
        self._backbone, into = [torch.nn.Conv2d(3, STEM, 3, 2, 1)], STEM
        for wide, out, stride in ((STEM, 16, 1), *BLOCKS):
            block = Inverted.of(into, wide, out, stride)
            self._backbone += [block.expand, block.depthwise, block.project]
            into = out
        names = {f"neck.fpn_convs.{i}.conv.weight": (WIDTH, 3) for i in range(3)}
        towers = [f"bbox_head.{k}_convs.{i}.conv.weight" for k in ("cls", "reg") for i in range(4)]
        names |= dict.fromkeys(towers, (WIDTH, 3)) | {"bbox_head.atss_cls.weight": (9, 3)}
        self._named = {
            name: torch.nn.Conv2d(WIDTH, out, side, padding=side // 2)
            for name, (out, side) in names.items()
        }
        for i, (channels, _) in enumerate(MAPS[:3]):
            lateral = torch.nn.Conv2d(channels, WIDTH, 1)
            self._named[f"neck.lateral_convs.{i}.conv.weight"] = lateral
        self._norms = {name: (torch.ones(WIDTH), torch.zeros(WIDTH)) for name in towers}


@pytest.mark.skipif(not INTEL.is_file(), reason="needs Intel's network in PERCEPTION_DATA")
def test_a_network_filled_with_the_original_makes_its_maps():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(8)]
    seen = [cv2.GaussianBlur(picture, (0, 0), 5) for picture in noise]
    columns = zip(*map(Teacher(INTEL, SIZE).maps, seen), strict=True)
    wanted = [torch.from_numpy(np.stack(column)).float() for column in columns]
    network = IntelNetwork(len(CLASSES)).eval()
    Original(INTEL).fill(network)
    maps = Maps(network, network.stages[1:])
    with torch.no_grad():
        network(to_tensor(seen))
    for ours, theirs in zip(maps.all, wanted, strict=True):
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999


def test_sums_of_the_pyramid_are_convolutions():
    original = Tiny()
    pyramid = original.pyramid()
    lateral = [original._named[f"neck.lateral_convs.{i}.conv.weight"] for i in range(3)]
    smooth = pyramid.smooth[1]
    maps = [torch.randn(1, c, 8 >> i, 8 >> i) for i, (c, _) in enumerate(MAPS[:3])]
    with torch.no_grad():
        wanted = smooth(lateral[1](maps[1]) + pyramid.up(lateral[2](maps[2])))
        assert torch.allclose(pyramid(maps)[1], wanted, atol=1e-5)


def test_classes_are_read_from_the_towers_of_boxes_too():
    head, maps = Towers(len(CLASSES)), [torch.rand(1, WIDTH, 16 >> i, 16 >> i) for i in range(3)]
    with torch.no_grad():
        before = head(maps)
        head.box[0][-2].bias += 1
        changed = [bool((a != b).any()) for a, b in zip(before, head(maps), strict=True)]
    assert changed == [True, False, False, True, False, False]


def test_folding_changes_no_output():
    network = IntelNetwork(len(CLASSES)).eval()
    small, images = network.for_inference(), torch.rand(1, 3, *SIZE[::-1])
    assert count_gmac(small, SIZE) < count_gmac(network, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(small(images), network(images), rtol=1e-5, atol=1e-4)


def test_normalisation_is_folded_into_the_towers():
    original, network = Tiny(), IntelNetwork(len(CLASSES))
    original.fill(network)
    head = network.model[-1]
    maps = [3 + 2 * torch.randn(4, WIDTH, 16 >> i, 16 >> i) for i in range(3)]
    original.normalise(head, maps)
    with torch.no_grad():
        for branch, level in zip(head.classes, maps, strict=True):
            found = branch[2](torch.relu(branch[0](level)))
            assert torch.allclose(found.mean((0, 2, 3)), torch.zeros(WIDTH), atol=1e-3)
            assert torch.allclose(
                found.var((2, 3), correction=0).mean(0), torch.ones(WIDTH), atol=0.01
            )


@pytest.mark.parametrize("seed", range(6))
def test_a_views_boxes_lie_on_what_it_shows(tmp_path, seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((120, 200, 3), np.uint8)
    image[30:90, 60:150] = 255
    frame = frame_of(tmp_path, image, [60, 30, 150, 90])
    view = draw_view([frame], SIZE, (0.75, 2.0), rng)
    shown = np.zeros(SIZE[::-1], bool)
    for left, top, right, bottom in np.concatenate([view.known.boxes, view.known.ignored_boxes]):
        shown[round(top) : round(bottom), round(left) : round(right)] = True
    white = view.picture[..., 0] > 185  # the padding is grey
    assert white.any()
    assert (shown != white).mean() < 0.03
    assert set(view.known.classes) <= {CAR}


def test_what_is_cut_or_small_is_ignored():
    seen = known(
        [[0, 0, 20, 20], [-90, 0, 10, 20], [200, 0, 220, 20], [5, 5, 7, 7]],
        [CAR, 0, 0, 1], [1, 1, 1, 1],
    ).placed(np.array([[1, 0, 0], [0, 1, 0]]), (0, 0, 96, 64))  # fmt: skip
    assert seen.boxes.tolist() == [[0, 0, 20, 20]]
    assert seen.ignored_boxes.tolist() == [[0, 0, 10, 20], [5, 5, 7, 7]]
    assert [np.flatnonzero(one).tolist() for one in seen.ignored_classes] == [[0], [1]]
    flipped = seen.placed(np.array([[-2, 0, 96], [0, 2, 0]]), (0, 0, 96, 64))
    assert flipped.boxes.tolist() == [[56, 0, 96, 40]]


def test_a_training_ends_when_no_views_can_be_drawn():
    pool = Pool(Mock(side_effect=OSError("the disk is gone")), None, 4, 1)
    with pytest.raises(CompressionError, match="no view.*disk is gone"):
        pool.choose(1, 1, None)


@pytest.mark.parametrize("name", ["open-m", "open-n"])
def test_the_recipe_of_the_open_family_is_one_for_products(monkeypatch, name):
    for variable in ("PERCEPTION_DATA", "PERCEPTION_LABELS"):
        monkeypatch.setenv(variable, "/nowhere")
    known = read_recipe(Path(model_compression.__file__).parent / f"configs/{name}.yaml")
    for one in (*known.teachers, *known.sources):
        assert terms_of(one.license) <= Terms.JUDGED, one.name


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"stages": [{"until": 4, "size": SIZE}, {"until": 3, "size": SIZE}]}, "until"),
        ({"pool": 1}, "less than batch"),
        ({"data": "${NOWHERE}"}, "NOWHERE"),
        ({"labels": "${NOWHERE}"}, "NOWHERE"),
    ],
)
def test_a_recipe_that_cannot_be_trained_by_is_refused(tmp_path, changed, named):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe().model_dump(mode="json") | changed))
    with pytest.raises(CompressionError, match=rf"recipe\.yaml.*{named}"):
        read_recipe(file)


def test_frames_without_labels_are_left_out(tmp_path):
    pictures_in(tmp_path)
    given = recipe().model_copy(update={"data": tmp_path, "labels": tmp_path})
    with pytest.raises(CompressionError, match="none: .* has no labels"):
        given.frames()
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    known = frame_of(tmp_path, image, [1, 2, 30, 40]).labels
    write(replace(known, image="3.jpg"), tmp_path / "a" / "3.json")
    (frame,) = given.frames()
    assert frame.path.name == "3.jpg"
    cv2.imwrite(str(frame.path), image[:8])
    with pytest.raises(CompressionError, match="label it again"):
        frame.read()


def test_weather_changes_pictures_and_keeps_their_shape():
    rng = np.random.default_rng(0)
    picture = rng.integers(80, 200, (64, 96, 3), np.uint8)
    for effect in EFFECTS:
        worse = effect(picture, rng)
        assert worse.dtype == np.uint8 and worse.shape == picture.shape
        assert (worse != picture).any(), effect.__name__
    assert worsen(picture, rng).shape == picture.shape


def outputs_for(grid, boxes, logit):
    """Maps of a head whose every cell sees the box and class CAR by that logit."""
    side = torch.cat([grid.centres_px - boxes[:2], boxes[2:] - grid.centres_px], 1)
    place = (side / grid.strides_px[:, None]).clamp(0, REG_MAX - 1)
    steps = torch.arange(REG_MAX)
    bins = -40 * (steps - place[..., None]).abs().clamp(max=1)
    classes = torch.full((len(side), len(CLASSES)), -8.0)
    classes[:, CAR] = logit
    maps, first = [], 0
    for stride in (8, 16, 32):
        shape = SIZE[1] // stride, SIZE[0] // stride
        cells = slice(first, first + shape[0] * shape[1])
        first = cells.stop
        maps.append((bins[cells].flatten(1).T.reshape(1, -1, *shape),
                     classes[cells].T.reshape(1, -1, *shape)))  # fmt: skip
    return [one for one, _ in maps] + [one for _, one in maps]


def test_an_object_goes_to_the_cells_that_see_it_best():
    grid = Grid(SIZE)
    target, cells, owner = assign(
        grid,
        torch.full((len(grid.centres_px), len(CLASSES)), 0.5),
        torch.tensor([10.0, 10, 50, 40]).repeat(len(grid.centres_px), 1),
        known([[10, 10, 50, 40], [70, 44, 75, 49]], [CAR, 0], [0.8, 0.4]),
    )
    assert target.max(0).values[CAR] == pytest.approx(0.8, abs=1e-4)
    assert 0 < target[:, 0].max() <= 0.4  # a small one, seen by nobody yet, has cells too
    centres = grid.centres_px[cells]
    assert ((centres[owner == 0] > 10) & (centres[owner == 0] < 50)).all()


def test_the_loss_falls_with_what_is_right_and_leaves_out_what_is_unknown():
    grid, box = Grid(SIZE), torch.tensor([8.0, 8, 72, 56])
    seen = known([box.tolist()], [CAR], [1.0])
    right = sum(label_loss(grid, outputs_for(grid, box, 2.0), [seen])[1:])
    assert right < sum(label_loss(grid, outputs_for(grid, box + 12, 2.0), [seen])[1:]) / 2
    nobody = known(ignored=[[0, 0, *SIZE]], of=[["car"]])
    maps = outputs_for(grid, box, 2.0)
    assert label_loss(grid, maps, [nobody])[0] == pytest.approx(0, abs=1e-4)
    assert label_loss(grid, maps, [known()])[0] > 1
    assert unknown(grid, known(ignored=[[0, 0, 9, 9]], of=[["bus"]])).any(0).nonzero().tolist() == [
        [CLASSES.index("bus")]
    ]


def test_a_training_goes_on_where_it_was_stopped_and_from_a_checkpoint(tmp_path, views, frames):
    trainer, stage = IntelTrainer(recipe(), tmp_path, Tiny()), Stage(until=10, size=SIZE)
    assert begin(trainer, frames)
    losses = [trainer.learn(views, stage) for _ in range(3)]
    assert set(losses[0]) == {"classes", "boxes", "bins", *(f"map_{i}" for i in range(6))}
    trainer.save()
    write_checkpoint(tmp_path, tmp_path / "half.pt", 0.5)
    half = torch.load(tmp_path / "half.pt", weights_only=True)["average"]
    first, last = torch.load(tmp_path / BEGUN, weights_only=True), trainer.average.state_dict()
    for name, value in half.items():
        assert torch.allclose(value.float(), (first[name] + last[name]) / 2, rtol=1e-3, atol=1e-4)
    write_checkpoint(tmp_path, tmp_path / "open.pt")
    new = IntelTrainer(recipe(), tmp_path / "new", Tiny(), tmp_path / "open.pt")
    assert new.step == 3
    wanted = trainer.average.state_dict()
    torch.testing.assert_close(new.model.state_dict(), wanted, rtol=1e-3, atol=1e-4)
    again = IntelTrainer(recipe(), tmp_path, Tiny())
    assert again.step == 3
    assert again.learn(views, stage) == pytest.approx(trainer.learn(views, stage), rel=1e-3)


def test_a_training_begins_with_the_readers_alone_or_anew(tmp_path, frames):
    trainer, original = IntelTrainer(recipe(), tmp_path, Tiny()), IntelNetwork(len(CLASSES))
    assert not begin(trainer, frames, lambda: True)
    assert not (tmp_path / STATE).exists()
    before = [one.clone() for part in trainer.model.fresh for one in part.parameters()]
    assert begin(trainer, frames)
    Tiny().fill(original)
    for name, value in original.state_dict().items():
        if not name.startswith("model.6."):
            assert torch.equal(value, trainer.average.state_dict()[name])
    after = [one for part in trainer.average.fresh for one in part.parameters()]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    assert IntelTrainer(recipe(), tmp_path, Tiny()).begun


def test_what_is_computed_once_is_what_the_readers_read(frames, monkeypatch):
    monkeypatch.setattr(readers, "pictures", lambda views, _: to_tensor([v.picture for v in views]))
    network, rng = IntelNetwork(len(CLASSES)).eval(), np.random.default_rng(0)
    view = draw_view(frames, SIZE, (1, 1), rng)
    ends, known = readers.compute_ends(
        network, Tiny(), lambda: view, 8, rng, lambda _: None, lambda: False
    )
    assert len(known) == len(ends[0]) == 8
    with torch.no_grad():
        found = [one[:1].float() for one in network.model[-1].read(map(torch.Tensor.float, ends))]
        wanted = [*network(to_tensor([view.picture]))]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0.02)


def test_what_is_kept_learns_slowly_or_not_at_all(tmp_path, views, frames):
    trainer = IntelTrainer(recipe(warm_up_steps=0, learning_rate=1e-3), tmp_path, Tiny())
    assert begin(trainer, frames)
    for kept in (0, 0.1):
        before = {name: value.clone() for name, value in trainer.model.named_parameters()}
        trainer.learn(views, Stage(until=10, size=SIZE, kept=kept))
        moved = {name for name, v in trainer.model.named_parameters() if (v != before[name]).any()}
        assert any(name.startswith("model.6.read_box.0.2") for name in moved)
        assert any(name.startswith("model.3.") for name in moved) == (kept > 0)


def test_the_learning_rate_rises_stays_and_falls():
    settings = recipe(steps=100, warm_up_steps=10, decay=0.2, learning_rate=1.0)
    found = [rate(settings, step, 40) for step in (40, 49, 70, 90, 99)]
    assert found == pytest.approx([0.1, 1, 1, 0.5, 0.05])


def test_a_state_of_another_network_is_named(tmp_path):
    IntelTrainer(recipe(), tmp_path, Tiny()).save()
    state = torch.load(tmp_path / STATE, weights_only=True)
    del state["model"]["model.0.wide.bias"]
    torch.save(state, tmp_path / STATE)
    with pytest.raises(CompressionError, match=r"state.pt is of another network"):
        IntelTrainer(recipe(), tmp_path, Tiny())
    torch.save(state["model"], tmp_path / "weights.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")
    for name in ("weights", "damaged", "missing"):
        with pytest.raises(CompressionError, match=rf"{name}.pt is no checkpoint"):
            IntelTrainer(recipe(), tmp_path / "new", Tiny(), tmp_path / f"{name}.pt")


def test_a_checkpoint_is_not_taken_in_vain(tmp_path):
    IntelTrainer(recipe(), tmp_path, Tiny()).save()
    write_checkpoint(tmp_path, tmp_path / "done.pt")
    few, state = tmp_path / "few.pt", torch.load(tmp_path / "done.pt", weights_only=True)
    torch.save(state | {"step": 10}, tmp_path / "done.pt")
    with pytest.raises(CompressionError, match="has 10 steps"):
        IntelTrainer(recipe(), tmp_path / "new", Tiny(), tmp_path / "done.pt")
    torch.save(state | {"model": {name: one[:1] for name, one in state["model"].items()}}, few)
    with pytest.raises(CompressionError, match=r"another network than .*few\.pt"):
        IntelTrainer(recipe(), tmp_path, Tiny(), few)
    with pytest.raises(CompressionError, match="of 1 classes"):
        IntelTrainer(recipe(), tmp_path / "new", Tiny(), few)


def test_a_checkpoint_becomes_a_model(tmp_path, views, frames):
    pictures_in(tmp_path)
    trainer = IntelTrainer(recipe(), tmp_path, Tiny())
    assert begin(trainer, frames)
    trainer.learn(views, Stage(until=10, size=SIZE))
    trainer.save()
    given = recipe().model_copy(update={"data": tmp_path})
    folders = write_folders(given, tmp_path / STATE, "tiny", (128, 96), tmp_path / "models", 1)
    assert [folder.name for folder in folders] == ["tiny-float", "tiny"]
    seen = {"image": next(letterboxed([tmp_path / "0.jpg"], (128, 96)))[1][None]}
    files = [onnxruntime.InferenceSession(next(one.glob(f"*.{kind}.onnx")))
             for one, kind in zip(folders, ("float", "u8"), strict=True)]  # fmt: skip
    for exact, rounded in zip(*(file.run(None, seen) for file in files), strict=True):
        assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.8  # of random weights
    model = load_model(str(folders[1]))
    assert list(model.classes) == list(CLASSES)
    assert (model.input.width, model.input.height) == (128, 96)
    described = yaml.safe_load((folders[1] / "model.yaml").read_text())
    assert described["license"] == "Apache-2.0"
    assert described["parent"] == "tiny-float"
    assert {one["name"] for one in described["data"]} == {"a teacher", "none"}
    assert (folders[1] / described["s8"]["file"]).is_file()


@pytest.mark.parametrize("seed", range(5))
def test_a_class_is_reported_from_its_best_score_on(seed):
    rng = np.random.default_rng(seed)
    right, scores = rng.random((2, 1, 30)) < 0.4, np.sort(rng.random((2, 30)))[:, ::-1]
    sets = [ClassMatches(np.zeros(30, int), s, r, ~r, np.array([25]))
            for s, r in zip(scores, right, strict=True)]  # fmt: skip

    def f1(least):
        reported = scores >= least
        return 2 * (right[:, 0] & reported).sum() / (reported.sum() + 50)

    assert f1(best := best_score(sets)) == max(map(f1, scores.ravel())) and best not in scores


def test_the_score_that_a_class_is_reported_from_becomes_the_shipped_one():
    network = IntelNetwork(2)
    features = [torch.rand(1, WIDTH, 4, 4) for _ in range(3)]
    before = network.model[-1](features)
    move_scores(network, ("car", "person"), {"person": 0.6})
    for old, new in zip(before, network.model[-1](features), strict=True):
        moved = torch.logit(torch.tensor(0.25)) - torch.logit(torch.tensor(0.6))
        assert torch.allclose(new[:, 1], old[:, 1] + moved * (old.shape[1] == 2), atol=1e-5)
        assert torch.equal(new[:, 0], old[:, 0])
