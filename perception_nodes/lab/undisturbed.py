"""What the model detects on the undisturbed drive, and how far a run agrees with it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.core.frame import Detections
from perception_nodes.drives.bag import open_drive
from perception_nodes.evaluation.gate import agreement
from perception_nodes.replay.clocks import LockstepClock
from perception_nodes.replay.offline_camera import Camera, LoadedModel, ReplaySettings
from perception_nodes.report.recording import FrameDetections

DetectionsByFrame = Mapping[int, FrameDetections]
"""Detected objects by the number of their frame in the drive."""


def detect_undisturbed(
    drive: Path, frames: Iterable[int], parameters: Mapping[str, Any]
) -> DetectionsByFrame:
    """What the model detects without a deadline, frame by frame.

    Args:
        drive: the drive as it is played, without the faults.
        frames: numbers of the frames to look at.
        parameters: of the graph, for the model and its thresholds.

    Raises:
        BagError, ModelError, BackendError: the drive or the model cannot be used.
    """
    wanted = set(frames)
    names = ("model", "score_threshold", "iou_threshold", "across_classes", "undistort")
    settings = ReplaySettings(**{name: parameters[name] for name in names})
    with LoadedModel(settings) as loaded, open_drive(drive) as source:
        clock = LockstepClock(Camera(source.read, loaded, skip_late=False))
        chosen = (frame for frame in source.frames() if frame.index in wanted)
        outcomes = [(one.frame.index, one.found) for one in clock.outcomes(chosen)]
    return {index: found for index, found in outcomes if found is not None}


def agreement_share(expected: DetectionsByFrame, found: DetectionsByFrame) -> float | None:
    """The share of all confident objects that both contain; None if there is no such object."""
    frames = sorted(expected.keys() & found.keys())
    labels = sorted({label for one in (expected, found) for i in frames for label in one[i].labels})
    numbers = {label: number for number, label in enumerate(labels)}

    def numbered(one: FrameDetections) -> Detections:
        classes = np.array([numbers[label] for label in one.labels], np.int64)
        return Detections(one.boxes, one.scores, classes)

    both = agreement(
        [numbered(expected[index]) for index in frames],
        [numbered(found[index]) for index in frames],
    )
    return both.share if both.reference + both.other else None
