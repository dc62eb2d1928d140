"""What is known of a camera's objects at one instant, and when it is believed."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from perception_nodes.tracking import motion


@dataclass(frozen=True)
class TrackingSettings:
    """When tracks begin, go on and end.

    Attributes:
        sure_score: detections of at least this score are assigned before the others.
        birth_score: a detection begins a track only with at least this score.
        min_overlap: least IoU of a detection with where the track should be.
        other_class: is subtracted from this IoU if the classes differ.
        max_unseen_s: a track that was not detected for longer ends.
    """

    sure_score: float = 0.5
    birth_score: float = 0.4
    min_overlap: float = 0.2
    other_class: float = 0.1
    max_unseen_s: float = 1.0


class TrackState(IntEnum):
    """How sure it is that there is an object, and where; see `Track.msg`."""

    NEW = 0
    TRACKED = 1
    COASTED = 2


@dataclass(frozen=True, slots=True)
class Tracks:
    """n objects, in the order of their ids; `Tracks.msg` carries them.

    Attributes:
        time_ns: the instant for which all of this is stated, by the clock of the stamps.
        gap_ns: time between the stamps of the newest frame and the one before; 0 for the first.
        frames_without: frames between these two that gave no detections.
        reason: what is unusual, see `Tracks.msg`; empty if nothing is.
        ids: uint64 [n].
        states: uint8 [n], `TrackState`.
        classes: int64 [n], index into the model's class names.
        scores: float64 [n], of the newest detections.
        filters: boxes, velocities and their variances, see `motion.Filters`.
        age_s, unseen_s: float64 [n], since the first detection and since the last one.
        hits, misses: uint32 [n], frames with the object, and those without it since the last one.
    """

    time_ns: int
    gap_ns: int
    frames_without: int
    reason: str
    ids: NDArray[np.uint64]
    states: NDArray[np.uint8]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    filters: motion.Filters
    age_s: NDArray[np.float64]
    unseen_s: NDArray[np.float64]
    hits: NDArray[np.uint32]
    misses: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """[n, 4], x1 y1 x2 y2 in pixels of the source image."""
        return motion.corners(self.filters[:, motion.BOX])
