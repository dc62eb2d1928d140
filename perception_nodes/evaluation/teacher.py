"""Detections of a stronger model as labels, for images that nobody has labelled."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.inference import Progress
from perception_nodes.evaluation.detector import Detector
from perception_nodes.evaluation.labels import DataError, LabelledImage, LabelledSet
from perception_nodes.networks.class_names import indices_of
from perception_nodes.networks.model import Model


def taught_set(
    teacher: Model,
    student: Model,
    name: str,
    images: Sequence[Path],
    min_score: float = 0.4,
    backend: str = "openvino",
    threads: int = 2,
    progress: Progress | None = None,
) -> LabelledSet:
    """Label images with the detections of a teacher, in the classes of the student.

    Args:
        teacher: the stronger model; its input may be larger.
        student: the model to compare with the teacher.
        name: name of the set.
        images: image files.
        min_score: lowest score of a detection that becomes a label.
        backend: name of the runtime.
        threads: number of threads for inference.
        progress: called with the number of images done and the number of all images.

    Raises:
        DataError: the teacher lacks a class of the student, or detects nothing at all.
        BackendError: the runtime is missing or refuses the teacher.
    """
    groups = [indices_of([label], teacher.classes) for label in student.classes]
    lacking = [label for label, group in zip(student.classes, groups, strict=True) if not group]
    if lacking:
        raise DataError(
            f"teacher {teacher.name} does not know {', '.join(lacking)}, which {student.name} "
            f"detects; its classes are {', '.join(teacher.classes)}: take a teacher with all of "
            f"{student.name}'s"
        )
    labelled, settings = [], DecodeSettings(score_threshold=min_score)
    bare = [LabelledImage.without_objects(path) for path in images]
    with Detector(teacher, backend, threads) as detector:
        for image, pixels, seen in detector.look_at(bare, progress):
            height, width = pixels.shape[:2]
            found = detector.objects(seen, groups, settings)
            boxes = found.boxes / np.array([width, height, width, height], np.float64)
            crowd = np.zeros(len(found), np.bool_)
            labelled.append(LabelledImage(image.path, boxes, found.classes, crowd))
    if not (objects := sum(len(image.classes) for image in labelled)):
        raise DataError(
            f"teacher {teacher.name} finds nothing at score {min_score:g} on the {len(images)} "
            f"images of {name}: lower --teacher-score, or take images of road traffic"
        )
    note = f"{objects} detections of {teacher.name} at score {min_score:g} stand for labels"
    return LabelledSet(name, tuple(student.classes), tuple(labelled), notes=(note,))
