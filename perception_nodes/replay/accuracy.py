"""Mean average precision of a replay whose frames have labels."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.core.frame import Detections, FrameHeader
from perception_nodes.drives.bag import Drive
from perception_nodes.drives.schemas import DETECTIONS
from perception_nodes.evaluation.accuracy import (
    class_groups,
    labelled_objects,
    reported_objects,
    score_of,
)
from perception_nodes.evaluation.detector import renumbered
from perception_nodes.evaluation.labels import DataError, LabelledImage, LabelledSet
from perception_nodes.evaluation.matching import ALL_HEIGHTS, Objects, match, require_pycocotools
from perception_nodes.networks.model import Model
from perception_nodes.report.recording import (
    FrameDetections,
    Recording,
    ReportedFrame,
    detections_of,
)

NOT_AN_IMAGE = Path()


def accuracy(
    model: Model, drive: Drive, recording: Recording, labels: LabelledSet | None, labels_topic: str
) -> dict[str, Any]:
    """Measure the accuracy of the detections of a replay.

    Average precision is taken over the reported objects only. Objects below the score threshold
    are missing, so it is lower than that of `perception model evaluate`.

    Args:
        model: the model that was replayed.
        drive: the frames.
        recording: reports and detections of every frame.
        labels: labelled images; see `images_by_frame` for how they are assigned.
        labels_topic: `vision_msgs/msg/Detection2DArray` topic of the bag to use instead.

    Returns:
        Facts that JSON can hold: frames, objects, map50_95, map50, by_class, notes.

    Raises:
        DataError: no frame has labels, or their frames are not certain; or see `class_groups`.
        BagError: the bag has no such topic.
        EvaluationNotInstalled: pycocotools is not installed.
    """
    require_pycocotools()
    sizes = _sizes(recording.reports)
    if labels is not None:
        stamps_ns = {one.sequence: one.stamp_ns for one in recording.reports}
        data, images = labels, images_by_frame(labels, drive, stamps_ns)
    else:
        data, images = _of_topic(drive, labels_topic, recording.reports, sizes)
    groups, numbers, notes = class_groups(model, data)
    group_of = {
        model.classes[index]: group
        for group, indices in enumerate(groups.values())
        for index in indices
    }
    truth, found = [], []
    placer = model.input.preprocessor().placer
    for report in recording.reports:
        image, size = images.get(report.sequence), sizes.get(report.sequence)
        if image is None or size is None:
            continue
        header = FrameHeader(source_width=size[0], source_height=size[1])
        header.scale_y = placer.letterbox(*size).scale_y
        truth.append(labelled_objects(image, data, numbers, header))
        found.append(detected_objects(recording.found(report), group_of, header))
    matches = match(truth, found, len(groups))[ALL_HEIGHTS] if truth else []
    everywhere = np.ones(len(truth), np.int64)
    total = score_of(matches, everywhere)
    if total.map50_95 is None:
        raise DataError(f"{data.name}: no labelled object is on a frame that was processed")
    return {
        "labels": data.name,
        "frames": len(truth),
        **total.model_dump(),
        "by_class": {
            name: score_of([one], everywhere).model_dump()
            for name, one in zip(groups, matches, strict=True)
        },
        "notes": [
            *data.notes,
            *notes,
            "precision is averaged over the reported objects; an evaluation of the model also "
            "counts those below the score threshold",
        ],
    }


def _sizes(reports: Sequence[ReportedFrame]) -> dict[int, tuple[int, int]]:
    """Width and height of each frame.

    A frame that was never decoded, because it was superseded or damaged, gets the size of the frame
    before. Its labelled objects then count as not found.
    """
    known = ((one.source_width, one.source_height) for one in reports if one.source_width)
    size = next(known, (0, 0))
    sizes = {}
    for report in reports:
        if report.source_width:
            size = report.source_width, report.source_height
        if any(size):
            sizes[report.sequence] = size
    return sizes


def images_by_frame(
    labels: LabelledSet, drive: Drive, stamps_ns: Mapping[int, int]
) -> dict[int, LabelledImage]:
    """Labelled images by the frame's index in the drive.

    For an image folder they are assigned by file. For a bag they are assigned by the file's name,
    which is the frame's stamp in nanoseconds, or ends with the frame's index in the drive. A stamp
    of 0 counts as none, so `0.png` belongs to the first frame of a camera that sets no stamps.

    Args:
        labels: the images.
        drive: the frames.
        stamps_ns: the frames' recorded stamps by index.

    Raises:
        DataError: no image belongs to a frame, or several belong to one.
    """
    by_path = {image.path.resolve(): image for image in labels.images}
    by_stem: dict[str, list[LabelledImage]] = {}
    by_number: dict[int, list[LabelledImage]] = {}
    for image in by_path.values():
        by_stem.setdefault(image.path.stem, []).append(image)
        if digits := re.findall(r"\d+", image.path.stem):
            by_number.setdefault(int(digits[-1]), []).append(image)
    found = {}
    for index, stamp_ns in stamps_ns.items():
        if drive.frame_files:
            file = drive.frame_files[index]
            itself = by_path.get(file.resolve())
            images = [itself] if itself else by_stem.get(file.stem, [])
        else:
            of_stamp = by_stem.get(str(stamp_ns)) if stamp_ns else None
            images = of_stamp or by_number.get(index, [])
        if len(images) > 1:
            both = f"{images[0].path} and {images[1].path} belong to frame {index} of {drive.path}"
            remedy = "name a set with the images of this camera only"
            raise DataError(f"{labels.name}: both {both}; {remedy}")
        if images:
            found[index] = images[0]
    if not found:
        example = labels.images[0].path.name if labels.images else "none"
        raise DataError(
            f"{labels.name}: none of its {len(labels.images)} images (such as {example}) belongs "
            f"to a frame of {drive.path}; name image files by the frame's stamp in nanoseconds, "
            "or so that they end with its number, from 0"
        )
    return found


def _of_topic(
    drive: Drive, topic: str, reports: Sequence[ReportedFrame], sizes: Mapping[int, tuple[int, int]]
) -> tuple[LabelledSet, dict[int, LabelledImage]]:
    """Match labels recorded as detections with the frames, by stamp.

    Raises:
        DataError: no frame has labels, or several frames have the stamp of one label.
    """
    by_stamp: dict[int, list[int]] = {}
    for report in reports:
        by_stamp.setdefault(report.stamp_ns, []).append(report.sequence)
    rows: dict[int, FrameDetections] = {}
    for _, data in drive.messages(topic, DETECTIONS):
        stamp_ns, found = detections_of(data)
        frames = by_stamp.get(stamp_ns, [])
        if len(frames) > 1:
            both = f"has the stamp {stamp_ns}, as have frames {frames[0]} and {frames[1]}"
            remedy = "name labels by the numbers of the frames, with --labels"
            raise DataError(f"{drive.path}: a message of {topic} {both}; {remedy}")
        if frames:
            rows[frames[0]] = found
    if not rows:
        raise DataError(f"{drive.path}: no message of {topic} has the stamp of a frame")
    classes = tuple(sorted({label for found in rows.values() for label in found.labels}))
    images = {
        index: LabelledImage(
            NOT_AN_IMAGE,
            found.boxes.astype(np.float64) / np.array(sizes[index] * 2, np.float64),
            np.array([classes.index(label) for label in found.labels], np.int64),
            np.zeros(len(found), np.bool_),
        )
        for index, found in rows.items()
        if index in sizes
    }
    return LabelledSet(topic, classes, tuple(images.values())), images


def detected_objects(
    detections: FrameDetections | None, group_of: Mapping[str, int], header: FrameHeader
) -> Objects:
    """The detections of the measured classes, with the groups of these classes."""
    found = detections or FrameDetections.none()
    groups = np.array([group_of.get(label, -1) for label in found.labels], np.int64)
    all_of_them = Detections(found.boxes, found.scores, np.arange(len(found)))
    return reported_objects(renumbered(all_of_them, groups), header)
