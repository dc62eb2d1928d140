"""Labelled images, drawn on the spot."""

import cv2
import numpy as np


def draw_scene(rng):
    """One bright rectangle on noise, uint8 [120, 160, 3], and its YOLO label as class 0."""
    image = rng.integers(0, 90, (120, 160, 3), dtype=np.uint8)
    width, height = rng.integers(30, 80, 2)
    left, top = rng.integers(0, 160 - width), rng.integers(0, 120 - height)
    image[top : top + height, left : left + width] = rng.integers(150, 255, 3)
    centre = (left + width / 2) / 160, (top + height / 2) / 120
    return image, [f"0 {centre[0]:.4f} {centre[1]:.4f} {width / 160:.4f} {height / 120:.4f}"]


def write_set(folder, counts, draw):
    """Write an image dataset of so many scenes a split, each as `draw` makes it."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            image, labels = draw(rng)
            cv2.imwrite(str(folder / f"images/{split}/{index:02}.png"), image)
            (folder / f"labels/{split}/{index:02}.txt").write_text("\n".join(labels))
