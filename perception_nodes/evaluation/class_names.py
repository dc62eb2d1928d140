"""Class names: which of a model's classes counts as a class of a set."""

import re
from collections.abc import Sequence

SYNONYMS = (
    ("person", "pedestrian", "people", "human"),
    ("bicycle", "bike", "pedal cycle"),
    ("car", "automobile"),
    ("motorcycle", "motorbike", "motobike"),
    ("bus", "coach"),
    ("truck", "lorry"),
    ("traffic light", "trafficlight", "traffic signal"),
    ("stop sign", "stopsign"),
)
"""Names of one thing, in the sets we know."""

_USUAL = {name: group[0] for group in SYNONYMS for name in group}


def usual_name(name: str) -> str:
    """The name that all synonyms share: `Motor-Bike` and `motorcycle` are one class."""
    plain = re.sub(r"[\s_-]+", " ", name).strip().lower()
    return _USUAL.get(plain, _USUAL.get(plain.replace(" ", ""), plain))


def indices_of(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Where classes of those names stand among a model's, synonyms included."""
    wanted = {usual_name(name) for name in names}
    return tuple(index for index, name in enumerate(classes) if usual_name(name) in wanted)
