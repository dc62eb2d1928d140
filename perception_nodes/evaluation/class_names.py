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
"""Different names of the same class, in the sets that we know."""

_USUAL = {name: group[0] for group in SYNONYMS for name in group}


def usual_name(name: str) -> str:
    """The common name of all synonyms: `Motor-Bike` and `motorcycle` are one class."""
    plain = re.sub(r"[\s_-]+", " ", name).strip().lower()
    return _USUAL.get(plain, _USUAL.get(plain.replace(" ", ""), plain))


def indices_of(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Indices of the classes with these names, or synonyms of them, among a model's classes."""
    wanted = {usual_name(name) for name in names}
    return tuple(index for index, name in enumerate(classes) if usual_name(name) in wanted)
