"""Merge labelled and unlabelled sets into one training set.

Where each set labels only some of the classes, and some sets none, a detector trained on such
labels learns that the rest is background. So a labeller with all the classes looks at every image
too, at a higher resolution than the student will, and its boxes are added wherever no human (or
simulator) box lies already. Sets that label all the classes need none.

The result is a folder of ``images/*.jpg`` and ``labels/*.txt`` (YOLO format: class, centre x,
centre y, width, height, as fractions of the image). ``digests.txt`` says what each was made of: a
build that was interrupted makes again what has changed since, and removes what is no more.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from ultralytics import YOLO

from model_compression.checkpoint import load_detector
from model_compression.config import Config, Source
from model_compression.errors import CompressionError
from model_compression.frames import read_image
from perception_nodes.core.geometry import intersections_and_unions
from perception_nodes.evaluation.datasets import list_images, read_set
from perception_nodes.evaluation.yolo import distinct, label_file, read_line, read_split

VEHICLES = ("car", "bus", "truck")
STORED_LONG_SIDE_PX = 640
"""At least; more for a network with a larger input."""
JPEG_QUALITY = 95
DIGESTS = "digests.txt"


def find_images(data: Path, source: Source) -> list[Path]:
    """List a set's image files.

    Raises:
        CompressionError: there are none.
        DataError: there are none in the folder that a data.yaml names.
    """
    if source.has_data_yaml:
        return list_images(read_split(data / source.images, "train")[0])
    if Path(source.images).is_absolute():
        raise CompressionError(
            f"set {source.name}: images {source.images} must be below the data's folder {data}"
        )
    found = sorted(data.glob(source.images))
    if not found:
        raise CompressionError(
            f"set {source.name}: no file matches {source.images} in {data}; correct `images`, "
            "or take the set out"
        )
    return found


def stored_names(data: Path, source: Source) -> list[tuple[str, Path]]:
    """Each file of a set with the name that it is stored by."""
    found = find_images(data, source)
    above = os.path.commonpath([path.parent for path in found])
    names = [path.relative_to(above).with_suffix("").parts for path in found]
    return [("_".join((source.name, *name)), path) for name, path in zip(names, found, strict=True)]


def read_frames(data: Path, source: Source) -> Iterator[tuple[str, np.ndarray, Path]]:
    """Yield name, image (uint8 [h, w, 3] BGR) and label file of each frame of a set."""
    for name, path in stored_names(data, source):
        yield name, read_image(path), label_file(path)


def read_rows(path: Path) -> np.ndarray:
    """Read and check YOLO labels: float32 [n, 5], class and cx, cy, w, h as fractions.

    Raises:
        CompressionError: a line that is no label, named with its value.
    """
    rows = []
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(read_line(line))
        except ValueError as error:
            raise CompressionError(
                f"{path}:{number}: {line.strip()!r} is no label: {error}; correct or remove it"
            ) from error
    return np.array(rows, np.float32).reshape(-1, 5)


def read_labels(path: Path, width_px: int, height_px: int) -> np.ndarray:
    """Read YOLO labels as float32 [n, 5]: class, then left, top, right, bottom in pixels."""
    rows = distinct(read_rows(path))
    centre, half = rows[:, 1:3], rows[:, 3:5] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1).clip(0, 1)
    scale = np.array([width_px, height_px] * 2, np.float32)
    return np.column_stack([rows[:, 0], corners * scale])


def check_sources(data: Path, sources: list[Source], say: Callable[[str], None]) -> None:
    """Look at every label file before any long work; oddities that do not matter are said.

    Raises:
        CompressionError: a set without images, or a label that is wrong or of no known class.
        DataError: the same, of a set with a data.yaml.
    """
    stored = dict[str, Path]()
    for source in sources:
        images = []
        for name, path in stored_names(data, source):
            if name in stored:
                raise CompressionError(
                    f"set {source.name}: {stored[name]} and {path} would both be stored as {name}: "
                    "rename one, or make two sets of them"
                )
            stored[name] = path
            images.append(path)
        if source.has_data_yaml:
            for note in read_set(data / source.images, split="train").notes:
                say(f"set {source.name}: {note}")
        if source.classes is None:
            continue
        labelled = repeated = 0
        for image in images:
            path = label_file(image)
            rows = read_rows(path)
            labelled += len(rows) > 0
            repeated += len(rows) - len(distinct(rows))
            unknown = set(rows[:, 0].astype(int)) - set(source.classes) - source.ignored
            if unknown:
                raise CompressionError(
                    f"{path}: class {min(unknown)} is neither among `classes` nor `ignored` of "
                    f"set {source.name}"
                )
        if repeated and not source.has_data_yaml:  # which has told it
            say(f"set {source.name}: {repeated} label lines repeat another one and count once")
        if not labelled:
            raise CompressionError(
                f"set {source.name}: not one of {len(images)} images has labels in "
                f"{label_file(images[0]).parent}; leave `classes` out for a set without labels"
            )


def overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and intersection over a's own area, each [len(a), len(b)], of corner boxes."""
    intersection, union = intersections_and_unions(a, b)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None]
    return intersection / (union + 1e-9), intersection / (area_a + 1e-9)


def mapped_labels(labels: np.ndarray, source: Source, classes: Sequence[str]) -> np.ndarray:
    """Map a set's own labels [n, 5] to the network's classes; drop other ones and empty boxes."""
    if source.classes is None:
        return labels[:0]
    ours = {own: classes.index(name) for own, name in source.classes.items()}
    width, height = labels[:, 3] - labels[:, 1], labels[:, 4] - labels[:, 2]
    keep = (height >= 1) & (width >= 1) & np.isin(labels[:, 0], list(ours))
    labels = labels[keep].copy()
    labels[:, 0] = [ours[int(own)] for own in labels[:, 0]]
    return labels


def merge(labels: np.ndarray, teacher: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Add to labels [n, 5] the teacher's boxes [m, 5] of objects that are not labelled yet."""
    # Boxes of unlike kinds overlap rightly: a rider's and the bicycle's, a driver's and the bus's.
    # Vehicles do not: a teacher's "truck" on top of a labelled car is the same object.
    vehicle = len(classes)
    kinds = np.array([vehicle if name in VEHICLES else i for i, name in enumerate(classes)])
    iou, covered = overlaps(teacher[:, 1:], labels[:, 1:])
    teacher_kinds = kinds[teacher[:, 0].astype(int)]
    same_kind = teacher_kinds[:, None] == kinds[labels[:, 0].astype(int)][None]
    known = (iou > 0.7) | (same_kind & ((iou > 0.3) | (covered > 0.7)))
    return np.concatenate([labels, teacher[~known.any(axis=1)]])


def teach(
    labeller: YOLO,
    image: np.ndarray,
    long_side_px: int,
    min_confidence: float,
    classes: Sequence[str],
) -> np.ndarray:
    """Detect the classes that the labeller knows: float32 [n, 5] of class and corners in pixels."""
    known = {own: classes.index(name) for own, name in labeller.names.items() if name in classes}
    threads = torch.get_num_threads()
    result = labeller.predict(
        image, imgsz=long_side_px, conf=min_confidence, iou=0.6, classes=list(known), verbose=False
    )[0].boxes.cpu()
    torch.set_num_threads(threads)  # of which its first call has taken one, for good
    found = [known[int(own)] for own in result.cls]
    taught = np.column_stack([np.array(found), result.xyxy.numpy()]).astype(np.float32)
    return taught[(taught[:, 3:] - taught[:, 1:3] >= 1).all(axis=1)]  # clipped to nothing


def write_sample(
    out: Path, name: str, image: np.ndarray, labels: np.ndarray, long_side_px: int
) -> None:
    """Store one image, no larger than the training needs, and its labels."""
    height_px, width_px = image.shape[:2]
    scale = long_side_px / max(width_px, height_px)
    if scale < 1:
        size = (round(width_px * scale), round(height_px * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(
        str(out / "images" / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    corners = labels[:, 1:] / np.array([width_px, height_px] * 2, np.float32)
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    rows = np.column_stack([labels[:, 0], centre, size])
    partial = out / "labels" / f"{name}.partial"
    np.savetxt(partial, rows, fmt=["%d"] + ["%.6f"] * 4)
    partial.rename(partial.with_suffix(".txt"))


def build(config: Config, out: Path, progress: Callable[[int, int], None]) -> dict:
    """Write the training set; what a run that was killed has made of the same is not done again.

    Args:
        config: of the run.
        out: folder to write.
        progress: called with frames done and in all.

    Returns:
        Counts of images, boxes and classes, set by set.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "labels").mkdir(parents=True, exist_ok=True)
    labeller = load_detector(config.data / config.labeller) if config.labeller else None
    if labeller and not set(labeller.names.values()) & set(config.classes):
        raise CompressionError(
            f"labeller {config.labeller} has none of the classes {', '.join(config.classes)}; take "
            "one that has, or leave it out"
        )
    long_side_px = max(STORED_LONG_SIDE_PX, *config.size)
    total = sum(len(find_images(config.data, source)) for source in config.sources)
    digests = read_digests(out / DIGESTS)
    stored = set[str]()
    summary = {}
    for source in config.sources:
        counts: Counter = Counter()
        frames = read_frames(config.data, source)
        for name, image, label_path in frames:
            label = out / "labels" / f"{name}.txt"
            height_px, width_px = image.shape[:2]
            labels = read_labels(label_path, width_px, height_px)
            digest = hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()
            if not label.exists() or digests.get(name) != digest:
                # In this order: a label that is there is always of the digest noted last.
                label.unlink(missing_ok=True)
                with (out / DIGESTS).open("a") as file:
                    file.write(f"{digest} {name}\n")
                labels = mapped_labels(labels, source, config.classes)
                taught = labels[:0]
                if labeller:
                    side_px, least = source.labeller_long_side_px, config.min_confidence
                    taught = teach(labeller, image, side_px, least, config.classes)
                write_sample(out, name, image, merge(labels, taught, config.classes), long_side_px)
            stored.add(name)
            rows = read_rows(label)
            counts["images"] += 1
            counts["boxes"] += len(rows)
            counts.update(config.classes[int(row[0])] for row in rows)
            progress(len(stored), total)
        summary[source.name] = dict(counts)
    for path in (*(out / "images").iterdir(), *(out / "labels").iterdir()):
        if path.stem not in stored:
            path.unlink()
    return summary


def read_digests(path: Path) -> dict[str, str]:
    """What images and labels were made of, by name; a line that a kill has cut off matches none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: digest for digest, _, name in (line.partition(" ") for line in lines)}
