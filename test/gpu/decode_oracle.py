"""The specification of `kernels/decode.cu` in NumPy: what the GPU decodes from a head's tensors.

It performs the operations of the kernels, each rounded once, so that the bits are the same. The
results agree with `core/decode.py` and `geometry.BoxesToSource` except for the rounding of
exponentials.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.decode import ABSURD_LOGIT, DecodeSettings
from perception_nodes.core.frame import MAX_DETECTIONS
from perception_nodes.gpu.decode_job import ABSURD_BOX, MAX_CANDIDATES, DecodeResult, Head
from perception_nodes.preprocess.placement import Placement

Single = np.float32
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]


def decode(
    boxes: Sequence[Singles],
    classes: Sequence[Singles],
    head: Head,
    settings: DecodeSettings,
    placement: Placement,
) -> DecodeResult:
    """The result for a frame with ticket 0.

    Args:
        boxes: for each level, float32 [1, 4 * reg_max, rows, columns].
        classes: for each level, float32 [1, n, rows, columns].
        head: sizes of the network's head.
        settings: thresholds of the decoder.
        placement: placement of the frame.
    """
    result = DecodeResult()
    logits = np.concatenate([level[0].reshape(head.classes, -1) for level in classes], axis=1)
    bins = np.concatenate([level[0].reshape(4, head.reg_max, -1) for level in boxes], axis=2)
    sizes = [head.size(stride) for stride in head.strides]
    cells = [rows * columns for rows, columns in sizes]
    strides = np.repeat(np.array(head.strides, Single), cells)
    centres = np.concatenate([_centres(*size) for size in sizes])
    levels = np.repeat(np.arange(len(cells)), cells)

    sane = _is_sane(logits).all(axis=0)
    for level in np.unique(levels[~sane]):
        result.absurd |= 1 << int(level)
    best, labels = np.fmax.reduce(logits, axis=0), logits.argmax(axis=0)
    found = np.flatnonzero(sane & (best > Single(settings.logit_threshold)))
    result.found = len(found)
    order = found[np.argsort(-(best[found] + Single(0)), kind="stable")]
    entered = order[:MAX_CANDIDATES]
    if not _is_sane(bins[:, :, entered]).all():
        result.absurd |= ABSURD_BOX
    if result.absurd:
        return result
    result.entered = len(entered)
    corners = _corners(bins[:, :, entered], centres[entered], strides[entered])
    kept = _suppress(corners, labels[entered], Single(settings.iou_threshold))
    result.kept = len(kept)
    kept = kept[:MAX_DETECTIONS]
    shown = _to_source(corners[kept].astype(np.float64), placement)
    seen = (shown[:, 2:] > shown[:, :2]).all(axis=1)
    result.count = count = int(seen.sum())
    chosen = entered[kept[seen]]
    result.boxes[: 4 * count] = shown[seen].ravel().tolist()
    result.scores[:count] = _scores(best[chosen]).tolist()
    result.classes[:count] = labels[chosen].tolist()
    return result


def exponential(x: Singles) -> Singles:
    """e^x for x <= 0, to two units in the last place; 0 below the smallest normal number.

    The polynomial of Cephes' expf (Moshier 1992).
    """
    n = np.floor(x * Single(1.44269504) + Single(0.5))
    rest = x - n * Single(0.693359375)
    rest = rest - n * Single(-2.12194440e-4)
    y = np.full_like(x, Single(1.9875691500e-4))
    for coefficient in (
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    ):
        y = y * rest + Single(coefficient)
    y = y * (rest * rest) + rest + Single(1)
    return np.where(x < -87, Single(0), np.ldexp(y, np.maximum(n, -126).astype(np.int32)))


def arc_tangent(x: Doubles) -> Doubles:
    """Arc tangent of x >= 0, to two units in the last place (Cephes' atan, Moshier 1992)."""
    steep, middle = x > 2.41421356237309504880, x > 0.66
    base = np.select([steep, middle], [1.57079632679489661923, 0.785398163397448309616], 0.0)
    rest = np.select([steep, middle], [6.123233995736765886130e-17, 3.061616997868382943065e-17], 0)
    x = np.select([steep, middle], [-1.0 / np.maximum(x, 0.1), (x - 1.0) / (x + 1.0)], x)
    z = x * x
    p = np.full_like(z, -8.750608600031904122785e-1)
    for coefficient in (
        1.615753718733365076637e1,
        7.500855792314704667340e1,
        1.228866684490136173410e2,
        6.485021904942025371773e1,
    ):
        p = p * z - coefficient
    q = z + 2.485846490142306297962e1
    for coefficient in (
        1.650270098316988542046e2,
        4.328810604912902668951e2,
        4.853903996359136964868e2,
        1.945506571482613964425e2,
    ):
        q = q * z + coefficient
    found: Doubles = base + (x * (z * p / q) + x + rest)
    return found


def _is_sane(logits: Singles) -> NDArray[np.bool_]:
    return (logits < ABSURD_LOGIT) & (logits > -ABSURD_LOGIT)


def _centres(rows: int, columns: int) -> Singles:
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(Single)


def _corners(bins: Singles, centres: Singles, strides: Singles) -> Singles:
    """Boxes [n, 4] in input pixels, from bins [4, reg_max, n]."""
    weights = exponential(bins - bins.max(axis=1, keepdims=True))
    total, moment = np.zeros_like(weights[:, 0]), np.zeros_like(weights[:, 0])
    for index in range(weights.shape[1]):
        total = total + weights[:, index]
        moment = moment + Single(index) * weights[:, index]
    distance = (moment / total).T
    corners = np.concatenate([centres - distance[:, :2], centres + distance[:, 2:]], axis=1)
    return corners * strides[:, None]


def _suppress(boxes: Singles, labels: NDArray[np.int64], threshold: Single) -> NDArray[np.int64]:
    """Indices of boxes, best first, without those that overlap a better kept one too much."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for index, box in enumerate(boxes):
        rivals = [other for other in kept if labels[other] == labels[index]]
        low = np.maximum(box[:2], boxes[rivals, :2])
        high = np.minimum(box[2:], boxes[rivals, 2:])
        size = np.maximum(high - low, Single(0))
        intersection = size[:, 0] * size[:, 1]
        both = area[index] + area[rivals] - intersection
        if not (intersection > threshold * both).any():
            kept.append(index)
    return np.array(kept, np.int64)


def _scores(logits: Singles) -> Singles:
    part = exponential(-np.abs(logits))
    return np.where(logits < 0, part / (Single(1) + part), Single(1) / (Single(1) + part))


def _to_source(boxes: Doubles, placement: Placement) -> Singles:
    """Convert boxes [n, 4] of the input to source pixels, clipped to the source image."""
    box = placement.letterbox
    source = (boxes - [box.pad_x, box.pad_y] * 2) / ([box.scale_x, box.scale_y] * 2)
    limits = [placement.source_width, placement.source_height] * 2
    if placement.lens is not None:
        source = _bent(np.clip(source, 0, limits), placement)
    return np.clip(source, 0, limits).astype(Single)


def _bent(boxes: Doubles, placement: Placement) -> Doubles:
    """The boxes that bound the outlines of boxes of the rectified image, projected by the lens."""
    fx, fy, cx, cy = placement.rectified
    low = (boxes[:, :2] - 0.5 - [cx, cy]) / [fx, fy]
    high = (boxes[:, 2:] - 0.5 - [cx, cy]) / [fx, fy]
    across, down = np.array([0, 0.5, 1, 0, 1, 0, 0.5, 1]), np.array([0, 0, 0, 0.5, 0.5, 1, 1, 1])
    x = low[:, :1] + (high[:, :1] - low[:, :1]) * across
    y = low[:, 1:] + (high[:, 1:] - low[:, 1:]) * down
    u, v = _shown(x, y, placement)
    bounds = np.stack([u.min(axis=1), v.min(axis=1), u.max(axis=1), v.max(axis=1)], axis=1)
    nearest = np.minimum(np.maximum(0.0, low), high)
    bounds[_drawn_in(nearest[:, 0], nearest[:, 1], placement) < 1] = 0
    return bounds


def _drawn_in(x: Doubles, y: Doubles, placement: Placement) -> Doubles:
    """Factors that shorten rays beyond the fold of the lens to reach just up to it; else 1."""
    assert placement.lens is not None
    radius = np.sqrt(x * x + y * y)
    limit = placement.lens.fold_radius * (1 - 1e-9)
    return np.where(radius > limit, limit / np.maximum(radius, 1e-12), 1.0)


def _shown(x: Doubles, y: Doubles, placement: Placement) -> tuple[Doubles, Doubles]:
    """Project rays through the lens: source pixels, edge coordinates."""
    lens = placement.lens
    assert lens is not None
    factor = _drawn_in(x, y, placement)
    x, y = x * factor, y * factor
    r2 = x * x + y * y
    k = lens.distortion
    dx = dy = np.zeros_like(x)
    if lens.fisheye:
        r = np.sqrt(r2)
        theta = arc_tangent(r)
        t2 = theta * theta
        along = t2 * (t2 * (t2 * (t2 * k[3] + k[2]) + k[1]) + k[0]) + 1.0
        along = np.where(r > 1e-9, theta / np.maximum(r, 1e-9) * along, along)
    else:
        over = r2 * (r2 * (r2 * k[4] + k[1]) + k[0]) + 1.0
        along = over / (r2 * (r2 * (r2 * k[7] + k[6]) + k[5]) + 1.0)
        p1, p2 = k[2:4]
        dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    fx, fy, cx, cy = lens.matrix
    return (x * along + dx) * fx + cx + 0.5, (y * along + dy) * fy + cy + 0.5
