"""Latency against accuracy: which models no other one beats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """A model in the picture.

    Attributes:
        name: its name.
        parent: its parent's name, if it has one.
        precision: precision of its arithmetic, which gives the colour.
        latency_ms: median latency.
        accuracy: mAP50-95.
    """

    name: str
    parent: str | None
    precision: str
    latency_ms: float
    accuracy: float

    @property
    def place(self) -> tuple[float, float]:
        """Where it is on the axes."""
        return self.latency_ms, self.accuracy


def front_of(points: Sequence[Point]) -> list[Point]:
    """Models that no other beats in both latency and accuracy, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def common_set(models: Sequence[dict[str, Any]]) -> str | None:
    """The first dataset that most of the models were measured on; None if there is none."""
    names = list(dict.fromkeys(name for model in models for name in model["map50_95"]))
    return max(names, key=lambda n: sum(n in m["map50_95"] for m in models), default=None)


def points_of(models: Sequence[dict[str, Any]], data: str) -> list[Point]:
    """The models that were measured on a dataset."""
    return [
        Point(
            model["name"],
            model["parent"],
            model["precision"],
            model["latency_ms"]["p50"],
            model["map50_95"][data],
        )
        for model in models
        if data in model["map50_95"]
    ]
