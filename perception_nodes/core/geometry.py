"""Letterbox and lens: from source pixels to the network's input, and exactly back.

Two conventions meet here. Boxes use *edge* coordinates: pixel i spans [i, i + 1), as detectors and
`cv2.resize` see it. Lens calibrations use *centre* coordinates: pixel i lies at i. They differ by
half a pixel, which is subtracted before a point passes through the lens and added afterwards.

The lens models are those of ROS `sensor_msgs/CameraInfo` (REP 104): `plumb_bob` and
`rational_polynomial` (Brown 1966, with the rational radial term of OpenCV) and `equidistant`
(Kannala and Brandt 2006).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameFlag, FrameHeader

Points = NDArray[np.float64]
_Float = TypeVar("_Float", np.float32, np.float64)
Resize = Literal["letterbox", "top-left", "stretch"]
"""How a picture becomes the input: whole in its middle, whole in its corner, or filling it."""
OUTSIDE = -1e6
"""Map coordinate of a pixel that the source does not show; remapping gives it the border value."""
TANGENTIAL_STEPS = 15
RADIUS_HALVINGS = 55
NEAR_RADII = 1001
RECTIFYING_STEPS, RECTIFYING_SHARE = 15, 0.8
PADDING_VALUE = 114
"""Grey of the letterbox border, the value that YOLO networks are trained with."""


@dataclass(frozen=True)
class Letterbox:
    """Placement of an image in the network's input: scaled, with grey borders.

    Attributes:
        width, height: size of the network's input in pixels.
        inner_width, inner_height: size of the scaled image inside it.
        pad_x, pad_y: pixels left of and above the scaled image.
        scale_x, scale_y: input pixels per source pixel; equal but for the rounding of the size,
            unless the image is stretched.
    """

    width: int
    height: int
    inner_width: int
    inner_height: int
    pad_x: int
    pad_y: int
    scale_x: float
    scale_y: float

    @classmethod
    def fit(
        cls,
        source_width: int,
        source_height: int,
        width: int,
        height: int,
        resize: Resize = "letterbox",
    ) -> "Letterbox":
        """The letterbox that shows a source image as large as possible in width x height."""
        scale_x, scale_y = width / source_width, height / source_height
        if resize != "stretch":
            scale_x = scale_y = min(scale_x, scale_y)
        inner_width = min(width, max(1, round(source_width * scale_x)))
        inner_height = min(height, max(1, round(source_height * scale_y)))
        pads = (width - inner_width) // 2, (height - inner_height) // 2
        pads = (0, 0) if resize == "top-left" else pads
        scales = inner_width / source_width, inner_height / source_height
        return cls(width, height, inner_width, inner_height, *pads, *scales)


@dataclass(frozen=True)
class Lens:
    """Intrinsics of a camera: focal lengths and centre in pixels, and its distortion.

    Attributes:
        matrix: fx, fy, cx, cy.
        distortion: k1 k2 p1 p2 k3 k4 k5 k6; for a fisheye lens k1 k2 k3 k4 and zeros.
        fisheye: whether the model is `equidistant` instead of polynomial.
    """

    matrix: tuple[float, float, float, float]
    distortion: tuple[float, ...]
    fisheye: bool = False

    def distort(self, normalized: Points) -> Points:
        """Project rays through the lens.

        Args:
            normalized: float64 [n, 2], x/z and y/z of rays.

        Returns:
            float64 [n, 2] source pixels, centre coordinates; `OUTSIDE` for rays beyond the fold,
            where the model turns back and would show a part of the image twice.
        """
        x, y = normalized[:, 0], normalized[:, 1]
        r2 = x * x + y * y
        shown = normalized * self._radial(r2)[:, None] + self._tangential(normalized)
        fx, fy, cx, cy = self.matrix
        pixels = shown * [fx, fy] + [cx, cy]
        pixels[r2 > self.fold_radius**2] = OUTSIDE
        return pixels

    def undistort(self, pixels: Points) -> Points:
        """The rays of source pixels: the inverse of `distort`.

        Args:
            pixels: float64 [n, 2], centre coordinates.

        Returns:
            float64 [n, 2], x/z and y/z; for a pixel that no ray reaches, the nearest ray at the
            fold.
        """
        fx, fy, cx, cy = self.matrix
        target = (pixels - [cx, cy]) / [fx, fy]
        rays = np.zeros_like(target)
        # The tangential part is small, so computing it from the last estimate converges quickly.
        for _ in range(TANGENTIAL_STEPS):
            rays = self._undo_radial(target - self._tangential(rays))
        return rays

    def within_fold(self, rays: Points) -> Points:
        """The rays, with those beyond the fold shortened to reach just up to it."""
        radius = np.hypot(rays[:, 0], rays[:, 1])
        limit = self.fold_radius * (1 - 1e-9)
        shorter = limit / np.maximum(radius, 1e-12)
        return np.where((radius > limit)[:, None], rays * shorter[:, None], rays)

    def rectified_matrix(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Intrinsics of a distortion-free image of the same size that shows the source's edges.

        The middles of the four source edges land on the edges of the rectified image. This is
        OpenCV's `alpha = 1` except that the far corners may be cut off: they are stretched so much
        that keeping them would shrink everything else.
        """
        return _showing(0, 0, width, height, self.undistort)

    def region_matrix(
        self, left: int, top: int, width: int, height: int
    ) -> tuple[float, float, float, float]:
        """Intrinsics of a distortion-free image of a region of the source, in its resolution.

        As `rectified_matrix`, but the middles of the edges land near the edges only, and the
        region's corner has the coordinates that it has in the source.
        """
        return _showing(left, top, width, height, self._near_rays)

    def _near_rays(self, pixels: Points) -> Points:
        """About the rays of source pixels: in a hundredth of the time of `undistort`."""
        fx, fy, cx, cy = self.matrix
        radii = np.linspace(0, self.fold_radius, NEAR_RADII)
        target = (pixels - [cx, cy]) / [fx, fy]
        wanted = np.maximum(np.hypot(target[:, 0], target[:, 1]), 1e-12)
        found = np.interp(wanted, radii * self._radial(radii * radii), radii)
        rays: Points = target * (found / wanted)[:, None]
        return rays

    def _undo_radial(self, shown: Points) -> Points:
        """Find each ray's radius by bisection: up to the fold the image radius grows with it."""
        wanted = np.hypot(shown[:, 0], shown[:, 1])
        low, high = np.zeros_like(wanted), np.full_like(wanted, self.fold_radius)
        for _ in range(RADIUS_HALVINGS):
            middle = (low + high) / 2
            short = middle * self._radial(middle * middle) < wanted
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return shown * (low / np.maximum(wanted, 1e-12))[:, None]

    def _tangential(self, rays: Points) -> Points:
        if self.fisheye:
            return np.zeros_like(rays)
        x, y = rays[:, 0], rays[:, 1]
        p1, p2 = self.distortion[2:4]
        r2 = x * x + y * y
        return np.stack(
            [2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=1
        )

    def _radial(self, r2: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.fisheye:
            k1, k2, k3, k4 = self.distortion[:4]
            r = np.sqrt(r2)
            theta2 = np.arctan(r) ** 2
            polynomial = 1 + theta2 * (k1 + theta2 * (k2 + theta2 * (k3 + theta2 * k4)))
            return np.where(r > 1e-9, np.sqrt(theta2) / np.maximum(r, 1e-9), 1.0) * polynomial
        k1, k2, _, _, k3, k4, k5, k6 = self.distortion
        return (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))

    @cached_property
    def fold_radius(self) -> float:
        """Smallest radius of a ray at which the image radius stops growing with it."""
        r = np.linspace(0, 10, 2001)
        with np.errstate(all="ignore"):  # a rational lens may have poles; the fold lies before them
            falling = np.flatnonzero(~(np.diff(r * self._radial(r * r)) > 0))
        return float(r[falling[0]]) if len(falling) else float(r[-1])


def _showing(
    left: int, top: int, width: int, height: int, undistort: Callable[[Points], Points]
) -> tuple[float, float, float, float]:
    """Intrinsics by which the middles of a part's edges stay where they are in the source."""
    middle_x, middle_y = left + (width - 1) / 2, top + (height - 1) / 2
    right, bottom = left + width - 1, top + height - 1
    edges = [[left, middle_y], [right, middle_y], [middle_x, top], [middle_x, bottom]]
    rays = undistort(np.array(edges, float))
    fx = (width - 1) / (rays[1, 0] - rays[0, 0])
    fy = (height - 1) / (rays[3, 1] - rays[2, 1])
    return fx, fy, left - rays[0, 0] * fx, top - rays[2, 1] * fy


def remap_grid(letterbox: Letterbox, lens: Lens, rectified: tuple[float, ...]) -> Points:
    """Source position of every pixel of the scaled image.

    Args:
        letterbox: the placement of the rectified image in the network's input.
        lens: the camera.
        rectified: fx, fy, cx, cy of the rectified image, in source pixels.

    Returns:
        float64 [inner_height, inner_width, 2], x and y in source pixels, centre coordinates.
    """
    u = (np.arange(letterbox.inner_width) + 0.5) / letterbox.scale_x - 0.5
    v = (np.arange(letterbox.inner_height) + 0.5) / letterbox.scale_y - 0.5
    fx, fy, cx, cy = rectified
    x, y = np.meshgrid((u - cx) / fx, (v - cy) / fy)
    source = lens.distort(np.stack([x.ravel(), y.ravel()], axis=1))
    return source.reshape(letterbox.inner_height, letterbox.inner_width, 2)


class BoxesToSource:
    """The way back of boxes from the network's input, for all frames with one placement."""

    def __init__(self, header: FrameHeader, lens: Lens | None) -> None:
        """Take the placement of a frame.

        Args:
            header: the frame's letterbox and rectified intrinsics.
            lens: the camera's lens if the frame was rectified, else None.
        """
        self._pad = np.array([header.pad_x, header.pad_y] * 2)
        self._scale = np.array([header.scale_x, header.scale_y] * 2)
        self._limits = np.array([header.source_width, header.source_height] * 2, np.float64)
        self._lens, self._rectified = lens, tuple(header.rectified_matrix)

    def __call__(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Transform boxes into the source image, and clip them to it.

        Args:
            boxes: float32 [n, 4], x1 y1 x2 y2 in input pixels, edge coordinates.

        Returns:
            float32 [n, 4] in source pixels. A distorting lens curves the straight edges of a box;
            the box returned bounds its four corners and the middles of its four edges.
        """
        source = self._clipped((boxes - self._pad) / self._scale)
        if self._lens is not None and len(source):
            source = self._clipped(_through_lens(source, self._lens, self._rectified))
        return source.astype(np.float32)

    def _clipped(self, boxes: Points) -> Points:
        return np.minimum(np.maximum(boxes, 0), self._limits)


def intersections_and_unions(
    first: NDArray[_Float], second: NDArray[_Float]
) -> tuple[NDArray[_Float], NDArray[_Float]]:
    """Areas that two boxes share and that they cover together, for every pair.

    Comparing `intersection > threshold * union` also works where two boxes have no area.

    Args:
        first: float [n, 4], x1 y1 x2 y2.
        second: float [m, 4].

    Returns:
        Intersections and unions, each [n, m], of the boxes' dtype.
    """
    # Coordinate by coordinate: NumPy is slow with a last axis of two.
    left, top, right, bottom = np.ascontiguousarray(first.T)[:, :, None]
    other_left, other_top, other_right, other_bottom = np.ascontiguousarray(second.T)
    width = np.minimum(right, other_right) - np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom) - np.maximum(top, other_top)
    intersections = np.maximum(width, 0) * np.maximum(height, 0)
    area = (right - left) * (bottom - top)
    other_area = (other_right - other_left) * (other_bottom - other_top)
    return intersections, area + other_area - intersections


def pairwise_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes [n, 4] with boxes [m, 4]: [n, m]."""
    intersections, unions = intersections_and_unions(first, second)
    shares: NDArray[np.float64] = intersections / np.maximum(unions, 1e-9)
    return shares


_OUTLINE = np.array([(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1)]) / 2


def _through_lens(boxes: Points, lens: Lens, rectified: tuple[float, ...]) -> Points:
    fx, fy, cx, cy = rectified
    rays = (boxes - 0.5 - [cx, cy, cx, cy]) / [fx, fy, fx, fy]
    low, high = rays[:, :2], rays[:, 2:]
    outline = low[:, None] + (high - low)[:, None] * _OUTLINE
    shown = lens.distort(lens.within_fold(outline.reshape(-1, 2))) + 0.5
    shown = shown.reshape(len(boxes), len(_OUTLINE), 2)
    found = np.concatenate([shown.min(axis=1), shown.max(axis=1)], axis=1)
    # A box that lies wholly beyond the fold covers no source pixel.
    nearest = np.clip(0, low, high)
    found[(lens.within_fold(nearest) != nearest).any(axis=1)] = 0
    return found


def rectified_boxes(
    source: Points, lens: Lens, rectified: tuple[float, ...], size: tuple[int, int]
) -> Points:
    """Where boxes lie in the rectified image: the way back of `BoxesToSource` through the lens.

    Corners would not do: a box in the source bounds a curved outline, whose corners lie within it.

    Args:
        source: float64 [n, 4], x1 y1 x2 y2 in source pixels, edge coordinates.
        lens: the camera.
        rectified: fx, fy, cx, cy of the rectified image, in source pixels.
        size: width and height of both images, pixels.

    Returns:
        float64 [n, 4], within the rectified image; the lens shows them as the boxes given, as far
        as it shows them: of a box at the edge of the source the part outside is not known.
    """
    limits = np.array(size * 2, np.float64)
    # Far from the middle of a fisheye, the steps from the boxes themselves would be too few.
    middles = (source[:, :2] + source[:, 2:]) / 2
    moved = lens.undistort(middles - 0.5) * rectified[:2] + rectified[2:] + 0.5 - middles
    boxes = np.clip(source + np.tile(moved, 2), 0, limits)
    for _ in range(RECTIFYING_STEPS):
        shown = np.clip(_through_lens(boxes, lens, rectified), 0, limits)
        enlarged = (boxes[:, 2:] - boxes[:, :2]) / np.maximum(shown[:, 2:] - shown[:, :2], 1)
        boxes += RECTIFYING_SHARE * np.tile(enlarged, 2) * (source - shown)
        boxes = np.clip(boxes, 0, limits)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return np.minimum(boxes, limits)


def lens_of(header: FrameHeader) -> Lens | None:
    """The lens that a slot's header describes, None if its picture was not rectified."""
    if not header.flags & FrameFlag.RECTIFIED:
        return None
    fx, fy, cx, cy = header.camera_matrix
    return Lens((fx, fy, cx, cy), tuple(header.distortion), bool(header.flags & FrameFlag.FISHEYE))
