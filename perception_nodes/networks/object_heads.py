"""Heads of networks that report an object once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.networks.class_names import COCO_NUMBERS
from perception_nodes.networks.exported import (
    IMAGENET,
    MAX_OBJECTS,
    STRIDES,
    ExportedNetwork,
    Head,
    Normalisation,
    NumberedHead,
    only_output,
)
from perception_nodes.networks.graph_writer import Writer


def _numbered(exported: ExportedNetwork) -> NDArray[Any] | None:
    """The answer to noise, if it has rows of box, score and number of the class."""
    found = only_output(exported)
    if found is None or found[1][2] != 6 or found[1][1] > MAX_OBJECTS:
        return None
    rows = exported.answer[found[0]][0]
    return rows if (rows[:, 5] % 1 == 0).all() else None


def _is_share(rows: NDArray[Any]) -> bool:
    """Whether boxes are shares of the picture instead of pixels; unknown if there are none."""
    return bool(rows.any() and np.abs(rows[:, :4]).max() <= 1)


class ObjectRows(NumberedHead):
    """Ultralytics with NMS inside, or one-to-one (v10, 26): rows of corners, score, class."""

    name = "ultralytics-nms"
    title = "rows of x1 y1 x2 y2 score class, each object once"
    suppressed = True

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        rows = _numbered(exported)
        return None if rows is None or _is_share(rows) else 0

    def numbers(self, found: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """See `NumberedHead`."""
        (rows,) = found.values()
        return rows[..., 5]

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, shape),) = exported.outputs.items()
        score, label = to.part(name, 2, 4, 5), to.part(name, 2, 5, 6)
        boxes = to.turned(to.part(name, 2, 0, 4))
        return boxes, to.labelled(score, label, shape[1], classes)


class _Detr(Head):
    """Networks that report an object once, in a stretched picture."""

    suppressed = True

    pixels = Normalisation(resize="stretch")
    """RGB from 0 to 1, stretched."""


class DetrObjects(_Detr, NumberedHead):
    """RT-DETR, D-FINE and DEIM with their postprocessor: labels, boxes, scores."""

    name = "detr"
    title = "RT-DETR, D-FINE or DEIM: labels, boxes, scores"

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        one = exported.outputs.get("labels", ())
        known = {"labels": one, "scores": one, "boxes": (*one, 4)}
        # Outputs without a batch are torchvision's, whose picture is not stretched.
        return 0 if exported.outputs == known and len(one) == 2 and one[0] == 1 else None

    def numbers(self, found: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """See `NumberedHead`."""
        return found["labels"]

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        count = exported.outputs["boxes"][1]
        return to.turned("boxes"), to.labelled("scores", "labels", count, classes)


class DetrQueries(_Detr):
    """RT-DETR, RF-DETR and others without their postprocessor: logits, and boxes from 0 to 1."""

    name = "detr-queries"
    title = "RT-DETR, RF-DETR, D-FINE or DEIM: logits and boxes"

    def normalisation(self, exported: ExportedNetwork) -> Normalisation:
        """RGB, stretched; RF-DETR, which calls its boxes dets, has the deviation of ImageNet."""
        if "dets" in exported.outputs:
            return Normalisation("RGB", *IMAGENET, "stretch")
        return super().normalisation(exported)

    def _names(self, exported: ExportedNetwork) -> tuple[str, str] | None:
        """Names of the boxes and of the logits."""
        shapes = exported.outputs
        if len(shapes) != 2 or any(len(one) != 3 or one[0] != 1 for one in shapes.values()):
            return None
        boxes = [name for name, one in shapes.items() if one[2] == 4]
        others = [name for name in shapes if name not in boxes]
        if len(boxes) != 1 or shapes[boxes[0]][1] != shapes[others[0]][1]:
            return None
        return boxes[0], others[0]

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`; boxes in pixels, probabilities, or a class for "no object" exclude it."""
        names = self._names(exported)
        if names is None:
            return None
        boxes, logits = (exported.answer[name] for name in names)
        count = logits.shape[2]
        are_shares = np.median(np.abs(boxes)) <= 1  # some networks have a few larger ones
        are_logits = logits.min() < 0 or logits.max() > 1
        is_nothing = (logits.argmax(2) == count - 1) & (logits[..., -1] > 0)
        if logits.shape[1] > MAX_OBJECTS or not (are_shares and are_logits):
            return None
        if count > 1 and is_nothing.mean() > 0.9:
            return None
        return len(COCO_NUMBERS) if count == 91 else count

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        names = self._names(exported)
        assert names is not None
        scores = to.op("Sigmoid", to.turned(names[1]))
        if exported.outputs[names[1]][2] == 91:
            scores = to.op("Gather", scores, to.constant(COCO_NUMBERS, np.int64), axis=1)
        return _in_pixels(exported, to.turned(names[0]), to), scores


class UltralyticsDetr(_Detr):
    """RT-DETR of Ultralytics: a row a query, box from 0 to 1 and scores."""

    name = "ultralytics-rtdetr"
    title = "RT-DETR of Ultralytics, 1 x queries x (4 + classes)"

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        found = only_output(exported)
        if found is None or found[1][1] > MAX_OBJECTS or found[1][2] <= 4:
            return None
        three, four = exported.cells(*STRIDES), exported.cells(*STRIDES, 64)
        if {three, four, 3 * three, 3 * four} & {*found[1]} or _numbered(exported) is not None:
            return None
        return found[1][2] - 4

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, _),) = exported.outputs.items()
        columns = to.turned(name)
        boxes, scores = to.part(columns, 1, 0, 4), to.part(columns, 1, 4, 4 + classes)
        return _in_pixels(exported, boxes, to), scores


class UltralyticsDetrObjects(_Detr, ObjectRows):
    """RT-DETR of newer Ultralytics: rows of centre, size, score and class, boxes from 0 to 1."""

    name = "ultralytics-rtdetr-rows"
    title = "RT-DETR of Ultralytics, rows of centre, size, score and class"

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        rows = _numbered(exported)
        return 0 if rows is not None and _is_share(rows) else None

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        boxes, scores = super().write(exported, classes, to)
        return _in_pixels(exported, boxes, to), scores


def _in_pixels(exported: ExportedNetwork, boxes: str, to: Writer) -> str:
    """Corners in pixels from centres and sizes from 0 to 1, both [1, 4, n]."""
    size = np.array([exported.width, exported.height] * 2).reshape(1, 4, 1)
    return to.middles(to.op("Mul", boxes, to.constant(size)))
