"""Weather, light and camera: a picture as a worse day would have given it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model_compression.distillation.views import View
from model_compression.train import to_tensor

Picture = NDArray[np.uint8]
"""[h, w, 3] BGR."""
JPEG_SHARE = 0.25
DARK = 60
"""Mean value of a picture that is dark already."""


def pictures(views: Sequence[View], rng: np.random.Generator) -> Tensor:
    """Return what the network sees of views, float32 [n, 3, h, w], RGB, 0 to 1."""
    return to_tensor([worsen(view.picture, rng) for view in views])


def worsen(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return a picture with some of `EFFECTS` at random strength, then stored as JPEG or not."""
    for effect, share in EFFECTS.items():
        if rng.random() < share:
            picture = effect(picture, rng)
    if rng.random() < JPEG_SHARE:
        quality = int(rng.integers(20, 80))
        _, stored = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = _bytes(cv2.imdecode(stored, cv2.IMREAD_COLOR))
    return picture


def light(picture: Picture, rng: np.random.Generator) -> Picture:
    """Another exposure, contrast, saturation and white balance."""
    colour, contrast = rng.uniform(0.2, 1.6), rng.uniform(0.6, 1.4)
    gain = np.exp(rng.uniform(-0.4, 0.35) + rng.uniform(-0.1, 0.1, 3))
    mixed = (colour * np.eye(3) + (1 - colour) / 3) * gain[:, None] * contrast
    middle = picture[::8, ::8].mean((0, 1)) @ mixed.T
    shift = middle.mean() * (1 / contrast - 1)
    return _bytes(cv2.transform(picture, np.column_stack([mixed, np.full(3, shift)])))


def night(picture: Picture, rng: np.random.Generator) -> Picture:
    """Darkness, with lamps left bright, and a sensor's noise."""
    if picture[::8, ::8].mean() < DARK:
        return picture
    steps = np.linspace(0, 1, 256) ** rng.uniform(1.3, 2.2) * 255 * rng.uniform(0.5, 1)
    return noise(_bytes(cv2.LUT(picture, steps.astype(np.uint8))), rng)


def haze(picture: Picture, rng: np.random.Generator) -> Picture:
    """Fog, thicker towards the middle of the picture's height."""
    rows = np.linspace(-1, 1, len(picture)) + rng.uniform(-0.3, 0.3)
    share = rng.uniform(0.2, 0.75) * (1 - np.abs(rows)).clip(0.3, 1)[:, None, None]
    grey = rng.uniform(120, 230)
    return (picture * (1 - share).astype(np.float32) + (grey * share)).astype(np.uint8)


def rain(picture: Picture, rng: np.random.Generator) -> Picture:
    """Streaks of drops, and a wet windscreen's blur."""
    drops = (rng.random(picture.shape[:2], np.float32) > 0.998).astype(np.uint8) * 255
    kernel = motion(int(rng.integers(7, 21)), rng.uniform(60, 120)) * rng.uniform(1, 4)
    streaks = cv2.filter2D(drops, -1, kernel)
    return _bytes(cv2.add(cv2.GaussianBlur(picture, (3, 3), 0.8), cv2.merge([streaks] * 3)))


def blur(picture: Picture, rng: np.random.Generator) -> Picture:
    """Out of focus, or moved while it was exposed."""
    if rng.random() < 0.5:
        return _bytes(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.4)))
    return _bytes(cv2.filter2D(picture, -1, motion(int(rng.integers(3, 8)), rng.uniform(0, 180))))


def noise(picture: Picture, rng: np.random.Generator) -> Picture:
    """Noise of the sensor."""
    found = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(2, 10))
    return _bytes(cv2.add(picture, found, dtype=cv2.CV_8U))


def motion(length_px: int, angle_deg: float) -> NDArray[np.float32]:
    """A kernel, float32 [length, length], that averages along a line of that angle."""
    line = np.zeros((length_px, length_px), np.float32)
    line[length_px // 2] = 1
    centre = ((length_px - 1) / 2, (length_px - 1) / 2)
    turn = cv2.getRotationMatrix2D(centre, angle_deg, 1)
    line = cv2.warpAffine(line, turn, (length_px, length_px)).astype(np.float32)
    return line / line.sum()


EFFECTS = {light: 0.7, night: 0.1, haze: 0.1, rain: 0.08, blur: 0.2, noise: 0.1}
"""How often each is met."""


def _bytes(picture: cv2.typing.MatLike) -> Picture:
    return np.asarray(picture, np.uint8)
