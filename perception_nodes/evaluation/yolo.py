"""Labels in YOLO format: one text file for each image, one line for each object.

Coordinates are fractions of the image's width and height.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from perception_nodes.core.errors import listed
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.evaluation.labels import DataError, LabelledImage

ROUNDING = 1e-4
"""How far a coordinate may be outside the image: labels are written with few digits."""
MOST_CLASSES = 1_000_000
"""Largest class number that is accepted where there are no names."""
NO_BOX = re.compile(r"\s*\d+(\s+0(\.0*)?){4}\s*")
"""A line of zeros behind a class, which some tools write for an object without a box."""
_MARKS = ("classes.txt", "data.yaml")


def class_names(images: Path) -> tuple[str, ...]:
    """Class names by index, from `classes.txt` or the `names` in a YAML file beside `images/`.

    Raises:
        DataError: there is no such file, or it has no names.
    """
    folder = _images_root(images).parent
    listed = folder / "classes.txt"
    if listed.is_file():
        try:
            lines = listed.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            raise DataError(f"{listed} cannot be read: {error}") from error
        names: Sequence[str] = [line.strip() for line in "\n".join(lines).rstrip().splitlines()]
        if not all(names):  # the class numbers of the following names would be doubtful
            line = f"line {names.index('') + 1}"
            raise DataError(f"{listed}: {line} is empty; write one class a line")
    else:
        names = next(filter(None, map(_names_in, sorted(folder.glob("*.yaml")))), [])
    if not names:
        raise DataError(f"{folder} has neither {' nor '.join(_MARKS)} with the class names")
    return tuple(names)


def read_split(path: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """The images' folder of a split, `train` or `val`, of Ultralytics' `data.yaml`, and the names.

    Raises:
        DataError: it cannot be read, has no names, or does not say one folder for the split.
    """
    values, names = load_keys(path), _names_in(path)
    given = values.get(split)
    if not names or not isinstance(given, str) or given.endswith(".txt"):
        raise DataError(
            f"{path}: {'names' if not names else split} is {given if names else names!r}; write "
            f"class names, and a folder of images for each split: `{split}: images/{split}`"
        )
    # Relative to `path`, or to this file; Roboflow writes ../ before the folders beside it.
    places = [path.parent / folder / given for folder in (str(values.get("path") or ""), "", "")]
    places[-1] = path.parent / given.removeprefix("../")
    return next((place for place in places if place.is_dir()), places[0]), tuple(names)


def read_yolo(
    images: Path, files: Sequence[Path], classes: Sequence[str]
) -> tuple[list[LabelledImage], list[str]]:
    """Read the labels of images.

    Args:
        images: folder of the images: a folder named `images` beside `labels`, or one below it.
        files: image files in it.
        classes: class names by index.

    Returns:
        The images, and notes on oddities that are no reason to stop: images without a label file,
        which are background by YOLO's rules, label files without an image, which are left out,
        repeated lines, and boxes that the image's border cuts.

    Raises:
        DataError: a label is out of range or cannot be read, or there is no label file at all.
    """
    root = _images_root(images)
    found, errors, without = [], list[str](), list[Path]()
    expected = dict[Path, Path]()
    for path in files:
        label = label_file(path)
        if label in expected:
            raise DataError(
                f"{expected[label]} and {path} have one label file, {label.name}: rename or remove "
                "one of the two images"
            )
        expected[label] = path
    repeated, cut = list[Path](), list[Path]()
    for label, path in expected.items():
        if not label.is_file():
            without.append(path)
            found.append(LabelledImage.without_objects(path))
            continue
        rows = _read_file(label, len(classes), errors)
        once = distinct(rows)
        repeated += [label] * (len(rows) - len(once))
        centre, half = once[:, 1:3], once[:, 3:5] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        beyond = (boxes < -ROUNDING) | (boxes > 1 + ROUNDING)
        cut += [label] * int(beyond.any(axis=1).sum())
        boxes = boxes.clip(0, 1)  # as detections are clipped
        labels = once[:, 0].astype(np.int64)
        found.append(LabelledImage(path, boxes, labels, np.zeros(len(once), np.bool_)))
    if errors:
        raise DataError(f"{listed(errors, separator='; ')}; correct or remove these lines")
    if len(without) == len(files):
        raise DataError(
            f"none of the {len(files)} images of {images} has a label file, {label_file(files[0])} "
            "for one; put them there, or compare with a stronger model instead (--teacher)"
        )
    there = files_below(root.parent / "labels" / images.relative_to(root))
    others = [p for p in there if p.suffix == ".txt" and p not in expected]
    # A folder may be linked by several names, and is listed by one.
    known = {label.resolve() for label in expected} if others else set[Path]()
    orphans = sorted(p for p in others if p.name != "classes.txt" and p.resolve() not in known)
    odd = (
        (without, "images have no label file and count as empty"),
        (orphans, "label files have no image and are left out"),
        (repeated, "label lines repeat another one and count once"),
        (cut, "boxes leave their image and are cut at its border"),
    )
    return found, [f"{len(paths)} {text}: {paths[0]}" for paths, text in odd if paths]


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and of all below it; `Path.rglob` leaves out linked folders.

    Raises:
        DataError: a folder cannot be read.
    """
    files, seen = list[Path](), set[Path]()
    # Linked folders come last, so that files of a folder that is also there itself have its own
    # name.
    own, linked = [folder] * folder.is_dir(), list[Path]()
    while own or linked:
        place = own.pop() if own else linked.pop(0)
        real = place.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    kind = files
                    if entry.is_dir():  # raises an error if a link leads to a forbidden folder
                        kind = linked if entry.is_symlink() else own
                    kind.append(place / entry.name)
        except OSError as error:
            where = error.filename or place
            raise DataError(f"{where} cannot be read: {error.strerror}") from error
    return files


def label_file(image: Path) -> Path:
    """The file of an image's labels: below `labels`, beside the last `images` of its folders.

    Trainers of YOLO replace the last one too. Without such a folder the labels are beside the
    image.
    """
    if (folder := _folder_of_images(image.parent)) is None:
        return image.with_suffix(".txt")
    return folder.parent / "labels" / image.relative_to(folder).with_suffix(".txt")


def _images_root(images: Path) -> Path:
    """The folder of images, with labels beside it."""
    if (folder := _folder_of_images(images)) is None:
        raise DataError(
            f"{images} is not in a folder named images with labels beside it; name the folder that "
            "holds both, or compare with a stronger model instead (--teacher)"
        )
    return folder


def _folder_of_images(place: Path) -> Path | None:
    """The folder named `images` that a folder is, or is below."""
    return next((folder for folder in (place, *place.parents) if folder.name == "images"), None)


def load_keys(path: Path, parse: Callable[[str], Any] = parse_yaml) -> dict[str, Any]:
    """The keys of a file, YAML unless another parser is given.

    Raises:
        DataError: the file cannot be read, or holds no keys.
    """
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no keys")
    return values


def _names_in(path: Path) -> list[str]:
    names = load_keys(path).get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(f"{path}: names must be numbered 0, 1, ...; they are {list(names)}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list | None):
        raise DataError(f"{path}: names is {names!r}; write a list of class names")
    return [str(name) for name in names or []]


def _read_file(label: Path, classes: int, errors: list[str]) -> NDArray[np.float64]:
    """Read one label file, [n, 5] of class, centre and size; problems are added to `errors`."""
    rows = []
    for number, line in enumerate(label.read_text(errors="replace").splitlines(), start=1):
        if not line.strip() or NO_BOX.fullmatch(line):
            continue
        try:
            rows.append(read_line(line, classes))
        except ValueError as error:
            errors.append(f"{label}:{number}: {error}")
    return np.array(rows, np.float64).reshape(-1, 5)


def distinct(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows without repetitions, since nobody means two objects with one box."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def read_line(line: str, classes: int | None = None) -> list[float]:
    """Class, centre x and y, width and height.

    Args:
        line: of a label file.
        classes: how many there are, if that is known.

    Raises:
        ValueError: it is no label; the text says why.
    """
    parts = line.split()
    if len(parts) != 5:
        kind = "a polygon or oriented box" if len(parts) > 6 else "no box"
        form = "a line is 'class centre_x centre_y width height'"
        raise ValueError(f"{len(parts)} values are {kind}; {form}")
    last = MOST_CLASSES if classes is None else classes - 1
    if not re.fullmatch(r"\d+(\.0*)?", parts[0]) or float(parts[0]) > last:
        raise ValueError(f"class {parts[0]!r} is not one of 0 to {last}")
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise ValueError(f"{line.strip()!r} is not five numbers") from error
    for name, value in zip(("centre_x", "centre_y", "width", "height"), numbers[1:], strict=True):
        if not -ROUNDING <= value <= 1 + ROUNDING:  # refuses NaN too
            raise ValueError(f"{name} {value:g} is not within 0 and 1, a fraction of the image")
    if min(numbers[3:]) <= 0:
        raise ValueError(f"box of size {numbers[3]:g} x {numbers[4]:g} has no area")
    return numbers
