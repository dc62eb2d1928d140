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


BLACK = np.zeros((48, 64, 3), np.uint8)


def write_labelled(folder, name, labels, image=BLACK):
    """Write an image, such as `a.png`, into `images/`, and the lines of its labels."""
    picture = folder / "images" / name
    text = (folder / "labels" / name).with_suffix(".txt")
    for path in (picture, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(picture), image)
    text.write_text("\n".join(labels))


def write_set(folder, counts, draw):
    """Write an image dataset of so many scenes a split, each as `draw` makes it."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for index in range(count):
            image, labels = draw(rng)
            write_labelled(folder, f"{split}/{index:02}.png", labels, image)
