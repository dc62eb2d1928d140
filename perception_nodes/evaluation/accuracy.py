"""A model's accuracy on a labelled set."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.errors import listed
from perception_nodes.core.frame import Detections, FrameHeader
from perception_nodes.core.inference import Progress
from perception_nodes.evaluation import matching
from perception_nodes.evaluation.detector import Detector, SecondLooks, Seen
from perception_nodes.evaluation.labels import DataError, LabelledImage, LabelledSet
from perception_nodes.networks.class_names import indices_of
from perception_nodes.networks.model import Model

BOOTSTRAP_DRAWS = 500
DARK = 60
"""Mean grey level below which an image counts as dark, as at night; of 0 to 255."""


class Score(BaseModel, frozen=True):
    """Accuracy on a part of the objects.

    Attributes:
        objects: number of labelled objects that count.
        map50_95: mean average precision over IoU 0.50 to 0.95; None if there is no object.
        map50: mean average precision at IoU 0.5.
    """

    objects: int
    map50_95: float | None
    map50: float | None


class OperatingPoint(BaseModel, frozen=True):
    """Accuracy of what is reported at run time, with its thresholds and at IoU 0.5.

    Attributes:
        score_threshold: lowest score of a reported object.
        precision: share of the reported objects that are labelled; None if none is reported.
        recall: share of the labelled objects that are reported; None if none is labelled.
        f1: harmonic mean of precision and recall.
        false_alarms: reported objects an image that are not labelled.
    """

    score_threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    false_alarms: float


class Evaluation(BaseModel, frozen=True):
    """A model's accuracy on a set.

    Attributes:
        model: name of the model.
        data: name of the set.
        images: number of images.
        map50_95: COCO mean average precision over the classes.
        map50: mean average precision at IoU 0.5.
        confidence: 95 % interval of `map50_95`, by bootstrap over the images.
        by_class: scores by the set's class names.
        recall: share of the labelled objects that are reported at run time, by the set's class
            names; None if none is labelled.
        by_height: scores by height in pixels of the network's input.
        by_light: scores on images that are `dark`, and on those that are `bright`.
        operating_point: precision and recall at run time.
        notes: what a reader of the figures should know.
    """

    model: str
    data: str
    images: int
    map50_95: float
    map50: float
    confidence: tuple[float, float]
    by_class: dict[str, Score]
    recall: dict[str, float | None]
    by_height: dict[str, Score]
    by_light: dict[str, Score]
    operating_point: OperatingPoint
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """What `model.yaml` says of it."""

        def parts(scores: dict[str, Score]) -> dict[str, Any]:
            return {
                name: {"objects": score.objects, "map50": score.map50}
                for name, score in scores.items()
                if score.objects
            }

        classes = parts(self.by_class)
        for name, score in classes.items():
            score["recall"] = round(self.recall[name] or 0.0, 5)
        precision = self.operating_point.precision
        return {
            "images": self.images,
            "map50_95": self.map50_95,
            "map50": self.map50,
            "confidence": list(self.confidence),
            "precision": None if precision is None else round(precision, 5),
            "classes": classes,
            "heights": parts(self.by_height),
            "light": parts(self.by_light),
        }


def evaluate(
    model: Model,
    data: LabelledSet,
    backend: str = "openvino",
    threads: int = 2,
    progress: Progress | None = None,
    cache_dir: str = "",
    across_classes: bool = False,
    second_look: int = 0,
) -> Evaluation:
    """Measure a model's accuracy.

    Args:
        model: the model.
        data: images and labels.
        backend: name of the runtime.
        threads: number of threads for inference.
        progress: called with the number of images done and the number of all images.
        cache_dir: folder of compiled models, empty for none.
        across_classes: whether boxes at run time are suppressed by those of other classes; average
            precision is always by class.
        second_look: second looks at each image.

    Raises:
        DataError: the set has no class of the model, no object that counts, or an image that
            cannot be decoded.
        BackendError: the runtime is missing or refuses the model.
        EvaluationNotInstalled: pycocotools is missing.
    """
    matching.require_pycocotools()
    groups, numbers, notes = class_groups(model, data)
    truth, dark = [], []
    ranked, reported = list[matching.Objects](), list[matching.Objects]()
    run_time_settings = DecodeSettings(across_classes=across_classes)
    classes = list(groups.values())
    with Detector(model, backend, threads, cache_dir) as detector:
        looks = SecondLooks(detector, list(groups), second_look)
        readers: tuple[Callable[[Seen], Detections], ...] = (
            lambda seen: detector.ranked(seen, classes),
            lambda seen: detector.objects(seen, classes, run_time_settings),
        )
        for image, pixels, seen in detector.look_at(data.images, progress):
            dark.append(pixels[::4, ::4].mean() < DARK)
            truth.append(labelled_objects(image, data, numbers, seen.header))
            found = [read(seen) for read in readers]
            if second_look:
                found = looks.joined(pixels, found, readers)
            for kept, one in zip((ranked, reported), found, strict=True):
                kept.append(reported_objects(one, seen.header))

    matches = matching.match(truth, ranked, len(groups))
    whole = matches[matching.ALL_HEIGHTS]
    run_time = matching.match(truth, reported, len(groups))[matching.ALL_HEIGHTS]
    night = np.array(dark, np.int64)
    everywhere = np.ones_like(night)
    total = score_of(whole, everywhere)
    if total.map50_95 is None or total.map50 is None:
        raise DataError(f"{data.name}: no labelled object counts, so there is nothing to measure")
    return Evaluation(
        model=model.name,
        data=data.name,
        images=len(truth),
        map50_95=total.map50_95,
        map50=total.map50,
        confidence=_confidence(whole, len(truth)),
        by_class={
            name: score_of([found], everywhere) for name, found in zip(groups, whole, strict=True)
        },
        recall={
            name: _operating_point([found]).recall
            for name, found in zip(groups, run_time, strict=True)
        },
        by_height={
            band: score_of(found, everywhere)
            for band, found in matches.items()
            if band != matching.ALL_HEIGHTS
        },
        by_light={"dark": score_of(whole, night), "bright": score_of(whole, 1 - night)},
        operating_point=_operating_point(run_time),
        notes=[*data.notes, *notes, *([looks.note()] if second_look else [])],
    )


class ClassGroups(NamedTuple):
    """Which classes of a model count as which of a set.

    Attributes:
        classes: indices of the model's classes, by the set's class names.
        numbers: by the set's class, its place in `classes`; -1 if it is left out.
        notes: on classes that are left out or counted together.
    """

    classes: dict[str, tuple[int, ...]]
    numbers: tuple[int, ...]
    notes: list[str]


def class_groups(model: Model, data: LabelledSet) -> ClassGroups:
    """Match the classes of a model and of a set.

    Raises:
        DataError: no class of the set is the model's, or two of them share some of its classes.
    """
    groups: dict[str, tuple[int, ...]] = {}
    numbers, unknown, notes = [], [], []
    for name in data.classes:
        numbers.append(-1)
        if name in data.ignored:
            continue
        mapped = data.counts_as.get(name, ())
        indices = indices_of(mapped or (name,), model.classes)
        strange = [one for one in mapped if not indices_of([one], model.classes)]
        if strange:
            notes.append(
                f"{name!r} is to count as {listed(strange)}, which {model.name} does not know"
            )
        if not indices:
            unknown.append(name)
            continue
        other = next((one for one, taken in groups.items() if set(taken) & set(indices)), name)
        shared = groups.setdefault(other, indices)
        numbers[-1] = list(groups).index(other)
        if other != name:
            notes.append(f"{other!r} and {name!r} count as one class")
        if set(shared) != set(indices):
            raise DataError(
                f"{data.name}: {other!r} and {name!r} both count as {model.name}'s "
                f"{model.classes[min({*shared} & {*indices})]!r}, and one of them as more than "
                "that; let them count as the same, or leave one out, by `counts_as` and `ignored` "
                "of the set's description"
            )
    if not groups:
        raise DataError(
            f"{data.name}: none of its classes ({listed(unknown, 8)}) is one of {model.name}'s "
            f"({', '.join(model.classes)}); say which counts as which with --classes-map"
        )
    if unknown:
        notes.append(f"classes that {model.name} does not know are left out: {listed(unknown, 8)}")
    judged = {index for indices in groups.values() for index in indices}
    rest = [name for index, name in enumerate(model.classes) if index not in judged]
    if rest:
        notes.append(f"classes that the set does not label are left out: {listed(rest, 8)}")
    return ClassGroups(groups, tuple(numbers), notes)


def labelled_objects(
    image: LabelledImage, data: LabelledSet, numbers: Sequence[int], header: FrameHeader
) -> matching.Objects:
    """The labels of an image, by the classes that are measured; `numbers` as in `ClassGroups`."""
    boxes = image.boxes * np.array([header.source_width, header.source_height] * 2)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    doubtful = (height < data.min_height_px) | (width > data.max_aspect * height)
    ignored = np.isin(image.classes, [i for i, n in enumerate(data.classes) if n in data.ignored])
    rows, classes = [], []
    for row, label in enumerate(image.classes.tolist()):
        # A detection of any class on an ignored object is not wrong.
        number = numbers[label]
        found = list(range(max(numbers) + 1)) if ignored[row] else [number] * (number >= 0)
        rows += [row] * len(found)
        classes += found
    chosen = np.array(rows, np.int64)
    return matching.Objects(
        boxes[chosen],
        np.array(classes, np.int64),
        height[chosen] * header.scale_y,
        np.ones(len(chosen)),
        (image.crowd | doubtful | ignored)[chosen],
    )


def reported_objects(detections: Detections, header: FrameHeader) -> matching.Objects:
    """Detections on an image, as objects to be matched with its labels."""
    boxes = detections.boxes.astype(np.float64)
    return matching.Objects(
        boxes,
        detections.classes,
        (boxes[:, 3] - boxes[:, 1]) * header.scale_y,
        detections.scores.astype(np.float64),
        np.zeros(len(boxes), bool),
    )


def score_of(matches: Sequence[matching.ClassMatches], weights: NDArray[np.int64]) -> Score:
    """Sum up the matches of some classes over the images, by how often each of these counts."""
    objects = int(sum(found.objects @ weights for found in matches))
    if not (by_class := _average_precisions(matches, weights)):
        return Score(objects=objects, map50_95=None, map50=None)
    mean = np.mean(by_class, axis=0)
    return Score(
        objects=objects, map50_95=round(float(mean.mean()), 5), map50=round(float(mean[0]), 5)
    )


def _average_precisions(
    matches: Sequence[matching.ClassMatches], weights: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    """Average precision of each class that occurs, at each IoU threshold."""
    found = (one.average_precision(weights) for one in matches)
    return [one for one in found if one is not None]


def _confidence(matches: Sequence[matching.ClassMatches], images: int) -> tuple[float, float]:
    """95 % interval of the mean average precision, by bootstrap over the images."""
    random = np.random.default_rng(0)
    draws = random.multinomial(images, np.full(images, 1 / images), size=BOOTSTRAP_DRAWS)
    means = [np.mean(found) for draw in draws if (found := _average_precisions(matches, draw))]
    low, high = np.percentile(means, [2.5, 97.5])
    return round(float(low), 5), round(float(high), 5)


def _operating_point(matches: Sequence[matching.ClassMatches]) -> OperatingPoint:
    right, wrong, objects = np.sum([found.counts(level=0) for found in matches], axis=0).tolist()
    precision = right / (right + wrong) if right + wrong else None
    recall = right / objects if objects else None
    return OperatingPoint(
        score_threshold=DecodeSettings.score_threshold,
        precision=precision,
        recall=recall,
        f1=None if precision is None or recall is None else 2 * right / (right + wrong + objects),
        false_alarms=wrong / len(matches[0].objects),
    )
