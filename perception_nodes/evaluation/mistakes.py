"""What a detector gets wrong at run time, kind by kind and frame by frame.

The kinds are those of TIDE (Bolya et al., A General Toolbox for Identifying Object Detection
Errors, ECCV 2020), with its overlaps: from 0.5 a box is on an object, from 0.1 it touches one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.geometry import intersections_and_unions
from perception_nodes.core.inference import Progress
from perception_nodes.evaluation.accuracy import class_groups, labelled_objects, reported_objects
from perception_nodes.evaluation.detector import Detector
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.evaluation.matching import Objects
from perception_nodes.networks.model import Model

ON_IOU = 0.5
TOUCHES_IOU = 0.1
NOTHING = "nothing"


class BoxKind(Enum):
    """Kinds of reported boxes."""

    RIGHT = "right"
    IGNORED = "does not count"
    OTHER_CLASS = "other class"
    TWICE = "second box"
    MISPLACED = "misplaced"
    NOTHING = "nothing there"


MISTAKES = (BoxKind.OTHER_CLASS, BoxKind.TWICE, BoxKind.MISPLACED, BoxKind.NOTHING)


@dataclass(frozen=True)
class Judged:
    """The reported boxes of an image, and what is known of each.

    Attributes:
        image: the image and its labels.
        size_px: its width and height.
        truth: the labelled objects.
        found: the reported ones, best first.
        kinds: one for each reported box.
        objects: int64 [found], row in `truth` that the box is on or touches; -1 for none.
        missed: bool [truth], whether a labelled object that counts was not reported in its class.
    """

    image: LabelledImage
    size_px: tuple[int, int]
    truth: Objects
    found: Objects
    kinds: Sequence[BoxKind]
    objects: NDArray[np.int64]
    missed: NDArray[np.bool_]

    @property
    def mistakes(self) -> int:
        """Number of wrong boxes and missed objects."""
        return sum(kind in MISTAKES for kind in self.kinds) + int(self.missed.sum())


@dataclass(frozen=True)
class Examined:
    """A model's reports on a labelled set.

    Attributes:
        data: name of the set.
        classes: the set's classes that are judged; `Objects.classes` are indices of them.
        images: its images.
        notes: what a reader should know of the set, such as classes that are left out.
    """

    data: str
    classes: tuple[str, ...]
    images: Sequence[Judged]
    notes: Sequence[str] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Counts by class: objects `labelled` and `missed`, then its boxes by `BoxKind`'s value."""
        table = {}
        for index, name in enumerate(self.classes):
            row = {"labelled": 0, "missed": 0, **{kind.value: 0 for kind in BoxKind}}
            for one in self.images:
                counted = (one.truth.classes == index) & ~one.truth.crowd
                row["labelled"] += int(counted.sum())
                row["missed"] += int(one.missed[one.truth.classes == index].sum())
                for kind, label in zip(one.kinds, one.found.classes, strict=True):
                    row[kind.value] += int(label == index)
            table[name] = row
        return table

    def confusions(self) -> list[list[Any]]:
        """Rows of labelled classes: how often each was reported as each of `classes`.

        The last column counts objects that were reported as none, the last row boxes on nothing.
        """
        counts = np.zeros((len(self.classes) + 1, len(self.classes) + 1), int)
        for one in self.images:
            is_told = ~one.missed
            for kind, label, row in zip(one.kinds, one.found.classes, one.objects, strict=True):
                if kind in (BoxKind.RIGHT, BoxKind.OTHER_CLASS):
                    counts[one.truth.classes[row], label] += 1
                    is_told[row] = True
                elif kind is not BoxKind.IGNORED:
                    counts[-1, label] += 1
            np.add.at(counts[:, -1], one.truth.classes[~is_told], 1)
        names = [*self.classes, NOTHING]
        return [[name, *map(int, row)] for name, row in zip(names, counts, strict=True)]

    def reported(self) -> dict[str, tuple[int, list[tuple[float, bool]]]]:
        """Labelled objects and boxes that count, by class, for `precision_recall`."""
        labelled = self.counts()
        found: dict[str, tuple[int, list[tuple[float, bool]]]]
        found = {name: (labelled[name]["labelled"], []) for name in self.classes}
        for one in self.images:
            boxes = zip(one.kinds, one.found.classes, one.found.scores, strict=True)
            for kind, label, score in boxes:
                if kind is not BoxKind.IGNORED:
                    found[self.classes[label]][1].append((float(score), kind is BoxKind.RIGHT))
        return found


def examine(
    model: Model,
    data: LabelledSet,
    settings: DecodeSettings,
    backend: str = "openvino",
    threads: int = 2,
    progress: Progress | None = None,
) -> Examined:
    """Compare what a model reports at run time with the labels of a set.

    Args:
        model: the model.
        data: images and labels.
        settings: thresholds of the run time.
        backend: name of the runtime.
        threads: number of threads for inference.
        progress: called with the number of images done and the number of all images.

    Raises:
        DataError: see `class_groups`; or an image cannot be decoded.
        BackendError: the runtime is missing or refuses the model.
    """
    groups, numbers, notes = class_groups(model, data)
    images = []
    with Detector(model, backend, threads) as detector:
        for image, _, seen in detector.look_at(data.images, progress):
            truth = labelled_objects(image, data, numbers, seen.header)
            found = detector.objects(seen, list(groups.values()), settings)
            size = seen.header.source_width, seen.header.source_height
            images.append(judge(image, size, truth, reported_objects(found, seen.header)))
    return Examined(data.name, tuple(groups), images, [*data.notes, *notes])


def judge(image: LabelledImage, size_px: tuple[int, int], truth: Objects, found: Objects) -> Judged:
    """Judge each reported box; `found` is in order of scores, and better boxes choose first."""
    shared, union = intersections_and_unions(found.boxes, truth.boxes)
    area = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1, keepdims=True)
    # As in COCO, a part of an object that does not count may be reported by itself.
    overlaps = shared / np.maximum(np.where(truth.crowd, area, union), 1e-9)
    counts, taken = ~truth.crowd, np.zeros(len(truth.boxes), bool)
    kinds, objects = [], np.full(len(found.boxes), -1, np.int64)
    for row, (label, overlap) in enumerate(zip(found.classes, overlaps, strict=True)):
        same = truth.classes == label
        on, touches = overlap >= ON_IOU, overlap >= TOUCHES_IOU
        explanations = {
            BoxKind.RIGHT: on & same & counts & ~taken,
            BoxKind.IGNORED: on & same & truth.crowd,
            BoxKind.TWICE: on & same & taken,
            BoxKind.OTHER_CLASS: on & ~same & counts,
            BoxKind.MISPLACED: touches & same & counts,
        }
        kinds.append(next((k for k, among in explanations.items() if among.any()), BoxKind.NOTHING))
        if kinds[-1] is BoxKind.NOTHING:
            continue
        objects[row] = np.where(explanations[kinds[-1]], overlap, -1).argmax()
        if kinds[-1] is BoxKind.RIGHT:
            taken[objects[row]] = True
    return Judged(image, size_px, truth, found, kinds, objects, counts & ~taken)
