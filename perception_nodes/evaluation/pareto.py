"""Latency against accuracy: which models no other one beats."""

from collections.abc import Mapping, Sequence
from typing import Any

Places = Mapping[str, tuple[float, float]]
"""Median latency in milliseconds and mAP50-95 of models, by their names."""


def places_of(models: Sequence[dict[str, Any]], data: str | None) -> Places:
    """Places of the models that were measured on a dataset."""
    return {
        model["name"]: (model["latency_ms"]["p50"], model["map50_95"][data])
        for model in models
        if data in model["map50_95"]
    }


def front_of(places: Places) -> list[str]:
    """Models that no other beats in both latency and accuracy, fastest first."""
    front: list[str] = []
    for name in sorted(places, key=lambda one: (places[one][0], -places[one][1])):
        if not front or places[name][1] > places[front[-1]][1]:
            front.append(name)
    return front


def common_set(models: Sequence[dict[str, Any]]) -> str | None:
    """The first dataset that most of the models were measured on; None if there is none."""
    names = list(dict.fromkeys(name for model in models for name in model["map50_95"]))
    return max(names, key=lambda n: sum(n in m["map50_95"] for m in models), default=None)
