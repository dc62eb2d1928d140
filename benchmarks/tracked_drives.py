"""Drives with known objects, to follow: generated ones with exact truth, and recorded benchmarks.

A generated drive has objects that accelerate, grow, cross and hide each other, detections with
noise, misses and false alarms, and frames that are lost or late.
"""

import configparser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.errors import InputError
from perception_nodes.core.frame import Detections
from perception_nodes.core.geometry import intersections_and_unions

Boxes = NDArray[np.float64]
WIDTH, HEIGHT = 1920, 1080
RATE_HZ = 30.0


class TracksError(InputError):
    """A sequence cannot be read; the text says why."""


@dataclass(frozen=True)
class TrackedFrame:
    """A frame with detections.

    Attributes:
        stamp_ns, published_ns: when it was captured, and when its detections were published.
        frames_without: frames before it that gave no detections.
        ids, boxes: the objects that are seen in it: int64 [n], and [n, 4], x1 y1 x2 y2.
    """

    stamp_ns: int
    published_ns: int
    frames_without: int
    detections: Detections
    ids: NDArray[np.int64]
    boxes: Boxes


@dataclass(frozen=True)
class TrackedDrive:
    """Frames in order.

    Attributes:
        truth_at: the boxes of some objects at any time; None where it is not known.
    """

    name: str
    frames: list[TrackedFrame]
    truth_at: Callable[[NDArray[np.int64], int], Boxes] | None = None


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in a generated drive.

    Attributes:
        lost: share of frames that are lost, in bursts of up to half a second.
        late: share of frames that are published up to 60 ms after their capture instead of 9.
        missed: share of objects that are not detected in a frame.
        false_alarms: mean number of false alarms a frame.
    """

    lost: float = 0.0
    late: float = 0.0
    missed: float = 0.03
    false_alarms: float = 0.2


GENERATED = {
    "clear": Trouble(),
    "poor detections": Trouble(missed=0.15, false_alarms=1.0),
    "lost frames": Trouble(lost=0.2),
    "late frames": Trouble(late=0.3),
}


def generated(name: str, objects: int, seconds: float = 60.0) -> TrackedDrive:
    """Generate a drive of one of the kinds in `GENERATED`."""
    trouble, random = GENERATED[name], np.random.default_rng(0)
    position = random.uniform([100, 300], [WIDTH - 100, 800], (objects, 2))
    size = random.uniform([30, 30], [160, 120], (objects, 2))
    sway_px = random.uniform([20, 2], [400, 40], (objects, 2))
    pace = random.uniform(0.2, 1.2, (objects, 4))  # rad/s
    phase = random.uniform(0, 2 * np.pi, (objects, 4))
    begin_s = random.uniform(-seconds / 3, seconds * 0.8, objects)
    end_s = begin_s + random.uniform(seconds / 12, seconds / 2, objects)
    nearness = random.permutation(objects)

    def truth_at(ids: NDArray[np.int64], time_ns: int) -> Boxes:
        turn = np.sin(pace[ids] * time_ns / 1e9 + phase[ids])
        centre = position[ids] + sway_px[ids] * turn[:, :2]
        half = size[ids] * (1 + 0.4 * turn[:, 2:3]) / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    frames: list[TrackedFrame] = []
    without, burst = 0, 0
    for number in range(round(seconds * RATE_HZ)):
        time_s = 1 + number / RATE_HZ
        stamp_ns = round(time_s * 1e9)
        if burst == 0 and random.random() < trouble.lost / 8:
            burst = int(random.integers(1, 16))
        if burst:
            burst, without = burst - 1, without + 1
            continue
        there = np.flatnonzero((begin_s < time_s) & (time_s < end_s))
        boxes = truth_at(there, stamp_ns)
        hidden = _hidden(boxes, nearness[there])
        ids, boxes = there[hidden < 0.7], boxes[hidden < 0.7]
        delay_ms = (
            random.uniform(9, 60) if random.random() < trouble.late else random.normal(7, 0.7)
        )
        frames.append(
            TrackedFrame(
                stamp_ns,
                stamp_ns + round(max(delay_ms, 4) * 1e6),
                without,
                _detected(boxes, ids, trouble, random),
                ids,
                boxes,
            )
        )
        without = 0
    return TrackedDrive(name, frames, truth_at)


def _hidden(boxes: Boxes, nearness: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest share of each box that one nearer object covers."""
    covered, _ = intersections_and_unions(boxes, boxes)
    covered *= nearness[None, :] > nearness[:, None]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shares: NDArray[np.float64] = covered.max(axis=1, initial=0) / area
    return shares


def _detected(
    boxes: Boxes, ids: NDArray[np.int64], trouble: Trouble, random: np.random.Generator
) -> Detections:
    seen = random.random(len(boxes)) >= trouble.missed
    boxes, labels = boxes[seen], ids[seen] % 2
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + random.normal(0, 0.03, boxes.shape) * sides
    scores = np.clip(random.normal(0.75, 0.15, len(boxes)), 0.25, 1)
    count = random.poisson(trouble.false_alarms)
    corners = random.uniform([0, 200], [WIDTH, 900], (count, 2))
    false = np.concatenate([corners, corners + random.uniform(20, 150, (count, 2))], axis=1)
    return Detections(
        np.concatenate([boxes, false]).astype(np.float32),
        np.concatenate([scores, random.uniform(0.25, 0.6, count)]).astype(np.float32),
        np.concatenate([labels, np.zeros(count, np.int64)]),
    )


def read_mot(folder: Path) -> TrackedDrive:
    """Read a sequence of MOTChallenge: `gt/gt.txt`, `det/det.txt`, `seqinfo.ini`.

    Raises:
        TracksError: a file is missing or damaged.
    """
    try:
        info = configparser.ConfigParser()
        info.read_string((folder / "seqinfo.ini").read_text(encoding="utf-8"))
        rate_hz = info.getfloat("Sequence", "frameRate")
        if not 0 < rate_hz < np.inf:
            raise ValueError(f"frameRate is {rate_hz:g}")
        truth = np.loadtxt(folder / "gt/gt.txt", delimiter=",", ndmin=2)[:, :7]
        found = np.loadtxt(folder / "det/det.txt", delimiter=",", ndmin=2)[:, :7]
        truth = truth[truth[:, 6] > 0]  # other rows do not count
        last = int(max(truth[:, 0].max(), found[:, 0].max()))
    except (OSError, ValueError, IndexError, configparser.Error) as error:
        raise TracksError(f"sequence {folder} is none of MOTChallenge: {error}") from error
    for rows in (truth, found):
        rows[:, 4:6] += rows[:, 2:4]
    frames = []
    for number in range(1, last + 1):
        stamp_ns = round(1e9 * (1 + number / rate_hz))
        own, there = found[found[:, 0] == number], truth[truth[:, 0] == number]
        detections = Detections(
            own[:, 2:6].astype(np.float32),
            own[:, 6].astype(np.float32),
            np.zeros(len(own), np.int64),
        )
        ids = there[:, 1].astype(np.int64)
        frames.append(TrackedFrame(stamp_ns, stamp_ns, 0, detections, ids, there[:, 2:6]))
    return TrackedDrive(folder.name, frames)
