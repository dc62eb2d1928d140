"""The differences between two runs of a drive, object by object, within tolerances."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.geometry import pairwise_iou
from perception_nodes.report.recording import DetectedObject, FrameDetections, Recording

SAME_OBJECT_IOU = 0.3
"""Two boxes of one class with a smaller IoU are different objects."""
DOUBTFUL_SHARE = 0.5
"""Share of the objects near the score threshold that may come and go without being changes.

Between two runtimes on one machine it is a quarter.
"""
DOUBTFUL_OBJECTS = 5
"""Number of such objects that may always come and go, since a share of very few means nothing."""


@dataclass(frozen=True)
class Tolerance:
    """Which differences do not count.

    Attributes:
        box_iou: a box whose IoU with the earlier one is at least this has not moved.
        score: largest difference between two scores that are the same.
    """

    box_iou: float = 0.8
    score: float = 0.1


class ChangeKind(str, Enum):
    """Kinds of differences."""

    APPEARED = "appeared"
    VANISHED = "vanished"
    MOVED = "moved"
    SCORE = "score changed"
    FAILED = "frame gives no detections any more"
    RECOVERED = "frame gave no detections before"
    FRAME_MISSING = "frame is missing"
    FRAME_NEW = "frame is new"


class Change(NamedTuple):
    """One difference.

    Attributes:
        frame: index of the frame in the drive, or in the golden if the frame is missing.
        at_s: seconds since the first frame.
        kind: what changed.
        before, after: the object in the golden and in this run; None if there is none.
    """

    frame: int
    at_s: float
    kind: ChangeKind
    before: DetectedObject | None = None
    after: DetectedObject | None = None

    def __str__(self) -> str:
        """A line for people."""
        where = f"frame {self.frame} ({self.at_s:.2f} s): "
        if self.kind == ChangeKind.MOVED and self.before and self.after:
            overlap = pairwise_iou(_boxes([self.before]), _boxes([self.after]))[0, 0]
            return f"{where}{self.before} moved to {self.after}, IoU {overlap:.2f}"
        if self.kind == ChangeKind.SCORE and self.before and self.after:
            return f"{where}{self.before} now has score {self.after.score:.2f}"
        item = self.before or self.after
        return f"{where}{item} {self.kind.value}" if item else where + self.kind.value

    def as_json(self) -> dict[str, Any]:
        """The change as JSON holds it."""
        return {**self._asdict(), "kind": self.kind.value}


FrameTime = tuple[int, int]
"""Log time in nanoseconds, and the number of earlier frames with the same log time."""
ObjectsByFrame = dict[FrameTime, list[DetectedObject] | None]
"""The objects of each frame; None for a frame without detections."""


def objects_of(found: FrameDetections | None) -> list[DetectedObject] | None:
    """The objects of a frame; None where no detections were published."""
    return None if found is None else found.objects()


def frames_of(recording: Recording) -> ObjectsByFrame:
    """The objects of every frame of a replay whose recording was read with `by_number`."""
    times = numbered(report.log_time_ns for report in recording.reports)
    return {
        time: objects_of(recording.found(report))
        for time, report in zip(times, recording.reports, strict=True)
    }


def numbered(times_ns: Iterable[int]) -> Iterator[FrameTime]:
    """Number log times so that equal ones differ."""
    seen: Counter[int] = Counter()
    for time_ns in times_ns:
        yield time_ns, seen[time_ns]
        seen[time_ns] += 1


_Difference = tuple[ChangeKind, DetectedObject | None, DetectedObject | None]
"""A difference: its kind, the object before, and the object after."""


class Comparison:
    """Compares the frames of a drive with those of a golden, one after the other.

    Attributes:
        frames: number of frames compared so far.
        changes: changes found so far.
        doubtful: objects with a score near the threshold that are on one side only. They are
            changes, too, if there are so many that rounding is not the cause; see `finish`.
    """

    def __init__(
        self, expected: ObjectsByFrame, score_threshold: float, tolerance: Tolerance
    ) -> None:
        self._expected = dict(expected)
        self._places = {time: place for place, time in enumerate(expected)}
        self._start_ns = min(expected, default=(0, 0))[0]
        self._seen: Counter[int] = Counter()
        self._sure_score = score_threshold + tolerance.score
        self._tolerance = tolerance
        scores = [item.score for objects in expected.values() for item in objects or ()]
        self._expected_objects, self._found_objects = len(scores), 0
        near = sum(score < self._sure_score for score in scores)
        self._allowed = max(DOUBTFUL_OBJECTS, DOUBTFUL_SHARE * near)
        self.frames = 0
        self.doubtful: list[Change] = []
        self.changes: list[Change] = []

    def frame(self, index: int, time_ns: int, found: list[DetectedObject] | None) -> list[Change]:
        """Compare the next frame; returns its changes, without doubtful ones."""
        self.frames += 1
        self._found_objects += len(found or ())
        at_s = round((time_ns - self._start_ns) / 1e9, 3)
        time = (time_ns, self._seen[time_ns])
        self._seen[time_ns] += 1
        if time not in self._expected:
            changes = [Change(index, at_s, ChangeKind.FRAME_NEW)]
        else:
            before = self._expected.pop(time)
            every = [Change(index, at_s, *rest) for rest in self._between(before, found)]
            self.doubtful += filter(self._is_doubtful, every)
            changes = [change for change in every if not self._is_doubtful(change)]
        self.changes += changes
        return changes

    def finish(self) -> None:
        """Add the missing frames of the golden, and the doubtful objects if there are too many."""
        for time in self._expected:
            at_s = round((time[0] - self._start_ns) / 1e9, 3)
            self.changes.append(Change(self._places[time], at_s, ChangeKind.FRAME_MISSING))
        self._expected.clear()
        all_gone = self._expected_objects and not self._found_objects
        if all_gone or len(self.doubtful) > self._allowed:
            self.changes += self.doubtful
            self.doubtful = []

    def as_json(self) -> dict[str, Any]:
        """The comparison as the summary holds it."""
        return {
            "frames": self.frames,
            # A missing frame has its number in the golden, other frames have theirs in the drive.
            "frames_changed": len(
                {(change.frame, change.kind == ChangeKind.FRAME_MISSING) for change in self.changes}
            ),
            "expected_objects": self._expected_objects,
            "kinds": dict(Counter(change.kind.value for change in self.changes).most_common()),
            "doubtful": len(self.doubtful),
            "tolerance": {"box_iou": self._tolerance.box_iou, "score": self._tolerance.score},
            "changes": [change.as_json() for change in self.changes],
            "lines": self.lines(),
        }

    def lines(self) -> list[str]:
        """The changes for people."""
        return [str(change) for change in self.changes]

    def _between(
        self, before: list[DetectedObject] | None, after: list[DetectedObject] | None
    ) -> Iterator[_Difference]:
        if before is None or after is None:
            if before is not after:
                yield ChangeKind.FAILED if after is None else ChangeKind.RECOVERED, None, None
            return
        pairs, gone, new = match_objects(before, after)
        for old, now, overlap in pairs:
            if overlap < self._tolerance.box_iou:
                yield ChangeKind.MOVED, old, now
            elif abs(old.score - now.score) > self._tolerance.score:
                yield ChangeKind.SCORE, old, now
        yield from ((ChangeKind.VANISHED, item, None) for item in gone)
        yield from ((ChangeKind.APPEARED, None, item) for item in new)

    def _is_doubtful(self, change: Change) -> bool:
        """Whether rounding may have moved the object over the score threshold."""
        item = change.before or change.after
        one_sided = change.kind in (ChangeKind.VANISHED, ChangeKind.APPEARED)
        return one_sided and item is not None and item.score < self._sure_score


def match_objects(
    before: Sequence[DetectedObject], after: Sequence[DetectedObject]
) -> tuple[
    list[tuple[DetectedObject, DetectedObject, float]], list[DetectedObject], list[DetectedObject]
]:
    """Pair objects of one class by their IoU, greatest first.

    Returns:
        Pairs with their IoU, the objects of `before` and those of `after` that are in no pair.
    """
    overlap = pairwise_iou(_boxes(before), _boxes(after))
    same = np.array([[a.label == b.label for b in after] for a in before], bool)
    overlap = np.where(same.reshape(overlap.shape), overlap, 0.0)
    pairs = []
    while overlap.size and overlap.max() >= SAME_OBJECT_IOU:
        row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((int(row), int(column), float(overlap[row, column])))
        overlap[row], overlap[:, column] = 0, 0
    rows, columns = {row for row, _, _ in pairs}, {column for _, column, _ in pairs}
    return (
        [(before[row], after[column], value) for row, column, value in pairs],
        [item for index, item in enumerate(before) if index not in rows],
        [item for index, item in enumerate(after) if index not in columns],
    )


def _boxes(objects: Sequence[DetectedObject]) -> NDArray[np.float64]:
    return np.array([item.box for item in objects], np.float64).reshape(-1, 4)
