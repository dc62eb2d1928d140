"""What a camera sees in bad light, in bad weather or through a bad lens.

These are stand-ins that can be repeated exactly, not renderings of real weather.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from perception_nodes.report.annotate import Picture

NIGHT_NOISE = 6.0
DROPS_PER_MEGAPIXEL = 2500
RAIN_VEIL = 90


def with_weather(kind: str, picture: Picture, strength: float, number: int) -> Picture:
    """A picture with the effect of a fault.

    Args:
        kind: kind of a `PictureFault`.
        picture: the picture without the effect.
        strength: from 0 (no effect) to 1.
        number: number of the frame, which seeds the noise.
    """
    return _CHANGES[kind](picture, strength, np.random.default_rng(number))


def _night(picture: Picture, strength: float, random: np.random.Generator) -> Picture:
    """Less light, and noise from the gain of the sensor."""
    dark = picture * (1.0 - 0.9 * strength)
    return _clipped(dark + random.normal(0.0, NIGHT_NOISE * strength, picture.shape))


def _rain(picture: Picture, strength: float, random: np.random.Generator) -> Picture:
    """Blur from water on the windscreen, a grey veil, and drops as bright streaks."""
    height, width = picture.shape[:2]
    sigma = 0.1 + 2.0 * strength * height / 720
    veiled = cv2.GaussianBlur(picture, (0, 0), sigma).astype(np.float64)
    veiled += 0.4 * strength * (RAIN_VEIL - veiled)
    drops = np.zeros((height, width), np.uint8)
    count = round(DROPS_PER_MEGAPIXEL * strength * height * width / 1e6)
    length = max(4, round(height / 30))
    for x, y in zip(
        random.integers(0, width, count).tolist(),
        random.integers(0, height, count).tolist(),
        strict=True,
    ):
        cv2.line(drops, (x, y), (x + length // 4, y + length), 255)
    veiled += drops[..., None] * (0.35 * strength)
    return _clipped(veiled + random.normal(0.0, 8.0 * strength, picture.shape))


def _sun_glare(picture: Picture, strength: float, random: np.random.Generator) -> Picture:
    """A low sun in the upper middle: saturated at its place, less contrast around it."""
    height, width = picture.shape[:2]
    y, x = np.ogrid[:height, :width]
    distance = np.hypot(x - 0.55 * width, y - 0.25 * height) / height
    glow = np.exp(-((distance / (0.2 + 0.4 * strength)) ** 2))[..., None]
    return _clipped(picture + 400.0 * strength * glow)


def _lens_blocked(picture: Picture, strength: float, random: np.random.Generator) -> Picture:
    """Mud on the lens: the covered share is dark and out of focus; at strength 1, all of it."""
    mask = np.zeros(picture.shape[:2], np.float64)
    mask[:, : round(picture.shape[1] * strength)] = 1.0
    covered = np.asarray(cv2.GaussianBlur(mask, (0, 0), 5.0), np.float64)[..., None]
    mud = cv2.GaussianBlur(picture, (0, 0), picture.shape[0] / 8) * 0.15
    # Noise of the sensor, which is there in the dark too.
    noise = random.normal(0.0, 1.0, picture.shape)
    return _clipped(picture * (1 - covered) + (mud + noise) * covered)


def _clipped(values: Any) -> Picture:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


_CHANGES: dict[str, Callable[[Picture, float, np.random.Generator], Picture]] = {
    "night": _night,
    "rain": _rain,
    "sun_glare": _sun_glare,
    "lens_blocked": _lens_blocked,
}
