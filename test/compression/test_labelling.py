"""Labels by several detectors: what they say is merged, weighed, and decided or masked."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("ensemble_boxes", reason="needs the build tools: make compression")
from model_compression.errors import CompressionError
from model_compression.labelling import views
from model_compression.labelling.boxes import GROUP_NAMES, NAMES, Boxes, overlaps
from model_compression.labelling.calibrate import right_objects
from model_compression.labelling.calibration import Calibration, fit
from model_compression.labelling.frames import Frame
from model_compression.labelling.fusion import Objects, fuse
from model_compression.labelling.held_out import HeldOut
from model_compression.labelling.kinds import Votes, vote
from model_compression.labelling.labeller import Probable, decide, probable
from model_compression.labelling.recipe import ImageSet, Labeller, Recipe, read_recipe
from model_compression.labelling.worker import Worker
from model_compression.labels import CLASSES

SIZE_PX = (200, 100)
FRAME = Frame("set", "a", "set/images/a.png")
RECIPE = Path("model_compression/configs/labels.yaml")
DETECTOR = {
    "name": "a",
    "kind": "yolox",
    "weights": "a.onnx",
    "views": ["whole"],
    "license": "Apache-2.0",
    "origin": "here",
    "trained_on": "COCO",
}
IMAGES = {"name": "set", "images": "set/images/*", "license": "CC BY 4.0", "origin": "here"}


def labeller(**given) -> Labeller:
    return Labeller(**{**DETECTOR, "least_score": 0, **given})


def image_set(**given) -> ImageSet:
    return ImageSet(**{**IMAGES, **given})


def recipe(images: ImageSet) -> Recipe:
    return Recipe(
        detectors=[labeller()],
        held_out=[],
        taught=dict.fromkeys(GROUP_NAMES, 0.5),
        ignored=dict.fromkeys(GROUP_NAMES, 0.1),
        sets=[images],
    )


def boxes(*rows: tuple) -> Boxes:
    """Each row is a name, a score and four corners."""
    return Boxes(
        np.array([row[2:] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([NAMES.index(row[0]) for row in rows], np.int64),
    )


def probables(**given) -> dict[str, Probable]:
    """By group, with `_` for a space or hyphen: rows of a probability, a kind, and corners."""
    found = {}
    for group in GROUP_NAMES:
        rows = given.get(group.replace(" ", "_").replace("-", "_"), [])
        kinds = np.array([[name in row[1] for name in CLASSES] for row in rows], float)
        found[group] = Probable(
            np.array([row[2:] for row in rows], float).reshape(-1, 4),
            np.array([row[0] for row in rows], float),
            kinds.reshape(-1, len(CLASSES)),
        )
    return found


def test_boxes_of_one_object_are_averaged_by_score():
    heard = [
        boxes(("car", 0.8, 10, 10, 50, 40), ("person", 0.6, 12, 10, 50, 40)),
        boxes(("vehicle", 0.4, 14, 10, 50, 44), ("truck", 0.5, 120, 20, 180, 80)),
    ]
    found = fuse(heard, [labeller(), labeller()], SIZE_PX)["vehicle"]
    mean = (np.array([10, 10, 50, 40]) * 0.8 + np.array([14, 10, 50, 44]) * 0.4) / 1.2
    order = found.corners[:, 0].argsort()
    places = [mean, [120, 20, 180, 80]]
    np.testing.assert_allclose(found.corners[order], places, rtol=1e-3, atol=0.02)
    np.testing.assert_allclose(found.evidence[order], [[0.8, 0.4], [0, 0.5]], rtol=1e-5)
    car, truck = CLASSES.index("car"), CLASSES.index("truck")
    np.testing.assert_allclose(found.kinds[order][:, [car, truck]], [[0.8, 0], [0, 0.5]], rtol=1e-5)


def test_a_box_speaks_for_one_object_alone():
    near = ("car", 0.9, 10, 10, 50, 40), ("car", 0.2, 28, 10, 68, 40)
    assert overlaps(boxes(near[0]).corners, boxes(near[1]).corners)[0, 0] < 0.5
    found = fuse([boxes(*near)], [labeller()], SIZE_PX)["vehicle"]
    assert sorted(found.evidence[:, 0].tolist()) == pytest.approx([0.2, 0.9])


def test_rider_and_motorcycle_are_two_whatever_a_voice_says():
    heard = [
        boxes(("motorcycle", 0.7, 20, 50, 60, 90), ("person", 0.6, 25, 20, 55, 75)),
        boxes(("two-wheeler", 0.9, 20, 20, 60, 90)),
    ]
    found = fuse(heard, [labeller(), labeller(joins_riders=True)], SIZE_PX)
    np.testing.assert_allclose(found["two-wheeler"].corners, [[20, 50, 60, 90]], atol=0.01)
    np.testing.assert_allclose(found["person"].corners, [[25, 20, 55, 75]], atol=0.01)
    # The box of both still says that there are such a two-wheeler and such a person.
    assert found["two-wheeler"].evidence[0, 1] == found["person"].evidence[0, 1] > 0.8


def test_probabilities_are_learned_where_there_is_enough_to_learn_from():
    rng = np.random.default_rng(0)
    evidence, heights = rng.uniform(0, 1, (20_000, 2)), rng.uniform(0.02, 0.5, 20_000)
    heard = np.clip(evidence, 0.03, 0.97)
    logits = np.log(heard / (1 - heard)) + np.log(0.97 / 0.03)
    true = 1 / (1 + np.exp(-(logits @ [1.2, 0.1] - 4)))
    right = rng.random(20_000) < true
    learned = fit(evidence, heights, right, np.array([0.5, 0.5]))
    assert np.abs(learned.probability(evidence, heights) - true).mean() < 0.02
    few = fit(evidence[:3], heights[:3], right[:3], np.array([0.5, 0.4]))
    np.testing.assert_allclose(few.weights[:2], [0.5, 0.4], atol=0.05)


def test_unsure_objects_are_masked_and_sure_ones_taught():
    found = probables(
        vehicle=[
            (0.9, ("car",), 10, 10, 50, 40),
            (0.8, ("bus", "truck"), 60, 10, 90, 40),
            (0.7, ("car",), 12, 20, 30, 39),
            (0.3, ("car",), 100, 10, 150, 40),
            (0.05, ("car",), 160, 10, 190, 40),
        ],
        two_wheeler=[(0.9, (), 10, 50, 30, 90)],
    )
    images = image_set()
    labels = decide(FRAME, SIZE_PX, found, np.empty((0, 5)), images, recipe(images))
    assert [CLASSES[i] for i in labels.classes] == ["car", "bus"]
    np.testing.assert_allclose(labels.scores, [0.9, 0.8])
    masks = [
        (box, {CLASSES[i] for i in np.flatnonzero(classes)})
        for box, classes in zip(labels.ignored_boxes.tolist(), labels.ignored_classes, strict=True)
    ]
    assert masks == [
        ([60, 10, 90, 40], {"car", "truck"}),
        ([12, 20, 30, 39], {"car", "bus", "truck"}),
        ([100, 10, 150, 40], {"car", "bus", "truck"}),
        ([10, 50, 30, 90], {"person", "bicycle", "motorcycle"}),
    ]


def test_what_people_labelled_is_theirs():
    people = np.array([[0, 10, 10, 50, 40], [1, 100, 0, 140, 40], [2, 60, 50, 100, 100]], float)
    found = probables(
        vehicle=[(0.9, ("truck",), 12, 10, 50, 40), (0.8, ("car",), 150, 10, 190, 40)],
        two_wheeler=[(0.4, ("motorcycle",), 62, 70, 98, 100), (0.9, ("bicycle",), 10, 60, 30, 90)],
        person=[(0.7, ("person",), 65, 50, 90, 90)],
    )
    images = image_set(people={0: "vehicle"}, crowd={1: ["vehicle"]}, ridden={2})
    labels = decide(FRAME, SIZE_PX, found, people, images, recipe(images))
    # The kind of the vehicle is the detectors'; its box is people's.
    assert [CLASSES[i] for i in labels.classes] == ["person", "truck", "motorcycle"]
    np.testing.assert_allclose(labels.scores, [0.7, 1, 0.9])
    np.testing.assert_allclose(labels.boxes[1], [10, 10, 50, 40])
    ignored = labels.ignored_boxes[:, 0].tolist()
    assert ignored == [100, 150, 10]  # the crowd, and what people have not labelled


def test_objects_are_right_where_people_labelled_them_once():
    corners = np.array([[10, 10, 50, 40], [12, 10, 52, 40], [100, 10, 150, 40], [0, 60, 30, 90.0]])
    objects = Objects(corners, np.array([[0.9], [0.5], [0.8], [0.7]]), np.zeros((4, 8)))
    people = np.array([[0, 10, 10, 50, 40], [1, 90, 0, 160, 50]], float)
    images = image_set(people={0: "car"}, crowd={1: ["vehicle"]})
    right, judged = right_objects(objects, "vehicle", people, images)
    assert right.tolist() == [True, False, False, False]
    assert judged.tolist() == [True, True, False, True]


@pytest.mark.parametrize("view", ["mirror", "tiles", "fine"])
def test_boxes_of_a_view_are_in_pixels_of_the_frame(view):
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[20:32, 130:150] = 255

    class Bright:
        def detect(self, picture: np.ndarray) -> Boxes:
            rows, columns = np.nonzero(picture[:, :, 0])
            if not len(rows):
                return Boxes.none()
            edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            return boxes(("car", 1, *edges))

    np.testing.assert_allclose(views.VIEWS[view](Bright(), frame).corners, [[130, 20, 150, 32]])


def test_what_a_tile_cuts_is_left_to_others():
    corners = np.array([[0, 0, 20, 20], [50, 20, 100, 40], [2, 2, 95, 95]], np.float32)
    inner = np.array([False, False, True, True])
    assert views.whole_in_tile(corners, (100, 100), inner).tolist() == [True, False, False]


def test_frames_that_are_held_back_are_known_mirrored_too(tmp_path):
    rng = np.random.default_rng(0)
    shown = [cv2.resize(rng.integers(0, 255, (6, 9, 3), np.uint8), (160, 90)) for _ in range(2)]
    cv2.imwrite(str(tmp_path / "a.png"), shown[0])
    held_out = HeldOut.read([tmp_path / "a.png"])
    assert held_out.has(cv2.resize(cv2.flip(shown[0], 1), (320, 180)))
    assert not held_out.has(shown[1])


def test_labels_of_what_is_now_held_back_are_removed(tmp_path):
    picture = tmp_path / FRAME.image
    picture.parent.mkdir(parents=True)
    cv2.imwrite(str(picture), np.arange(3 * 90 * 160, dtype=np.uint8).reshape(90, 160, 3))
    FRAME.file(tmp_path).write_text("{}")
    held_out = HeldOut.read([picture])
    assert not Worker(recipe(image_set()), tmp_path, tmp_path, {}, held_out).label(FRAME)
    assert not FRAME.file(tmp_path).exists()


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("sets", "license", "CC BY-NC 4.0", "is not for products"),
        ("sets", "license", "", "nobody has said"),
        ("sets", "people", {0: "tram"}, "'tram' is none of"),
        ("detectors", "license", "AGPL-3.0", "only with its source"),
        ("detectors", "name", "nanodet", "two are named 'nanodet'"),
    ],
)
def test_what_products_may_not_use_is_refused(tmp_path, part, key, value, reason):
    given = yaml.safe_load(RECIPE.read_text())
    read_recipe(RECIPE)
    given[part][0][key] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(CompressionError, match=reason):
        read_recipe(path)


def test_the_kind_is_voted_on_an_enlarged_crop_once(tmp_path):
    box = np.array([60.0, 20, 100, 40])
    seen = []

    class Detector:
        def detect(self, crop: np.ndarray) -> Boxes:
            seen.append(crop.shape)
            cars = ("car", 0.4, 20, 20, 60, 40), ("car", 0.9, 0, 0, 9, 9)
            return boxes(("bus", 0.7, 21, 20, 60, 40), *cars)

    votes = Votes(tmp_path / "a.npz")
    found = votes.of(box, lambda: vote(Detector(), np.zeros((100, 200, 3), np.uint8), box))
    votes.write()
    assert seen == [(60, 80, 3)]
    np.testing.assert_allclose(found[[CLASSES.index("bus"), CLASSES.index("car")]], [0.7, 0.4])
    again = Votes(tmp_path / "a.npz").of(box + 0.5, lambda: pytest.fail("was voted on before"))
    np.testing.assert_array_equal(again, found)


def test_the_own_vehicle_is_no_object():
    corners = np.array([[0.0, 0, 200, 90], [10, 10, 50, 40]])
    objects = Objects(corners, np.full((2, 1), 0.4), np.zeros((2, 8)))
    found = probable(objects, Calibration(np.array([1.0, 0, 0, 0, -4])), SIZE_PX)
    assert found.probabilities.tolist() == pytest.approx([0.27, 0], abs=0.02)
