"""Views of frames: cut out, scaled and put together at random, with what is known of them."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from model_compression.distillation.teacher import Map, Teaches
from model_compression.errors import CompressionError
from model_compression.frames import read_image
from model_compression.labels import CLASSES, Labels
from perception_nodes.core.geometry import PADDING_VALUE

Boxes = NDArray[np.float32]
FOUR_SHARE = 0.35
"""Share of the views that show parts of four frames."""
LEAST_SIDE_PX = 3.5
"""Of a box in the input; the loss ignores smaller ones."""
LEAST_VISIBLE = 0.35
"""Share of a box; the loss ignores those of which less is left."""


@dataclass(frozen=True)
class Known:
    """What is known of the objects of a picture; boxes are left, top, right, bottom.

    Attributes:
        boxes: float32 [n, 4].
        classes: int64 [n].
        scores: float32 [n], probability of the object.
        ignored_boxes: float32 [m, 4].
        ignored_classes: bool [m, classes], of which nothing is known in each ignored box.
    """

    boxes: Boxes
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    ignored_boxes: Boxes
    ignored_classes: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: Labels) -> "Known":
        """Take labels, boxes in pixels of their image."""
        return cls(
            labels.boxes,
            labels.classes,
            labels.scores,
            labels.ignored_boxes,
            labels.ignored_classes,
        )

    @classmethod
    def nothing(cls, size_px: tuple[int, int]) -> "Known":
        """Of a picture of that width and height that nobody labelled."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
            np.array([[0, 0, *size_px]], np.float32),
            np.ones((1, len(CLASSES)), bool),
        )

    @classmethod
    def joined(cls, parts: Sequence["Known"]) -> "Known":
        """All that is known of the parts of one picture."""
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def placed(self, matrix: NDArray, part_px: tuple[int, int, int, int]) -> "Known":
        """Return it in another picture's pixels, the cut and the small ignored.

        Args:
            matrix: [2, 3], scales and moves, and may flip left and right.
            part_px: left, top, right and bottom of the part that can be seen.
        """
        whole, ignored = moved(self.boxes, matrix), moved(self.ignored_boxes, matrix)
        low, high = np.tile(part_px[:2], 2), np.tile(part_px[2:], 2)
        boxes, ignored = whole.clip(low, high), ignored.clip(low, high)
        sides = boxes[:, 2:] - boxes[:, :2]
        visible = sides.prod(1) / np.maximum((whole[:, 2:] - whole[:, :2]).prod(1), 1e-6)
        sure = (visible >= LEAST_VISIBLE) & (sides.min(1) >= LEAST_SIDE_PX)
        unsure = ~sure & (visible > 0)
        own = np.eye(len(CLASSES), dtype=bool)[self.classes[unsure]]
        return Known(
            boxes[sure].astype(np.float32),
            self.classes[sure],
            self.scores[sure],
            np.concatenate([ignored, boxes[unsure]]).astype(np.float32),
            np.concatenate([self.ignored_classes, own]),
        )


@dataclass(frozen=True)
class Frame:
    """A frame to train on: an image file, and its labels where there are some."""

    path: Path
    labels: Labels | None = None

    def read(self) -> tuple[NDArray[np.uint8], Known]:
        """Return its pixels, uint8 [h, w, 3] BGR, and what is known of them.

        Raises:
            CompressionError: it cannot be read, or has another size than its labels.
        """
        image = read_image(self.path)
        size_px = image.shape[1::-1]
        if self.labels is None:
            return image, Known.nothing(size_px)
        if size_px != self.labels.size_px:
            raise CompressionError(
                f"{self.path} is {size_px[0]} x {size_px[1]}, and its labels are for "
                f"{self.labels.size_px[0]} x {self.labels.size_px[1]}: label it again"
            )
        return image, Known.of(self.labels)


class Readable(Protocol):
    """What shows a picture, and what is known of it."""

    def read(self) -> tuple[NDArray[np.uint8], Known]:
        """Return its pixels, uint8 [h, w, 3] BGR, and what is known of them."""


@dataclass
class View:
    """A picture, uint8 [h, w, 3] BGR, what is known of it, and the teacher's maps."""

    picture: NDArray[np.uint8]
    known: Known
    maps: list[Map] = field(default_factory=list)


def moved(boxes: Boxes, matrix: NDArray) -> Boxes:
    """Scale and move boxes [n, 4] by a matrix [2, 3], which may flip left and right."""
    scale, shift = np.tile(np.diag(matrix[:, :2]), 2), np.tile(matrix[:, 2], 2)
    found = boxes * scale + shift
    found[:, [0, 2]] = np.sort(found[:, [0, 2]], axis=1)
    return found


def draw_matrix(
    size_px: tuple[int, int],
    part_px: tuple[int, int],
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw how a frame of a width and height is scaled, flipped and put into a part of a view."""
    fitting = np.sqrt(part_px[0] / size_px[0] * part_px[1] / size_px[1])
    stretch = np.exp(rng.uniform(-0.12, 0.12) * np.array([1, -1]) / 2)
    scale = fitting * np.exp(rng.uniform(*np.log(scales))) * stretch
    slack = np.array(part_px) - scale * size_px
    shift = rng.uniform(np.minimum(slack, 0), np.maximum(slack, 0))
    if rng.random() < 0.5:
        scale[0], shift[0] = -scale[0], shift[0] + scale[0] * size_px[0]
    return np.column_stack([np.diag(scale), shift])


def draw_view(
    frames: Sequence[Readable],
    size_px: tuple[int, int],
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> View:
    """Draw a view of one frame or of parts of four.

    Args:
        frames: to draw from.
        size_px: width and height of the view.
        scales: least and greatest of a frame; 1 lies between fitting in its part and filling it.
        rng: of everything random.
    """
    width, height = size_px
    x, y = (int(side * rng.uniform(0.3, 0.7)) for side in (width, height))
    parts = [(0, 0, width, height)]
    if rng.random() < FOUR_SHARE:
        parts = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    picture = np.empty((height, width, 3), np.uint8)
    known = []
    for left, top, right, bottom in parts:
        image, labels = frames[rng.integers(len(frames))].read()
        part_px = right - left, bottom - top
        matrix = draw_matrix(image.shape[1::-1], part_px, scales, rng)
        centred = matrix.copy()  # OpenCV counts from the centre of the first pixel
        centred[:, 2] += (np.diag(matrix[:, :2]) - 1) / 2
        picture[top:bottom, left:right] = cv2.warpAffine(
            image, centred, part_px, flags=cv2.INTER_LINEAR, borderValue=(PADDING_VALUE,) * 3
        )
        matrix[:, 2] += left, top
        known.append(labels.placed(matrix, (left, top, right, bottom)))
    return View(picture, Known.joined(known))


class Pool:
    """Views with the teacher's maps; a thread adds to them, and then replaces the oldest.

    Each view is learned from several times, so that the teacher costs less than the student.
    """

    def __init__(self, draw: Callable[[], View], teacher: Teaches, size: int, first: int) -> None:
        """Begin the thread.

        Args:
            draw: returns another view.
            teacher: of the maps.
            size: how many views there are at most.
            first: how many to draw before more are allowed.
        """
        self.views: list[View] = []
        self.drawn = 0
        self._draw, self._teacher, self._size = draw, teacher, size
        self._allowed, self._closed = threading.Semaphore(first), False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        while self._allowed.acquire() and not self._closed:
            try:
                view = self._draw()
                view.maps = self._teacher.maps(view.picture)
            except Exception as error:  # for who waits for the view
                self._error = error
                return
            if len(self.views) < self._size:
                self.views.append(view)
            else:
                self.views[self.drawn % self._size] = view
            self.drawn += 1

    def choose(self, views: int, repeats: int, rng: np.random.Generator) -> list[View]:
        """Return views, each of which is chosen so often in the mean.

        Raises:
            CompressionError: the thread has failed.
        """
        self._wait_for(views)
        self._allowed.release(max(1, views // repeats))
        return [self.views[i] for i in rng.choice(len(self.views), views, replace=False)]

    def _wait_for(self, views: int) -> None:
        while len(self.views) < views and self._thread.is_alive():
            time.sleep(0.05)
        if self._error:
            raise CompressionError(f"no view can be drawn: {self._error}") from self._error

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._allowed.release()
        self._thread.join()
