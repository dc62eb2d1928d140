"""The whole evaluation, with a network that sees what we tell it."""

import cv2
import numpy as np
import pytest

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import Detections, FrameHeader
from perception_nodes.core.inference import HeadTensors
from perception_nodes.evaluation import accuracy
from perception_nodes.evaluation.accuracy import evaluate
from perception_nodes.evaluation.detector import Detector, Seen
from perception_nodes.evaluation.labels import DataError, LabelledImage, LabelledSet
from perception_nodes.evaluation.teacher import taught_set
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.placement import Placement

BOX = np.array([[0.25, 0.25, 0.75, 0.75]])


class Seer(Detector):
    """Finds one car in the middle of every picture, as the model's class 2."""

    def __init__(self, model, backend, threads, cache_dir):
        self._model = model

    def look(self, image):
        height, width = image.shape[:2]
        header, size = FrameHeader(), (self._model.input.width, self._model.input.height)
        Placement.fit((width, height), size).describe(header, copies=0)
        return Seen(HeadTensors([], []), header)

    def ranked(self, seen, groups):
        found = [index for index, group in enumerate(groups) if 2 in group]
        size = np.array([seen.header.source_width, seen.header.source_height] * 2)
        boxes = np.repeat(BOX * size, len(found), axis=0).astype(np.float32)
        return Detections(boxes, np.full(len(found), 0.9, np.float32), np.array(found, np.int64))

    def objects(self, seen, groups, settings):
        return self.ranked(seen, groups)

    def __exit__(self, *_):
        pass


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(accuracy, "Detector", Seer)
    return load_model("open-n")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((100, 200, 3), np.uint8))
    return path


def image(path, label, box=BOX):
    return LabelledImage(path, box, np.array([label]), np.array([False]))


def test_a_perfect_detector_is_perfect(model, picture):
    data = LabelledSet("x", ("car", "person"), (image(picture, 0),) * 4)
    done = []
    result = evaluate(model, data, progress=lambda *state: done.append(state))
    assert result.map50_95 == result.map50 == pytest.approx(1)
    assert result.confidence == pytest.approx((1, 1))
    assert result.by_class["person"].map50_95 is None
    assert result.by_height[">=64"].objects == 4
    assert (result.by_light["dark"].objects, result.by_light["bright"].objects) == (4, 0)
    facts = result.facts()
    assert facts["classes"] == {"car": {"objects": 4, "map50": 1, "recall": 1}}
    assert facts["heights"] == {">=64": {"objects": 4, "map50": 1}}
    assert facts["precision"] == 1
    assert facts["light"] == {"dark": {"objects": 4, "map50": 1}}
    assert result.operating_point.f1 == pytest.approx(1)
    assert done[-1] == (4, 4)


def test_what_is_reported_as_a_class_that_nobody_labels_is_not_found():
    """A network that takes every car for a stop sign must not pass on a set without stop signs."""
    model = load_model("open-n")
    car, stop_sign = (model.classes.index(name) for name in ("car", "stop sign"))
    pixels = np.zeros((256, 416, 3), np.uint8)
    with Detector(model, "null", 1) as detector:
        heads, header = detector.look(pixels).heads, detector.look(pixels).header
        boxes = [np.zeros_like(level) for level in heads.boxes]
        classes = [np.full_like(level, -9) for level in heads.classes]
        seen = Seen(HeadTensors(boxes, classes), header)
        groups, settings = [(car,)], DecodeSettings()
        classes[0][0, car, 3, 3] = 2.0
        assert len(detector.objects(seen, groups, settings)) == 1
        classes[0][0, stop_sign, 3, 3] = 3.0
        assert len(detector.objects(seen, groups, settings)) == 0
        assert detector.ranked(seen, groups).scores.max() > 0.8


def test_a_label_may_be_any_of_several_classes(model, picture):
    images = (image(picture, 0),)
    assert evaluate(model, LabelledSet("x", ("lorry",), images)).map50_95 == 0
    found = LabelledSet("x", ("lorry",), images, counts_as={"lorry": ("truck", "car")})
    assert evaluate(model, found).map50_95 == pytest.approx(1)
    wrong = evaluate(model, LabelledSet("x", ("truck", "car"), images))
    assert wrong.operating_point.false_alarms == 1


def test_what_is_ignored_is_neither_right_nor_wrong(model, picture):
    away = np.array([[0.0, 0.0, 0.2, 0.2]])
    boxes = np.concatenate([BOX, away])
    ignored = LabelledImage(picture, boxes, np.array([1, 0]), np.zeros(2, bool))
    data = LabelledSet("x", ("car", "rider"), (ignored,), ignored=frozenset({"rider"}))
    result = evaluate(model, data)
    assert result.map50_95 == 0  # the car in the corner is missed
    assert result.operating_point.precision is None  # and nothing that counts was reported


def test_small_and_wide_boxes_are_ignored(model, picture):
    for limits in ({"min_height_px": 51}, {"max_aspect": 1.9}):
        data = LabelledSet("x", ("car",), (image(picture, 0),), **limits)
        with pytest.raises(DataError, match="nothing to measure"):
            evaluate(model, data)


def test_a_target_of_a_map_that_no_class_has_is_named(model, picture):
    data = LabelledSet("x", ("car",), (image(picture, 0),), counts_as={"car": ("car", "buss")})
    notes = evaluate(model, data).notes
    assert f"'car' is to count as buss, which {model.name} does not know" in notes


def test_two_classes_that_mean_one_of_the_model_are_one(model, picture):
    for labelled in (0, 1):
        mapped = {"van": ("car",)}
        data = LabelledSet("x", ("car", "van"), (image(picture, labelled),), counts_as=mapped)
        found = evaluate(model, data)
        assert (found.map50_95, found.recall) == (pytest.approx(1), {"car": 1.0})
        assert "'car' and 'van' count as one class" in found.notes


def test_classes_that_cannot_be_measured_are_named(model, picture):
    with pytest.raises(DataError, match="cow, sheep.*--classes-map"):
        evaluate(model, LabelledSet("x", ("cow", "sheep"), (image(picture, 0),)))
    mapped = {"lorry": ("truck", "car")}
    data = LabelledSet("x", ("car", "lorry"), (image(picture, 0),), counts_as=mapped)
    with pytest.raises(DataError, match="'car' and 'lorry' both count as .*'car'"):
        evaluate(model, data)


def test_a_teacher_with_other_classes_is_refused(picture):
    student = load_model("open-n")
    names = ["dog" if name == "stop sign" else name for name in student.classes]
    teacher = student.model_copy(update={"classes": names, "name": "odd"})
    with pytest.raises(DataError, match="teacher odd does not know stop sign"):
        taught_set(teacher, student, "x", [picture])
