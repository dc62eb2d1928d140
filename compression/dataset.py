"""Merge the labelled and unlabelled sets into one training set with eight road classes.

Each set labels only some of the eight classes, and some sets none. A detector trained on such
labels learns that the rest is background. So a teacher with all the classes looks at every image
too, at a higher resolution than the student will, and its boxes are added wherever no human (or
simulator) box lies already.

The result is a folder of ``images/*.jpg`` and ``labels/*.txt`` (YOLO format: class, centre x,
centre y, width, height, as fractions of the image).
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from ultralytics import YOLO

from compression.contract import CLASS_NAMES, COCO_CLASS_IDS

PERSON, BICYCLE, CAR, MOTORCYCLE, BUS, TRUCK, TRAFFIC_LIGHT, STOP_SIGN = range(len(CLASS_NAMES))
STORED_LONG_SIDE_PX = 640
JPEG_QUALITY = 95

AMBIGUOUS_VEHICLE = -1
"""A set's own class that may be any of car, bus and truck: the teacher decides, else a car."""


@dataclass(frozen=True)
class Source:
    """One set: where its images are and what its labels mean."""

    name: str
    images: str
    """A glob below the data folder, or one video file."""
    class_map: dict[int, int] | None = None
    """The set's class to ours; ``None`` for a set without labels."""
    min_height_px: float = 0.0
    """Boxes below this height are not trusted (the teacher may still find the object)."""
    max_aspect: float = np.inf
    """Boxes wider than this times their height are not trusted."""
    teacher_long_side_px: int = 960
    thinned: bool = False
    """Drop frames that hardly differ from the last one kept."""


SOURCES = (
    Source(
        "highway",
        "highway/images/train/*.jpg",
        {0: BUS, 1: CAR, 2: MOTORCYCLE, 3: PERSON, 4: TRUCK},
        teacher_long_side_px=640,  # the images are 448 px: more is only blur
    ),
    Source(
        "carla",
        "carla/images/train/*.jpg",
        {0: AMBIGUOUS_VEHICLE, 1: BICYCLE, 2: MOTORCYCLE, 3: TRAFFIC_LIGHT},
    ),
    # Boxes drawn around segmentation masks: small ones are noise, very wide ones are whole rows
    # of parked cars, and a bicyclist is rider and bicycle in one, which is neither of our classes.
    Source(
        "camvid",
        "camvid/images/train/*.*",
        {0: AMBIGUOUS_VEHICLE, 1: PERSON},
        min_height_px=25,
        max_aspect=3.0,
        thinned=True,
    ),
    Source("bdd100k", "bdd100k/images/*.jpg"),
    Source("nuscenes", "nuscenes_front/images/*.jpg", teacher_long_side_px=1280),
    Source("kitti", "kitti_2011_09_26/image_02/*.jpg", teacher_long_side_px=1280, thinned=True),
    Source("motorway", "video/solidWhiteRight_960x540.mp4", thinned=True),
)


def read_frames(data: Path, source: Source) -> Iterator[tuple[str, np.ndarray, Path | None]]:
    """Yield name, image (uint8 [h, w, 3] BGR) and label file of each frame of a set."""
    if source.images.endswith(".mp4"):
        video = cv2.VideoCapture(str(data / source.images))
        index = 0
        while (frame := video.read())[0]:
            yield f"{source.name}_{index:05d}", frame[1], None
            index += 1
        return
    for path in sorted(data.glob(source.images)):
        # The label file stands where the image does, in a parallel tree.
        labels = Path(str(path.with_suffix(".txt")).replace("/images/", "/labels/"))
        yield f"{source.name}_{path.stem}", cv2.imread(str(path)), labels


def thin(frames: Iterator, min_difference: float = 8.0) -> Iterator:
    """Drop frames whose 32 x 20 thumbnail is within a mean grey difference of the last kept."""
    last = None
    for frame in frames:
        grey = cv2.cvtColor(frame[1], cv2.COLOR_BGR2GRAY)
        thumbnail = cv2.resize(grey, (32, 20), interpolation=cv2.INTER_AREA).astype(np.float32)
        if last is None or np.abs(thumbnail - last).mean() >= min_difference:
            last = thumbnail
            yield frame


def read_labels(path: Path | None, width_px: int, height_px: int) -> np.ndarray:
    """Read YOLO labels as float32 [n, 5]: class, then left, top, right, bottom in pixels."""
    if path is None or not path.exists() or not path.read_text().strip():
        return np.zeros((0, 5), np.float32)
    rows = np.loadtxt(path, dtype=np.float32, ndmin=2)
    centre, half = rows[:, 1:3], rows[:, 3:5] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1).clip(0, 1)
    scale = np.array([width_px, height_px] * 2, np.float32)
    return np.column_stack([rows[:, 0], corners * scale])


def overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and intersection over a's own area, each [len(a), len(b)], of corner boxes."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (bottom_right - top_left).clip(0).prod(axis=2)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None]
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)[None]
    return intersection / (area_a + area_b - intersection + 1e-9), intersection / (area_a + 1e-9)


def trusted_labels(labels: np.ndarray, source: Source) -> np.ndarray:
    """Map a set's own labels [n, 5] to our classes and drop those not to be believed."""
    if source.class_map is None:
        return labels[:0]
    width, height = labels[:, 3] - labels[:, 1], labels[:, 4] - labels[:, 2]
    keep = (height >= max(source.min_height_px, 1.0)) & (width >= 1.0)
    keep &= width <= source.max_aspect * height
    keep &= np.isin(labels[:, 0], list(source.class_map))
    labels = labels[keep].copy()
    labels[:, 0] = [source.class_map[int(own)] for own in labels[:, 0]]
    return labels


# Boxes of unlike kinds overlap rightly: a rider's and the bicycle's, a driver's and the bus's.
# Vehicles do not: a teacher's "truck" on top of a labelled car is the same object.
_VEHICLE = 2
_KIND = np.array([0, 1, _VEHICLE, 3, _VEHICLE, _VEHICLE, 4, 5])


def merge(labels: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Add to labels [n, 5] the teacher's boxes [m, 5] of objects that are not labelled yet."""
    iou, covered = overlaps(teacher[:, 1:], labels[:, 1:])
    teacher_kinds = _KIND[teacher[:, 0].astype(int)]
    merged = labels.copy()
    for row in np.flatnonzero(labels[:, 0] == AMBIGUOUS_VEHICLE):
        candidates = np.where(teacher_kinds == _VEHICLE, iou[:, row], 0.0)
        decided = candidates.size and candidates.max() > 0.5
        merged[row, 0] = teacher[candidates.argmax(), 0] if decided else CAR
    same_kind = teacher_kinds[:, None] == _KIND[merged[:, 0].astype(int)][None]
    known = (iou > 0.7) | (same_kind & ((iou > 0.3) | (covered > 0.7)))
    return np.concatenate([merged, teacher[~known.any(axis=1)]])


def teach(
    teachers: list[YOLO], image: np.ndarray, long_side_px: int, min_confidence: float
) -> np.ndarray:
    """Detect with each teacher and unite: float32 [n, 5] of class and corners in pixels."""
    united = np.zeros((0, 5), np.float32)
    for teacher in teachers:
        result = teacher.predict(
            image,
            imgsz=long_side_px,
            conf=min_confidence,
            iou=0.6,
            classes=list(COCO_CLASS_IDS),
            verbose=False,
        )[0].boxes
        classes = [COCO_CLASS_IDS.index(int(coco)) for coco in result.cls]
        boxes = np.column_stack([np.array(classes), result.xyxy.numpy()]).astype(np.float32)
        united = merge(united, boxes.reshape(-1, 5))
    return united


def write_sample(out: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    """Store one image, no larger than the training needs, and its labels."""
    height_px, width_px = image.shape[:2]
    scale = STORED_LONG_SIDE_PX / max(width_px, height_px)
    if scale < 1:
        size = (round(width_px * scale), round(height_px * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(
        str(out / "images" / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    corners = labels[:, 1:] / np.array([width_px, height_px] * 2, np.float32)
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    rows = np.column_stack([labels[:, 0], centre, size])
    np.savetxt(out / "labels" / f"{name}.txt", rows, fmt=["%d"] + ["%.6f"] * 4)


def main() -> None:
    """Build the training set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--teacher", type=Path, nargs="+", required=True, help="COCO checkpoints")
    parser.add_argument("--min-confidence", type=float, default=0.4, help="of a teacher's box")
    args = parser.parse_args()

    (args.out / "images").mkdir(parents=True, exist_ok=True)
    (args.out / "labels").mkdir(parents=True, exist_ok=True)
    teachers = [YOLO(path) for path in args.teacher]
    summary = {}
    for source in SOURCES:
        counts = Counter()
        frames = read_frames(args.data, source)
        for name, image, label_path in thin(frames) if source.thinned else frames:
            height_px, width_px = image.shape[:2]
            labels = trusted_labels(read_labels(label_path, width_px, height_px), source)
            taught = teach(teachers, image, source.teacher_long_side_px, args.min_confidence)
            merged = merge(labels, taught)
            write_sample(args.out, name, image, merged)
            counts["images"] += 1
            counts["boxes of the set"] += len(labels)
            counts["boxes of the teacher"] += len(merged) - len(labels)
            counts.update(CLASS_NAMES[int(row[0])] for row in merged)
        summary[source.name] = dict(counts)
        print(source.name, summary[source.name], flush=True)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
