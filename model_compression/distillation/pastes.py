"""Objects of rare classes, cut out of frames and put into others (copy and paste).

Ghiasi et al., CVPR 2021, with boxes for masks. A vehicle is put beside another one, as large as
one of its kind would be there.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_compression.distillation.views import Boxes, Frame, Known
from model_compression.frames import read_image
from model_compression.labelling.boxes import GROUPS, VEHICLE
from model_compression.labels import CLASSES, Labels

Picture = NDArray[np.uint8]

SHARES = {"bus": 0.2, "truck": 0.2, "traffic light": 0.3, "stop sign": 0.3}
"""How often each class is pasted."""
HEIGHTS = {"bus": (1.3, 2.2), "truck": (1.2, 2.2)}
"""Of a vehicle, by that of the one that it is put beside."""
LEAST_SCORE = 0.7
LEAST_HEIGHTS_PX = {"bus": 28, "truck": 28, "traffic light": 14, "stop sign": 14}
LEAST_WIDTH_PX = 8
MOST_COVERED = 0.15
"""Share of a box that another object may cover, where it is cut out."""
GREATEST_ZOOM, GREATEST_SHARE = 2.5, 0.8
"""Of a cut-out; and how much of the frame's width it may take."""
HORIZON, LEAST_HEIGHT, GREATEST_HEIGHT = 0.48, 0.035, 0.7
"""Of the frame's height: where the horizon is taken to be, and heights of pasted objects."""
HIDDEN, TOUCHED = 0.85, 0.4
"""Shares of an object covered: from the first on it is gone, from the second on it is ignored."""

Cut = tuple[Path, Boxes]
"""A file, and a box in it."""


def cuts_of(frames: Sequence[Frame]) -> dict[str, list[Cut]]:
    """List the objects that can be cut out of frames, by class."""
    found: dict[str, list[Cut]] = {name: [] for name in SHARES}
    for path, labels in {one.path: one.labels for one in frames if one.labels}.items():
        for index in _whole(labels):
            found[CLASSES[labels.classes[index]]].append((path, labels.boxes[index]))
    return found


def pasted_frames(
    frames: Sequence[Frame], sets: Collection[str], share: float, rng: np.random.Generator
) -> list["Frame | Pasting"]:
    """Return the labelled frames; into those of some sets objects are pasted."""
    labelled = [one for one in frames if one.labels]
    cuts = cuts_of(labelled)
    return [
        Pasting(one, cuts, share, rng) if one.labels and one.labels.set_name in sets else one
        for one in labelled
    ]


def _whole(labels: Labels) -> Iterator[int]:
    """Indices of the objects that are large and sure enough, not cut and hardly covered."""
    width, height = labels.size_px
    for index, (box, number) in enumerate(zip(labels.boxes, labels.classes, strict=True)):
        name = CLASSES[number]
        if name not in SHARES or labels.scores[index] < LEAST_SCORE:
            continue
        sides = box[2:] - box[:2]
        inside = (box[:2] >= 2).all() and (box[2:] <= (width - 2, height - 2)).all()
        large = sides[0] >= LEAST_WIDTH_PX and sides[1] >= LEAST_HEIGHTS_PX[name]
        covered = _covered(box, np.delete(labels.boxes, index, 0)).max(initial=0)
        if inside and large and covered <= MOST_COVERED:
            yield index


def _covered(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Share of a box that each of others [n, 4] covers."""
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    return (high - low).clip(0).prod(1) / (box[2:] - box[:2]).prod()


@dataclass
class Pasting:
    """A frame with one to three pasted objects, which may be others each time that it is read.

    Attributes:
        frame: what is pasted into.
        cuts: what can be pasted, by class.
        share: how often something is.
        rng: of everything random.
    """

    frame: Frame
    cuts: Mapping[str, Sequence[Cut]] = field(repr=False)
    share: float
    rng: np.random.Generator

    def read(self) -> tuple[Picture, Known]:
        """Return its pixels, uint8 [h, w, 3] BGR, and what is known of them."""
        image, known = self.frame.read()
        if self.rng.random() >= self.share:
            return image, known
        names = [name for name in SHARES if self.cuts[name]]
        odds = np.array([SHARES[name] for name in names])
        for _ in range(self.rng.integers(1, 4) if names else 0):
            name = str(self.rng.choice(names, p=odds / odds.sum()))
            path, box = self.cuts[name][self.rng.integers(len(self.cuts[name]))]
            low, high = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
            cut = read_image(path)[low[1] : high[1], low[0] : high[0]]
            known = self._paste(image, cut, name, known)
        return image, known

    def _paste(self, image: Picture, cut: Picture, name: str, known: Known) -> Known:
        """Put a cut-out into an image, and return what is known then."""
        height, width = image.shape[:2]
        x, bottom, tall = self._place(name, known, (width, height))
        tall = float(np.clip(tall, LEAST_HEIGHT * height, GREATEST_HEIGHT * height))
        zoom = tall / cut.shape[0]
        wide = cut.shape[1] * zoom
        if zoom > GREATEST_ZOOM or wide > GREATEST_SHARE * width:
            return known
        corner = np.array([int(x - wide / 2), int(bottom - tall)])
        sides = np.array([max(4, int(wide)), max(4, int(tall))])
        low, high = np.maximum(corner, 0), np.minimum(corner + sides, (width, height))
        if (high - low).clip(0).prod() < sides.prod() / 2:
            return known
        cut = cv2.resize(cut, [*map(int, sides)], interpolation=cv2.INTER_AREA)
        cut = cut[:, :: self.rng.choice((-1, 1))]
        (left, top), (right, bottom) = low - corner, high - corner
        cut = cut[top:bottom, left:right]
        part = image[low[1] : high[1], low[0] : high[0]]
        part[:] = self._blended(part, cut)
        return _known_then(known, np.array([*low, *high], np.float32), name)

    def _place(
        self, name: str, known: Known, size_px: tuple[int, int]
    ) -> tuple[float, float, float]:
        """Choose the middle, the bottom and the height of an object."""
        width, height = size_px
        draw = self.rng.uniform
        if name not in HEIGHTS:
            return draw(0, width), draw(0.15, 0.62) * height, np.exp(draw(-3.5, -1.6)) * height
        vehicles = [CLASSES.index(kind) for kind in GROUPS[VEHICLE]]
        others = known.boxes[np.isin(known.classes, vehicles)]
        if len(others) and self.rng.random() < 0.75:
            left, top, right, bottom = others[self.rng.integers(len(others))]
            tall = (bottom - top) * draw(*HEIGHTS[name])
            middle = (left + right) / 2 + draw(-1.5, 1.5) * tall
            return middle, bottom + draw(-0.05, 0.1) * tall, tall
        bottom = draw(0.55, 0.92) * height
        return draw(0, width), bottom, (bottom - HORIZON * height) * draw(0.7, 1.6)

    def _blended(self, part: Picture, cut: Picture) -> Picture:
        """A cut-out over a part of an image, often as bright as that, with soft edges."""
        over = cut.astype(np.float32)
        if self.rng.random() < 0.5:
            over *= np.clip((part.mean() + 20) / (over.mean() + 20), 0.4, 1.6) ** 0.7
        edge = max(1, min(cut.shape[:2]) // 20)
        share = np.full(cut.shape[:2], 0.3, np.float32)
        share[edge:-edge, edge:-edge] = 1
        share = cv2.blur(share, (2 * edge + 1,) * 2)[..., None]
        return (part * (1 - share) + over * share).clip(0, 255).astype(np.uint8)


def _known_then(known: Known, box: Boxes, name: str) -> Known:
    """What is known when an object covers a box."""
    covered = np.array([_covered(one, box[None])[0] for one in known.boxes], np.float32)
    kept, touched = covered < TOUCHED, (covered >= TOUCHED) & (covered < HIDDEN)
    return Known(
        np.concatenate([known.boxes[kept], box[None]]),
        np.append(known.classes[kept], CLASSES.index(name)),
        np.append(known.scores[kept], np.float32(1)),
        np.concatenate([known.ignored_boxes, known.boxes[touched]]),
        np.concatenate(
            [known.ignored_classes, np.eye(len(CLASSES), dtype=bool)[known.classes[touched]]]
        ),
    )
