"""Golden files hold the known objects of a drive, and a replay is compared with them.

Machines differ in the last bits of a score, so a comparison has tolerances. An object whose score
is within the tolerance of the threshold may appear or vanish: it is counted as doubtful, and only
where there are many of them as a change.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_nodes.core.errors import InputError
from perception_nodes.report.changes import ObjectsByFrame, numbered
from perception_nodes.report.recording import DetectedObject

FORMAT = "perception golden 1"


class GoldenError(InputError):
    """A golden that cannot be used; the text gives the reason and the remedy."""


@dataclass
class Golden:
    """The objects of some drives.

    Attributes:
        made_with: model, its hash, backend, score_threshold.
        drives: frames by the drive's name.
    """

    made_with: dict[str, Any]
    drives: dict[str, ObjectsByFrame] = field(default_factory=dict)


def read_golden(path: Path) -> Golden:
    """Read a golden.

    Raises:
        GoldenError: the file is missing or malformed.
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
                    (_objects(rows) for _, rows in frames),
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
    """A golden as JSON with one frame on each line, so that version control shows changes."""
    drives = []
    for name, frames in golden.drives.items():
        lines = ",\n   ".join(
            json.dumps([time_ns, _rows(as_kept(objects))])
            for (time_ns, _), objects in frames.items()
        )
        drives.append(f"{json.dumps(name)}: [\n   {lines}\n  ]")
    listed = ",\n  ".join(drives)
    return (
        f'{{\n "format": {json.dumps(FORMAT)},\n "made_with": {json.dumps(golden.made_with)},\n'
        f' "drives": {{\n  {listed}\n }}\n}}\n'
    )


def as_kept(objects: Sequence[DetectedObject] | None) -> list[DetectedObject] | None:
    """The objects of a frame with the digits that a golden keeps, to be compared with it."""
    if objects is None:
        return None
    return [
        DetectedObject(label, round(score, 4), (round(a, 1), round(b, 1), round(c, 1), round(d, 1)))
        for label, score, (a, b, c, d) in objects
    ]


def _rows(objects: Sequence[DetectedObject] | None) -> list[list[Any]] | None:
    return None if objects is None else [[one.label, one.score, *one.box] for one in objects]


def _time_ns(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise ValueError(f"{str(value)[:40]} is no log time in nanoseconds")
    return value


def _objects(rows: Sequence[Sequence[Any]] | None) -> list[DetectedObject] | None:
    if rows is None:
        return None
    objects = []
    for label, score, *box in rows:
        x1, y1, x2, y2 = map(float, box)
        if not all(map(math.isfinite, (score, x1, y1, x2, y2))):
            raise ValueError(f"{label}: numbers are not finite")
        objects.append(DetectedObject(str(label), float(score), (x1, y1, x2, y2)))
    return objects


def made_with_another_model(golden: Golden, made_with: Mapping[str, Any]) -> str:
    """A note if the golden was made with another model, else an empty text.

    Raises:
        GoldenError: its score threshold differs, which alone makes objects appear or vanish.
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
