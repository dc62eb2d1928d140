"""Labelled sets on disk: YOLO folders and their `data.yaml`, COCO files, and descriptions."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from pydantic import BaseModel, Field, ValidationError

from perception_nodes.core.errors import first_problem, listed
from perception_nodes.drives.exif import jpeg_segments
from perception_nodes.drives.image_storage import IMAGE_SUFFIXES
from perception_nodes.evaluation import yolo
from perception_nodes.evaluation.coco import read_coco
from perception_nodes.evaluation.labels import DataError, LabelledSet
from perception_nodes.evaluation.matching import require_pycocotools

ROOT_VARIABLE = "PERCEPTION_DATA"
IGNORE = "ignore"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


class Description(BaseModel, extra="forbid", frozen=True):
    """A description of a set in YAML, whose paths are relative to the folder of all sets.

    Attributes:
        name: name of the set.
        images: folder of the images, which are searched for in all folders below it too.
        annotations: COCO file with the labels; without it, the labels are YOLO files in `labels/`
            beside `images/`.
        classes: class names by index, for YOLO labels without a `classes.txt` or `data.yaml`,
            or to rename them; several indices may have the same name.
        counts_as, ignored, min_height_px, max_aspect: see `LabelledSet`.
        notes: what a reader of figures should know about the labels.
    """

    name: str
    images: Path
    annotations: Path | None = None
    classes: tuple[str, ...] = ()
    counts_as: dict[str, tuple[str, ...]] = {}
    ignored: tuple[str, ...] = ()
    min_height_px: float = Field(default=0.0, ge=0)
    max_aspect: float = Field(default=np.inf, gt=0)
    notes: str = ""


def read_set(
    path: str | Path,
    root: str | Path | None = None,
    classes_map: Mapping[str, tuple[str, ...]] | None = None,
    split: str = "val",
) -> LabelledSet:
    """Read a labelled set and check all of it, before hours of work with it begin.

    Args:
        path: a folder with `images/` and `labels/`, or a folder below `images/`; a COCO `.json`;
            a description, `.yaml`; or Ultralytics' `data.yaml`.
        root: folder that the paths of a description are relative to; by default
            `$PERCEPTION_DATA`, or the folder of the description.
        classes_map: by class of the set, the model's classes that count as it, or none if the
            class is ignored; it takes precedence over a description.
        split: which images of a `data.yaml`: `val` or `train`.

    Raises:
        DataError: the set cannot be used.
    """
    found = _found(Path(path), root, split)
    files = list_images(found.images)
    if found.annotations is not None:
        classes, images, notes = read_coco(found.annotations, found.images)
        files = [image.path for image in images]
    else:
        names = found.classes or yolo.class_names(found.images)
        images, notes = yolo.read_yolo(found.images, files, names)
        classes = tuple(dict.fromkeys(names))  # indices of one name are one class
        index = np.array([classes.index(name) for name in names], np.int64)
        images = [replace(image, classes=index[image.classes]) for image in images]
    check_images(files)
    mapped = classes_map or {}
    counts_as = found.counts_as | {name: names for name, names in mapped.items() if names}
    ignored = {name for name in found.ignored if name not in mapped}
    ignored |= {name for name, names in mapped.items() if not names}
    for name in (*counts_as, *ignored):
        if name not in classes:
            raise DataError(
                f"{found.name} has no class {name!r} to map; it has {', '.join(classes)}"
            )
    said = [" ".join(found.notes.split())] if found.notes else []
    return LabelledSet(
        found.name,
        classes,
        tuple(images),
        counts_as,
        frozenset(ignored),
        found.min_height_px,
        found.max_aspect,
        (*said, *notes),
    )


def read_sets(
    paths: Iterable[str | Path],
    root: str | Path | None = None,
    classes_map: Mapping[str, tuple[str, ...]] | None = None,
) -> list[LabelledSet]:
    """Read several sets, and give them different names, by which results are kept.

    Sets of one name, such as those of two folders `val`, are named by their paths.

    Raises:
        DataError: a set cannot be used.
        EvaluationNotInstalled: there are sets, and pycocotools is missing.
    """
    found = [(path, read_set(path, root, classes_map)) for path in paths]
    if found:
        require_pycocotools()
    often = Counter(one.name for _, one in found)
    return [replace(one, name=str(path)) if often[one.name] > 1 else one for path, one in found]


def images_of(path: str | Path, root: str | Path | None = None) -> tuple[str, list[Path]]:
    """Name and image files of a set whose labels are not needed.

    Raises:
        DataError: there is no image, or an image cannot be read.
    """
    found = _found(Path(path), root)
    files = list_images(found.images)
    check_images(files)
    return found.name, files


def list_images(folder: Path) -> list[Path]:
    """Image files in a folder and in all folders below it, also in linked ones, sorted.

    Raises:
        DataError: there is no image, or a folder cannot be read.
    """
    if not (files := _images_below(folder)):
        problem = "holds no image" if folder.is_dir() else "is not a folder"
        raise DataError(
            f"{folder} {problem}; name a folder of images ({', '.join(IMAGE_SUFFIXES)})"
        )
    return files


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in yolo.files_below(folder) if p.suffix.lower() in IMAGE_SUFFIXES)


def check_images(files: list[Path]) -> None:
    """Check the beginnings and ends of image files, which is quicker than decoding them.

    Raises:
        DataError: some files are damaged; the text names them.
    """
    if broken := [path for path in files if not _looks_whole(path)]:
        raise DataError(
            f"{len(broken)} of {len(files)} images are cut off, empty or no images: "
            f"{listed(broken)}; replace or remove them"
        )


def parse_classes_map(text: str) -> dict[str, tuple[str, ...]]:
    """Read a class map: `car=car|bus|truck,bicyclist=ignore`, or a YAML file of the same form.

    Raises:
        DataError: the text has neither form.
    """
    if os.path.isfile(text):  # pathlib raises an error if a map is too long for a name
        entries = {str(name): value for name, value in yolo.load_keys(Path(text)).items()}
    else:
        pairs = [part.partition("=") for part in text.split(",")]
        if not all(name.strip() and separator for name, separator, _ in pairs):
            raise DataError(
                f"--classes-map {text!r} is neither a file nor of the form "
                "'car=car|bus|truck,bicyclist=ignore'"
            )
        entries = {name.strip(): value.split("|") for name, _, value in pairs}
    found = {}
    for name, value in entries.items():
        names = [str(part).strip() for part in (value if isinstance(value, list) else [value])]
        if not all(names) or value is None:
            raise DataError(f"--classes-map: {name!r} maps to nothing; write {name}={IGNORE}")
        found[name] = () if names == [IGNORE] else tuple(names)
    return found


def _found(path: Path, root: str | Path | None, split: str = "val") -> Description:
    """Where the images and labels of a set are, and how the labels are to be understood."""
    if not path.exists():
        raise DataError(
            f"{path} does not exist; name a folder, data.yaml, a COCO .json or a description .yaml"
        )
    if path.suffix in (".yaml", ".yml"):
        return _described(path, root, split)
    if path.suffix == ".json":
        candidates = [path.parent / "images", path.parent.parent / "images", path.parent]
        if (folder := next(filter(_images_below, candidates), None)) is None:
            raise DataError(
                f"{path}: no images in {', '.join(map(str, candidates))}; write a description "
                "with the keys name, images and annotations"
            )
        return Description(name=path.stem, images=folder, annotations=path)
    if not path.is_dir():
        raise DataError(f"{path} is no folder, COCO .json or description .yaml")
    folder = path / "images" if (path / "images").is_dir() else path
    return Description(name=path.absolute().name, images=folder)  # that of `.` is empty


def _described(path: Path, root: str | Path | None, split: str) -> Description:
    values = yolo.load_keys(path)
    if "names" in values:
        images, names = yolo.read_split(path, split)
        name = f"{path.resolve().parent.name}/{split}"
        return Description(name=name, images=images, classes=names)
    try:
        described = Description.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error.errors())}") from error
    base = Path(root or os.environ.get(ROOT_VARIABLE) or path.parent)
    images, annotations = base / described.images, described.annotations
    if not images.is_dir():
        raise DataError(
            f"{path}: {images} is not there; name the folder of the sets with --root or "
            f"${ROOT_VARIABLE}"
        )
    places = {"images": images, "annotations": annotations and base / annotations}
    return described.model_copy(update=places)


def _looks_whole(path: Path) -> bool:
    if not cv2.haveImageReader(str(path)):
        return False
    # OpenCV fills the missing part of some files, without an error.
    data = path.read_bytes()
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    if data.startswith(JPEG_START):
        # What precedes the picture may hold a whole small one.
        begin = max((end for *_, end in jpeg_segments(data)), default=len(JPEG_START))
        return JPEG_END in data[begin:]
    return cv2.imread(str(path)) is not None
