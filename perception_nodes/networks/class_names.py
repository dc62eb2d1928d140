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


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def usual_name(name: str) -> str:
    """The common name of all synonyms: `Motor-Bike` and `motorcycle` are one class."""
    plain = _plain(name)
    return _USUAL.get(plain, _USUAL.get(plain.replace(" ", ""), plain))


def indices_of(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Indices of the classes with these names among a model's classes.

    Synonyms of a name count only where no class has the name itself: to a model that tells
    pedestrians from people, they are two classes.
    """
    found = set[int]()
    for name in names:
        own = {index for index, one in enumerate(classes) if _plain(one) == _plain(name)}
        alike = (i for i, one in enumerate(classes) if usual_name(one) == usual_name(name))
        found |= own or set(alike)
    return tuple(sorted(found))


def name_in(classes: Sequence[str], name: str) -> str:
    """The name of the one class of a model that counts as this one, else the usual name."""
    found = indices_of([name], classes)
    return classes[found[0]] if len(found) == 1 else usual_name(name)
