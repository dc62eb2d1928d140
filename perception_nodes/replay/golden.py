"""What a drive is known to give: kept in a file, and compared with what it gives now.

Machines differ in the last bits of a score, so a comparison has tolerances. An object whose score
lies that near to the threshold may come and go: it is counted, and is no change.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.replay.recording import FrameDetections, Recording

FORMAT = "perception golden 1"
SAME_OBJECT_IOU = 0.3
"""Two boxes of one class that overlap less are two objects."""


class GoldenError(ValueError):
    """A golden that cannot be compared with; the text says why and what to do."""


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same.

    Attributes:
        box_iou: IoU from which on a box has not moved.
        score: by which a score may differ.
    """

    box_iou: float = 0.8
    score: float = 0.1


class Kind(str, Enum):
    """What can change."""

    APPEARED = "appeared"
    VANISHED = "vanished"
    MOVED = "moved"
    SCORE = "score changed"
    FAILED = "frame gives no detections any more"
    RECOVERED = "frame gave no detections before"
    FRAME_MISSING = "frame is missing"
    FRAME_NEW = "frame is new"


class Thing(NamedTuple):
    """An object of a frame: class, score, and x1 y1 x2 y2 in source pixels."""

    label: str
    score: float
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        """In words."""
        x1, y1, x2, y2 = self.box
        return f"{self.label} {self.score:.2f} at {x1:.0f},{y1:.0f} ({x2 - x1:.0f}x{y2 - y1:.0f})"


class Change(NamedTuple):
    """One difference.

    Attributes:
        frame: its number in the drive.
        at_s: seconds since the first frame.
        kind: what changed.
        before, after: the object in the golden and now, where there is one.
    """

    frame: int
    at_s: float
    kind: Kind
    before: Thing | None = None
    after: Thing | None = None

    def __str__(self) -> str:
        """A line for people."""
        where = f"frame {self.frame} ({self.at_s:.2f} s): "
        if self.kind == Kind.MOVED and self.before and self.after:
            overlap = iou(_boxes([self.before]), _boxes([self.after]))[0, 0]
            return f"{where}{self.before} moved to {self.after}, IoU {overlap:.2f}"
        if self.kind == Kind.SCORE and self.before and self.after:
            return f"{where}{self.before} now has score {self.after.score:.2f}"
        thing = self.before or self.after
        return f"{where}{thing} {self.kind.value}" if thing else where + self.kind.value

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "frame": self.frame,
            "at_s": self.at_s,
            "kind": self.kind.value,
            "before": self.before,
            "after": self.after,
        }


Time = tuple[int, int]
"""Log time in nanoseconds, and how many earlier frames have the same one."""
Frames = dict[Time, list[Thing] | None]
"""Objects by the frame's time; None for a frame that gave no detections."""


@dataclass
class Golden:
    """What some drives gave.

    Attributes:
        made_with: model, its hash, backend, score_threshold.
        drives: by the drive's name.
    """

    made_with: dict[str, Any]
    drives: dict[str, Frames] = field(default_factory=dict)


def read_golden(path: Path) -> Golden:
    """Read a golden.

    Raises:
        GoldenError: it is not there, or not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GoldenError(
            f"golden {path} cannot be read: {error.strerror}; --update writes it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise GoldenError(f"golden {path} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise GoldenError(f"golden {path} is not of the format {FORMAT!r}; --update rewrites it")
    try:
        drives = {
            name: dict(
                zip(
                    numbered(_time_ns(time_ns) for time_ns, _ in frames),
                    (_things(rows) for _, rows in frames),
                    strict=True,
                )
            )
            for name, frames in content["drives"].items()
        }
        made_with = dict(content["made_with"])
        threshold = made_with["score_threshold"]
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise ValueError(f"score_threshold {threshold!r} is no number")
        if not 0 < threshold < 1:
            raise ValueError(f"score_threshold {threshold:g} is not between 0 and 1")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GoldenError(f"golden {path} is damaged ({error}); --update rewrites it") from error
    return Golden(made_with, drives)


def golden_text(golden: Golden) -> str:
    """A golden as JSON, a line a frame, so that version control shows what changed."""
    drives = []
    for name, frames in golden.drives.items():
        lines = ",\n   ".join(
            json.dumps([time_ns, None if things is None else list(map(_row, things))])
            for (time_ns, _), things in frames.items()
        )
        drives.append(f"{json.dumps(name)}: [\n   {lines}\n  ]")
    listed = ",\n  ".join(drives)
    return (
        f'{{\n "format": {json.dumps(FORMAT)},\n "made_with": {json.dumps(golden.made_with)},\n'
        f' "drives": {{\n  {listed}\n }}\n}}\n'
    )


def things_of(found: FrameDetections | None) -> list[Thing] | None:
    """A frame's objects."""
    if found is None:
        return None
    rows = zip(found.labels, found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [Thing(label, score, tuple(box)) for label, score, box in rows]


def frames_of(recording: Recording) -> Frames:
    """The objects of every frame of a replay, whose recording was read by number."""
    times = numbered(report.log_time_ns for report in recording.reports)
    return {
        time: things_of(recording.found(report))
        for time, report in zip(times, recording.reports, strict=True)
    }


def numbered(times_ns: Iterable[int]) -> Iterator[Time]:
    """Log times, those that are equal told apart by their order."""
    seen: Counter[int] = Counter()
    for time_ns in times_ns:
        yield time_ns, seen[time_ns]
        seen[time_ns] += 1


class Comparison:
    """A drive's frames against those of a golden, one after the other."""

    def __init__(self, expected: Frames, score_threshold: float, tolerance: Tolerance) -> None:
        """Take what is expected."""
        self._expected = dict(expected)
        self._start_ns = min(expected, default=(0, 0))[0]
        self._seen: Counter[int] = Counter()
        self._sure_score = score_threshold + tolerance.score
        self._tolerance = tolerance
        self.frames = 0
        self.doubtful = 0
        self.changes: list[Change] = []

    def frame(self, index: int, time_ns: int, found: list[Thing] | None) -> list[Change]:
        """What changed in a frame; each is asked for once."""
        self.frames += 1
        at_s = round((time_ns - self._start_ns) / 1e9, 3)
        time = (time_ns, self._seen[time_ns])
        self._seen[time_ns] += 1
        if time not in self._expected:
            changes = [Change(index, at_s, Kind.FRAME_NEW)]
        else:
            before = self._expected.pop(time)
            changes = [Change(index, at_s, *rest) for rest in self._between(before, found)]
        self.changes += changes
        return changes

    def finish(self) -> None:
        """Count the frames that did not come."""
        for number, (time_ns, _) in enumerate(self._expected):
            at_s = round((time_ns - self._start_ns) / 1e9, 3)
            self.changes.append(Change(self.frames + number, at_s, Kind.FRAME_MISSING))
        self._expected.clear()

    def as_json(self) -> dict[str, Any]:
        """For the summary."""
        kinds = Counter(change.kind.value for change in self.changes)
        return {
            "frames": self.frames,
            "frames_changed": len({change.frame for change in self.changes}),
            "kinds": dict(kinds.most_common()),
            "doubtful": self.doubtful,
            "tolerance": {"box_iou": self._tolerance.box_iou, "score": self._tolerance.score},
            "changes": [change.as_json() for change in self.changes],
            "lines": self.lines(),
        }

    def lines(self) -> list[str]:
        """The changes for people."""
        return [str(change) for change in self.changes]

    def _between(
        self, before: list[Thing] | None, after: list[Thing] | None
    ) -> list[tuple[Kind, Thing | None, Thing | None]]:
        if before is None or after is None:
            if before is after:
                return []
            return [(Kind.FAILED if after is None else Kind.RECOVERED, None, None)]
        changes: list[tuple[Kind, Thing | None, Thing | None]] = []
        pairs, gone, new = match_things(before, after)
        for old, now, overlap in pairs:
            if overlap < self._tolerance.box_iou:
                changes.append((Kind.MOVED, old, now))
            elif abs(old.score - now.score) > self._tolerance.score:
                changes.append((Kind.SCORE, old, now))
        for thing in (*gone, *new):
            if thing.score < self._sure_score:
                self.doubtful += 1
            elif thing in gone:
                changes.append((Kind.VANISHED, thing, None))
            else:
                changes.append((Kind.APPEARED, None, thing))
        return changes


def match_things(
    before: Sequence[Thing], after: Sequence[Thing]
) -> tuple[list[tuple[Thing, Thing, float]], list[Thing], list[Thing]]:
    """Objects of one class that overlap, best overlap first; then what is left of each side."""
    overlap = iou(_boxes(before), _boxes(after))
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
        [thing for index, thing in enumerate(before) if index not in rows],
        [thing for index, thing in enumerate(after) if index not in columns],
    )


def iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes [n, 4] with boxes [m, 4]: [n, m]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - overlap
    shares: NDArray[np.float64] = overlap / np.maximum(union, 1e-9)
    return shares


def _boxes(things: Sequence[Thing]) -> NDArray[np.float64]:
    return np.array([thing.box for thing in things], np.float64).reshape(-1, 4)


def _row(thing: Thing) -> list[Any]:
    return [thing.label, round(thing.score, 4), *(round(value, 1) for value in thing.box)]


def _time_ns(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise ValueError(f"{str(value)[:40]} is no log time in nanoseconds")
    return value


def _things(rows: Sequence[Sequence[Any]] | None) -> list[Thing] | None:
    if rows is None:
        return None
    things = []
    for label, score, *box in rows:
        x1, y1, x2, y2 = map(float, box)
        if not all(map(math.isfinite, (score, x1, y1, x2, y2))):
            raise ValueError(f"{label}: numbers are not finite")
        things.append(Thing(str(label), float(score), (x1, y1, x2, y2)))
    return things


def made_with_another_model(golden: Golden, made_with: Mapping[str, Any]) -> str:
    """A note where the golden's model is not the one that runs, empty where it is.

    Raises:
        GoldenError: its threshold is another one, so that objects come and go for that alone.
    """
    before, now = golden.made_with["score_threshold"], made_with["score_threshold"]
    if before != now:
        raise GoldenError(
            f"the golden was made with --score-threshold {before:g}, not {now:g}; give that one, "
            "or rewrite the golden with --update"
        )
    differing = [
        f"{key} {golden.made_with.get(key)!r}, now {made_with[key]!r}"
        for key in ("model", "model_sha256", "backend")
        if golden.made_with.get(key) != made_with[key]
    ]
    return f"the golden was made with {'; '.join(differing)}" if differing else ""
