"""Golden files hold the known objects of a drive, and a replay is compared with them.

Machines differ in the last bits of a score, so a comparison has tolerances. An object whose score
is within the tolerance of the threshold may appear or vanish: it is counted as doubtful, and as a
change only if there are many of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from perception_nodes.core.errors import InputError, first_problem
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
    drives: dict[str, ObjectsByFrame]


class _MadeWith(BaseModel, extra="allow"):
    score_threshold: float = Field(gt=0, lt=1)


_Object = tuple[str, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
"""Label, score and box."""
_Frame = tuple[Annotated[int, Field(ge=0, lt=2**64)], list[_Object] | None]
"""Log time in nanoseconds, and objects."""


class _File(BaseModel):
    format: Literal["perception golden 1"]
    made_with: _MadeWith
    drives: dict[str, list[_Frame]]


def read_golden(path: Path) -> Golden:
    """Read a golden.

    Raises:
        GoldenError: the file is missing or malformed.
    """
    try:
        content = _File.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise GoldenError(f"golden {path} {why}; --update writes it") from error
    except ValidationError as error:
        problem = first_problem(error.errors())
        raise GoldenError(f"golden {path} is damaged ({problem}); --update rewrites it") from error
    drives = {}
    for name, frames in content.drives.items():
        times = numbered(time_ns for time_ns, _ in frames)
        drives[name] = dict(zip(times, (_objects(rows) for _, rows in frames), strict=True))
    return Golden(content.made_with.model_dump(), drives)


def _objects(rows: Sequence[_Object] | None) -> list[DetectedObject] | None:
    return None if rows is None else [DetectedObject(row[0], row[1], row[2:]) for row in rows]


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


def made_with_another_model(golden: Golden, made_with: Mapping[str, Any]) -> str:
    """A note if the golden was made with another model, else an empty text.

    Raises:
        GoldenError: its score threshold differs, which alone makes objects appear or vanish.
    """
    before, now = golden.made_with["score_threshold"], made_with["score_threshold"]
    if before != now:
        remedy = "give that one, or rewrite the golden with --update"
        made = f"--score-threshold {before:g}, not {now:g}"
        raise GoldenError(f"the golden was made with {made}; {remedy}")
    differing = [
        f"{key} {golden.made_with.get(key)!r}, now {made_with.get(key)!r}"
        for key in ("model", "model_sha256", "backend", "second_look")
        if golden.made_with.get(key) != made_with.get(key)
    ]
    return f"the golden was made with {'; '.join(differing)}" if differing else ""
