"""Detectors that label: each reads a BGR picture of any size and returns boxes in its pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from model_compression.errors import CompressionError
from model_compression.labelling.boxes import NAMES, TWO_WHEELER, VEHICLE, Boxes, suppressed
from model_compression.labels import CLASSES
from model_compression.ncnn import convert
from perception_nodes.core.geometry import PADDING_VALUE
from perception_nodes.networks.class_names import COCO_NAMES

LEAST_SCORE = 0.05
"""Weaker boxes are no evidence of anything."""
SUPPRESSION_IOU = 0.6
MOST_BOXES = 300
OURS = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in COCO_NAMES])
"""By the index of a class of COCO: the index of ours, -1 for none."""
SIDE_PX = 416
"""Width and height of the input of the networks that learned from COCO."""


class Detector(Protocol):
    """A network that finds objects on a picture."""

    def detect(self, picture: NDArray[np.uint8]) -> Boxes:
        """Find objects on a picture, uint8 [height, width, 3] BGR."""
        ...


class Intel:
    """person-vehicle-bike-detection-2003 or -2004: vehicles, persons and two-wheelers."""

    _NAMES = np.array([NAMES.index(name) for name in (VEHICLE, "person", TWO_WHEELER)])

    def __init__(self, weights: Path, threads: int) -> None:
        self._network = _compiled(weights, threads)
        self._size = tuple(self._network.input(0).shape)[:1:-1]

    def detect(self, picture: NDArray[np.uint8]) -> Boxes:
        """See `Detector`."""
        shown = cv2.resize(picture, self._size)
        found = self._network(_planes(shown))
        boxes, labels = found["boxes"], found["labels"]
        kept = (labels >= 0) & (labels < len(self._NAMES)) & (boxes[:, 4] >= LEAST_SCORE)
        return Boxes(
            boxes[kept, :4] * _scale(picture, self._size),
            boxes[kept, 4].astype(np.float32),
            self._NAMES[labels[kept].astype(int)],
        )


class NanoDet:
    """NanoDet-Plus-m, as ncnn's `.param` and `.bin`."""

    _MEAN = np.array([103.53, 116.28, 123.675], np.float32)
    _STD = np.array([57.375, 57.12, 58.395], np.float32)
    _BINS = 8

    def __init__(self, weights: Path, threads: int) -> None:
        network = convert(weights.with_suffix(".param"), weights, (SIDE_PX, SIDE_PX))
        self._network = _compiled(network.SerializeToString(), threads)
        self._centres, self._strides = _cells((8, 16, 32, 64))

    def detect(self, picture: NDArray[np.uint8]) -> Boxes:
        """See `Detector`."""
        shown = cv2.resize(picture, (SIDE_PX, SIDE_PX))
        output = self._network(_planes((shown - self._MEAN) / self._STD))[0][0]
        classes, distances = output[: len(COCO_NAMES)], output[len(COCO_NAMES) :]
        shares = np.exp(distances.reshape(4, self._BINS, -1))
        shares /= shares.sum(axis=1, keepdims=True)
        sides = (np.arange(self._BINS) @ shares) * self._strides
        corners = np.concatenate([self._centres - sides[:2], self._centres + sides[2:]]).T
        scores = 1 / (1 + np.exp(-classes.T))
        return _chosen(corners * _scale(picture, (SIDE_PX, SIDE_PX)), scores)


class Yolox:
    """YOLOX-Nano, as ONNX; it has learned from pictures that keep their shape."""

    def __init__(self, weights: Path, threads: int) -> None:
        self._network = _compiled(weights, threads)
        self._centres, self._strides = _cells((8, 16, 32))

    def detect(self, picture: NDArray[np.uint8]) -> Boxes:
        """See `Detector`."""
        scale = SIDE_PX / max(picture.shape[:2])
        width, height = (round(side * scale) for side in picture.shape[1::-1])
        shown = np.full((SIDE_PX, SIDE_PX, 3), PADDING_VALUE, np.uint8)
        shown[:height, :width] = cv2.resize(picture, (width, height))
        output = self._network(_planes(shown))[0][0]
        centres = self._centres.T + output[:, :2] * self._strides[:, None]
        halves = np.exp(output[:, 2:4]) * self._strides[:, None] / 2
        corners = np.concatenate([centres - halves, centres + halves], axis=1)
        return _chosen(corners / scale, output[:, 5:] * output[:, 4:5])


class Deim:
    """DEIMv2, as ONNX that returns boxes; one may come twice with neighbouring classes."""

    def __init__(self, weights: Path, threads: int) -> None:
        shapes = {"images": [1, 3, SIDE_PX, SIDE_PX], "orig_target_sizes": [1, 2]}
        self._network = _compiled(weights, threads, shapes)

    def detect(self, picture: NDArray[np.uint8]) -> Boxes:
        """See `Detector`."""
        shown = cv2.resize(picture, (SIDE_PX, SIDE_PX))[:, :, ::-1]
        found = self._network(
            {
                "images": _planes(shown / np.float32(255)),
                "orig_target_sizes": np.array([picture.shape[1::-1]], np.int64),
            }
        )
        names, scores = OURS[found["labels"][0]], found["scores"][0]
        kept = (names >= 0) & (scores >= LEAST_SCORE)
        return suppressed(Boxes(found["boxes"][0][kept], scores[kept], names[kept]), 0.9)


KINDS: dict[str, Callable[[Path, int], Detector]] = {
    "intel": Intel,
    "nanodet": NanoDet,
    "yolox": Yolox,
    "deim": Deim,
}
"""Detectors by the kind that a recipe names; each takes its weights and a number of threads."""


def _compiled(
    network: Path | bytes, threads: int, shapes: dict[str, list[int]] | None = None
) -> ov.CompiledModel:
    core = ov.Core()
    try:
        model = core.read_model(network)
        if shapes:
            model.reshape(shapes)
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        return core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompressionError(
            f"{network!s:.200} cannot be read: {reason}; copy it again"
        ) from error


def _planes(picture: NDArray) -> NDArray[np.float32]:
    """A picture [h, w, 3] as float32 [1, 3, h, w]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)


def _scale(picture: NDArray[np.uint8], size_px: tuple[int, ...]) -> NDArray[np.float32]:
    """What takes corners from a network's input of that width and height to a picture's pixels."""
    return np.array(picture.shape[1::-1] * 2, np.float32) / np.array(size_px * 2, np.float32)


def _cells(strides: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Centres, float32 [2, cells], and strides, float32 [cells], of all cells of the input."""
    centres, sizes = [], []
    for stride in strides:
        rows, columns = np.mgrid[: -(-SIDE_PX // stride), : -(-SIDE_PX // stride)]
        centres.append(np.stack([columns.ravel(), rows.ravel()]) * stride)
        sizes.append(np.full(rows.size, stride))
    return np.concatenate(centres, axis=1).astype(np.float32), np.concatenate(sizes).astype(
        np.float32
    )


def _chosen(corners: NDArray[np.float32], scores: NDArray[np.float32]) -> Boxes:
    """The best boxes of our classes; a cell may be an object of several.

    Args:
        corners: float32 [cells, 4].
        scores: float32 [cells, 80], by class of COCO.
    """
    known = np.flatnonzero(OURS >= 0)
    cells, columns = np.nonzero(scores[:, known] >= LEAST_SCORE)
    found = Boxes(
        corners[cells].astype(np.float32),
        scores[cells, known[columns]].astype(np.float32),
        OURS[known[columns]],
    )
    best = np.argsort(-found.scores, kind="stable")[:MOST_BOXES]
    return suppressed(found[best], SUPPRESSION_IOU)
