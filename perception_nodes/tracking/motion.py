"""How boxes move: a constant-velocity Kalman filter for each coordinate, all boxes at once.

A box is centre x, centre y, width and height. The four are filtered independently of each other,
each with its own velocity, so a filter is five numbers instead of matrices. The velocity changes by
white-noise acceleration (Bar-Shalom, Li and Kirubarajan 2001, section 6.2): the uncertainty of a
prediction depends on the time that has passed, and not on the number of steps. All noise is in
proportion to the object's size in the image, as in SORT's successors (Wojke et al. 2017).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Filters = NDArray[np.float64]
"""State of n boxes, [n, 6, 4]: what the indices below name, for each coordinate of a box."""
BOX: Final = 0
VELOCITY: Final = 1
BOX_VARIANCE: Final = 2
COVARIANCE: Final = 3
VELOCITY_VARIANCE: Final = 4
SIZE: Final = 5
"""Indices of the values, in px, px/s, px², px²/s, px²/s² and px. The size is the geometric mean of
the object's sides in the last detection, the same for all four coordinates."""

DETECTION_NOISE = 0.04
"""Standard deviation of a detected coordinate, in sizes of the object."""
FIRST_VELOCITY = 1.5
"""Standard deviation of the velocity of an object that was seen once, in sizes a second."""
ACCELERATION = 1.0
"""Square root of the intensity of the acceleration: after a second of it, the velocity has this
standard deviation, in sizes a second."""
MIN_SIDE_PX = 1.0


def born(boxes: NDArray[np.float64]) -> Filters:
    """Filters of boxes [n, 4] that were detected for the first time."""
    filters = np.zeros((len(boxes), 6, 4))
    size = _size(boxes)
    filters[:, BOX] = boxes
    filters[:, BOX_VARIANCE] = (DETECTION_NOISE * size) ** 2
    filters[:, VELOCITY_VARIANCE] = (FIRST_VELOCITY * size) ** 2
    filters[:, SIZE] = size
    return filters


def predicted(filters: Filters, passed_s: float) -> Filters:
    """The filters after a time, at least 0, in which nothing was detected."""
    box, velocity, box_var, covariance, velocity_var, size = filters.swapaxes(0, 1)
    noise = (ACCELERATION * size) ** 2 * passed_s
    later = np.empty_like(filters)
    later[:, BOX] = box + passed_s * velocity
    later[:, VELOCITY] = velocity
    later[:, BOX_VARIANCE] = box_var + passed_s * (
        2 * covariance + passed_s * (velocity_var + noise / 3)
    )
    later[:, COVARIANCE] = covariance + passed_s * (velocity_var + noise / 2)
    later[:, VELOCITY_VARIANCE] = velocity_var + noise
    later[:, SIZE] = size
    np.maximum(later[:, BOX, 2:], MIN_SIDE_PX, out=later[:, BOX, 2:])
    return later


def corrected(filters: Filters, boxes: NDArray[np.float64]) -> Filters:
    """The filters of objects that were detected in these boxes [n, 4] at their time."""
    box, velocity, box_var, covariance, velocity_var, size = filters.swapaxes(0, 1)
    total = box_var + (DETECTION_NOISE * size) ** 2
    gain, velocity_gain = box_var / total, covariance / total
    surprise = boxes - box
    later = np.empty_like(filters)
    later[:, BOX] = box + gain * surprise
    later[:, VELOCITY] = velocity + velocity_gain * surprise
    later[:, BOX_VARIANCE] = box_var - gain * box_var
    later[:, COVARIANCE] = covariance - gain * covariance
    later[:, VELOCITY_VARIANCE] = velocity_var - velocity_gain * covariance
    later[:, SIZE] = _size(boxes)
    return later


def corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes [n, 4] as x1 y1 x2 y2."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _size(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    size: NDArray[np.float64] = np.sqrt(boxes[:, 2:3] * boxes[:, 3:4])
    return size
