"""Training images: letterboxed like the run time's, then varied in scale, place and colour."""

import cv2
import numpy as np

from perception_nodes.core.geometry import PADDING_VALUE


def place(
    image: np.ndarray,
    labels: np.ndarray,
    tile_px: tuple[int, int],
    scale: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image and put it at random into a tile, cutting what stands out of it.

    ``image`` is uint8 [h, w, 3], ``labels`` float32 [n, 5] of class and cx, cy, w, h as fractions
    of the image, ``tile_px`` (width, height). Returns the tile (uint8) and its labels with
    corners in tile pixels (float32 [m, 5]).
    """
    height_px, width_px = image.shape[:2]
    slack = np.array(tile_px) - scale * np.array([width_px, height_px])
    shift = rng.uniform(np.minimum(slack, 0), np.maximum(slack, 0))
    # OpenCV counts from the centre of the first pixel, labels from its edge.
    left_px, top_px = shift + (scale - 1) / 2
    # Bilinear without a low pass, as the run time's one-pass resize does it.
    tile = cv2.warpAffine(
        image,
        np.array([[scale, 0, left_px], [0, scale, top_px]]),
        tile_px,
        flags=cv2.INTER_LINEAR,
        borderValue=(PADDING_VALUE,) * 3,
    )
    centre = labels[:, 1:3] * [width_px, height_px] * scale + shift
    half = labels[:, 3:5] * [width_px, height_px] * scale / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    clipped = corners.clip(0, np.array(tile_px * 2))
    size = clipped[:, 2:] - clipped[:, :2]
    visible = size.prod(axis=1) / (4 * half.prod(axis=1) + 1e-9)
    keep = (size.min(axis=1) >= 3) & (visible > 0.3)
    return tile, np.column_stack([labels[:, :1], clipped])[keep].astype(np.float32)


def mosaic(
    samples: list, scales: list[float], size_px: tuple[int, int], rng: np.random.Generator
) -> tuple:
    """Fill the input with parts of four images (one, given only one) around a random point."""
    width_px, height_px = size_px
    if len(samples) == 1:
        return place(*samples[0], (width_px, height_px), scales[0], rng)
    x = round(width_px * rng.uniform(0.3, 0.7))
    y = round(height_px * rng.uniform(0.3, 0.7))
    canvas = np.empty((height_px, width_px, 3), np.uint8)
    all_labels = []
    tiles = [(0, 0, x, y), (x, 0, width_px, y), (0, y, x, height_px), (x, y, width_px, height_px)]
    for (left, top, right, bottom), sample, scale in zip(tiles, samples, scales, strict=True):
        tile, labels = place(*sample, (right - left, bottom - top), scale, rng)
        canvas[top:bottom, left:right] = tile
        all_labels.append(labels + np.array([0, left, top, left, top], np.float32))
    return canvas, np.concatenate(all_labels)


def fit_scale(image: np.ndarray, size_px: tuple[int, int]) -> float:
    """Return the scale at which the whole image just fits into width and height."""
    return min(size_px[0] / image.shape[1], size_px[1] / image.shape[0])


def jitter_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary hue by up to 1.5 %, saturation by 60 %, brightness by 40 % of a BGR image."""
    gain = 1 + rng.uniform(-1, 1, 3) * [0.015, 0.6, 0.4]
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    steps = np.arange(256)
    hue = cv2.LUT(hue, (steps * gain[0] % 180).astype(np.uint8))
    saturation = cv2.LUT(saturation, (steps * gain[1]).clip(0, 255).astype(np.uint8))
    value = cv2.LUT(value, (steps * gain[2]).clip(0, 255).astype(np.uint8))
    return cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2BGR)


def augment(
    samples: list, size_px: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make one training image of one or four samples (image uint8 BGR, labels [n, 5]).

    ``size_px`` is the input's width and height. Returns the input image (uint8 [height, width, 3]
    BGR) and labels (float32 [m, 5], class and cx, cy, w, h as fractions of the input).
    """
    low, high = (0.8, 1.6) if len(samples) == 1 else (0.6, 1.4)
    scales = [fit_scale(image, size_px) * rng.uniform(low, high) for image, _ in samples]
    image, labels = mosaic(samples, scales, size_px, rng)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
        labels[:, [1, 3]] = size_px[0] - labels[:, [3, 1]]
    corners = labels[:, 1:] / np.array(size_px * 2, np.float32)
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return jitter_colour(image, rng), np.column_stack([labels[:, :1], centre, size])
