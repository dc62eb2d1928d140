"""Heads of networks that report cells: an object once for each cell that sees it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.networks.exported import (
    IMAGENET,
    STRIDES,
    ExportedNetwork,
    Head,
    Normalisation,
    only_output,
)
from perception_nodes.networks.graph_writer import Writer


class Grid(Head):
    """Ultralytics YOLOv5u, v8, v9, 10, 11, 12, 26: a column a cell, centre, size and scores."""

    name = "ultralytics"
    title = "Ultralytics, 1 x (4 + classes) x cells"

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        found = only_output(exported)
        if found is None or found[1][1] <= 4:
            return None
        return found[1][1] - 4 if self.strides(exported) else None

    def strides(self, exported: ExportedNetwork) -> tuple[int, ...] | None:
        """Strides of the levels that together have as many cells as the output."""
        # Networks of two or four levels are rare, and others look like them.
        rare = [(*STRIDES, 64), (4, *STRIDES), STRIDES[1:]]
        known = [STRIDES, *rare] if exported.facts else [STRIDES]
        ((_, shape),) = exported.outputs.items()
        return next((some for some in known if exported.cells(*some) == shape[2]), None)

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, _),) = exported.outputs.items()
        return to.middles(to.part(name, 1, 0, 4)), to.part(name, 1, 4, 4 + classes)


class _Scored(Head):
    """A row a cell: centre, size, probability of an object, and of each class if there is one."""

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        boxes, scores = self._parts(exported, classes, to)
        return to.middles(boxes), scores

    def _classes(self, exported: ExportedNetwork, *counts: int) -> int | None:
        """The number of classes of the rows, if the number of rows is one of these counts."""
        found = only_output(exported)
        if found is None or found[1][1] not in counts or found[1][2] <= 5:
            return None
        return found[1][2] - 5

    def _parts(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        ((name, _),) = exported.outputs.items()
        columns = to.turned(name)
        scores = to.op("Mul", to.part(columns, 1, 5, 5 + classes), to.part(columns, 1, 4, 5))
        return to.part(columns, 1, 0, 4), scores


class Anchors(_Scored):
    """YOLOv5 and YOLOv7 with their own exporters: three anchors a cell."""

    name = "yolov5"
    title = "YOLOv5 or v7, three anchors a cell"

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        return self._classes(
            exported, 3 * exported.cells(*STRIDES), 3 * exported.cells(*STRIDES, 64)
        )


class YoloxDecoded(_Scored):
    """YOLOX exported with decode_in_inference."""

    name = "yolox"
    title = "YOLOX, decoded"

    pixels = Normalisation("BGR", std=(1.0, 1.0, 1.0))
    """BGR from 0 to 255, in a letterbox."""

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        fits = "Exp" in exported.operators or not exported.sliced
        return self._classes(exported, exported.cells(*STRIDES)) if fits else None


class YoloxRaw(YoloxDecoded):
    """YOLOX as its exporter writes it: offsets in strides, and logarithms of sizes."""

    name = "yolox-raw"
    title = "YOLOX, not decoded"

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        fits = "Exp" not in exported.operators
        return self._classes(exported, exported.cells(*STRIDES)) if fits else None

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        boxes, scores = self._parts(exported, classes, to)
        corners, strides = cells_of(exported, STRIDES)
        stride = to.constant(strides[None, None])
        moved = to.op("Add", to.part(boxes, 1, 0, 2), to.constant(corners.T[None]))
        centres = to.op("Mul", moved, stride)
        sizes = to.op("Mul", to.op("Exp", to.part(boxes, 1, 2, 4)), stride)
        return to.corners(centres, sizes), scores


class Yolov6(_Scored):
    """YOLOv6: rows like those of YOLOX, from an RGB network."""

    name = "yolov6"
    title = "YOLOv6"

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        return None if exported.sliced else self._classes(exported, exported.cells(*STRIDES))


class NanodetPlus(Head):
    """NanoDet-Plus: class scores, and distances to four sides over bins; strides 8 to 64."""

    name = "nanodet-plus"
    title = "NanoDet-Plus, 1 x cells x (classes + 4 x 8)"
    bins = 8

    pixels = Normalisation("BGR", IMAGENET[0][::-1], IMAGENET[1][::-1], "stretch")

    def classes(self, exported: ExportedNetwork) -> int | None:
        """See `Head`."""
        found = only_output(exported)
        cells = exported.cells(*STRIDES, 64)
        if found is None or cells not in found[1][1:]:
            return None
        channels = found[1][1] * found[1][2] // cells - 4 * self.bins
        return channels if channels > 0 else None

    def write(self, exported: ExportedNetwork, classes: int, to: Writer) -> tuple[str, str]:
        """See `Head`."""
        ((name, shape),) = exported.outputs.items()
        corners, strides = cells_of(exported, (*STRIDES, 64))
        count = len(strides)
        rows = name if shape[1] == count else to.turned(name)
        scores = to.turned(to.part(rows, 2, 0, classes))
        if "Sigmoid" not in exported.operators:  # ncnn's files leave it to their reader
            scores = to.op("Sigmoid", scores)
        sides = to.part(rows, 2, classes, classes + 4 * self.bins)
        bins = to.op("Softmax", to.shaped(sides, 1, count, 4, self.bins), axis=-1)
        mean = to.op("MatMul", bins, to.constant(np.arange(self.bins)[:, None]))
        reach = to.op("Mul", to.turned(to.shaped(mean, 1, count, 4)), to.constant(strides[None]))
        centres = to.constant((corners * strides[:, None]).T[None])
        low = to.op("Sub", centres, to.part(reach, 1, 0, 2))
        high = to.op("Add", centres, to.part(reach, 1, 2, 4))
        return to.op("Concat", low, high, axis=1), scores


def cells_of(
    exported: ExportedNetwork, strides: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column and row of each cell, [n, 2], and its stride, [n]."""
    corners, of = [], []
    for stride in strides:
        columns, rows = -(-exported.width // stride), -(-exported.height // stride)
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        corners.append(np.stack([x.ravel(), y.ravel()], axis=1))
        of.append(np.full(columns * rows, stride))
    return np.concatenate(corners).astype(np.float64), np.concatenate(of).astype(np.float64)
