"""A model's mistakes on its card: how often which, and the frames with the most of them."""

from typing import Any

import cv2

from perception_nodes.evaluation.mistakes import MISTAKES, NOTHING, BoxKind, Examined, Judged
from perception_nodes.report.precision_recall import precision_recall

MAX_WIDTH_PX = 640
JPEG_QUALITY = 80
COLUMNS = ("labelled", BoxKind.RIGHT.value, "missed", *(kind.value for kind in MISTAKES))


def section(examined: Examined, frames: int) -> dict[str, Any]:
    """A set on a card: counts, and so many frames with most mistakes and with a usual number.

    Raises:
        DataError: an image can no longer be decoded.
    """
    counts = [[name, *map(row.get, COLUMNS)] for name, row in examined.counts().items()]
    ranked = sorted(examined.images, key=lambda one: -one.mistakes)
    middle = max(0, (len(ranked) - frames) // 2)
    return {
        "name": examined.data,
        "images": len(examined.images),
        "columns": ["class", *COLUMNS],
        "counts": [*counts, ["all", *map(sum, list(zip(*counts, strict=True))[1:])]],
        "names": [*examined.classes, NOTHING],
        "confusions": examined.confusions(),
        "curves": precision_recall(examined.reported()),
        "notes": examined.notes,
        "frames": [_frame(examined, one) for one in ranked[:frames]],
        "typical": [_frame(examined, one) for one in ranked[middle : middle + frames]],
    }


def _frame(examined: Examined, judged: Judged) -> dict[str, Any]:
    width, height = judged.size_px
    shown = min(1.0, MAX_WIDTH_PX / width)
    size_px = round(width * shown), round(height * shown)
    pixels = cv2.resize(judged.image.pixels(), size_px, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    truth, found = judged.truth, judged.found
    boxes = []
    for row in judged.missed.nonzero()[0]:
        name = examined.classes[truth.classes[row]]
        boxes.append(_box(truth.boxes[row], "missed", name, f"{name}, missed"))
    reported = zip(judged.kinds, found.boxes, found.classes, found.scores, strict=True)
    for kind, box, label, score in reported:
        name = examined.classes[label]
        said = f"{name}, {kind.value}" if kind in MISTAKES else ""
        boxes.append(_box(box, _tone(kind), said, f"{name} {score:.2f}, {kind.value}"))
    shown_as = {"jpeg": jpeg.tobytes(), "width": width, "height": height}
    return {"name": judged.image.path.name, "boxes": boxes, **shown_as}


def _tone(kind: BoxKind) -> str:
    if kind in MISTAKES:
        return "wrong"
    return "right" if kind is BoxKind.RIGHT else "ignored"


def _box(corners: Any, tone: str, label: str, text: str) -> dict[str, Any]:
    """A box on the page, with its label and the text that the pointer shows."""
    left, top, right, bottom = (round(float(value), 1) for value in corners)
    size = {"width": round(right - left, 1), "height": round(bottom - top, 1)}
    return {"x": left, "y": top, **size, "tone": tone, "label": label, "text": text}
