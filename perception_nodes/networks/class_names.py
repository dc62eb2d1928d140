"""Class names: of a detector that is imported, and which counts as a class of a set."""

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_nodes.networks.model import ModelError, fault_of

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

COCO_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")
_UNUSED = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Numbers below 91 that no class of 2017 has."""
COCO_NUMBERS = [number for number in range(91) if number not in _UNUSED]

_USUAL = {name: group[0] for group in SYNONYMS for name in group}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def usual_name(name: str) -> str:
    """The common name of all synonyms: `Motor-Bike` and `motorcycle` are one class."""
    plain = _plain(name)
    return _USUAL.get(plain, _USUAL.get(plain.replace(" ", ""), plain))


def indices_of(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Indices of the classes with these names among a model's classes.

    Synonyms of a name count only if no class has the name itself: a model may have pedestrians and
    people as two classes.
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


def names_in(facts: Mapping[str, str]) -> list[str] | None:
    """The class names in a detector's metadata, if they are there as a list or by number."""
    names = python_value(facts.get("names", ""))
    if isinstance(names, dict):  # the keys of JSON are texts
        by_number = {str(number): name for number, name in names.items()}
        names = [by_number.get(str(number)) for number in range(len(names))]
        names = None if None in names else names
    return [str(name) for name in names] if isinstance(names, list) and names else None


def python_value(text: str) -> Any:
    """The Python value that a metadata entry is written as, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def names_of(
    file: Path, facts: Mapping[str, str], by_outputs: int | None, given: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The class names of a detector that is imported, and notes on where they are from.

    Args:
        file: file of the detector.
        facts: metadata in the file.
        by_outputs: number of classes that its outputs show; 0 or None if they leave it open.
        given: names that the user gives, which take precedence over those of the metadata.

    Raises:
        ModelError: there are no names, or not as many as classes, or they cannot be told apart.
    """
    by_metadata = names_in(facts)
    count = by_outputs or len(by_metadata or ())
    names = list(given) if given is not None else by_metadata
    notes, remedy = [], "give --classes FILE, a name a line"
    if names is None and "names" in facts:
        form = repr(facts["names"][:40])
        raise ModelError(f"{file} names its classes in a form that is not known ({form}); {remedy}")
    if names is None and count in (0, len(COCO_NAMES)):
        names = list(COCO_NAMES)
        notes.append("the file names no classes; taken for the 80 of COCO; --classes names others")
    if names is None:
        raise ModelError(f"{file} does not name its {count} classes; {remedy}")
    if count and len(names) != count:
        where = "--classes gives" if given is not None else "its metadata names"
        known = "outputs" if by_outputs else "metadata"
        raise ModelError(
            f"{file} has {count} classes by its {known}, {where} {len(names)} "
            f"({', '.join(names[:3])}…); give --classes with {count} names"
        )
    if fault := fault_of(names):
        raise ModelError(f"{file} has {fault}; give --classes")
    return names, notes
