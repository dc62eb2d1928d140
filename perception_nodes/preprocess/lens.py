"""The lens that a `CameraInfo` describes, after checks."""

from functools import lru_cache

import numpy as np

from perception_nodes.core.errors import InputError
from perception_nodes.core.frame import CameraInfo
from perception_nodes.core.geometry import Lens

POLYNOMIAL_MODELS = ("plumb_bob", "rational_polynomial")
FISHEYE_MODELS = ("equidistant", "fisheye")
LEAST_SCALE = 0.5
"""The least scale of the middle of a rectified picture. Rectifying shrinks it by more for lenses
from about 130 degrees on. Then more objects are found in the picture as it is."""


class UnknownLens(InputError):
    """Frames cannot be rectified with a calibration; the text states the cause."""


class WideLens(UnknownLens):
    """Objects would be found less often in rectified frames; that is no fault."""


def is_rectified(topic: str) -> bool:
    """Whether images of a topic are rectified already, by the names of image_proc.

    Its CameraInfo is then that of the camera, before it was rectified.
    """
    return any(part.startswith("image_rect") for part in topic.split("/"))


def lens_of_images(info: CameraInfo, width: int, height: int) -> Lens | None:
    """The lens that images of one size are rectified from, None if it does not distort.

    Raises:
        UnknownLens: see `lens_from`; or the calibration is of another size.
        WideLens: rectifying the images would do harm.
    """
    if not any(info.distortion):
        return None
    if (fitting := info.for_images(width, height)) is None:
        size = f"{info.width}x{info.height}"
        raise UnknownLens(f"the calibration is of {size}, and frames are {width}x{height}")
    lens = lens_from(fitting)
    if lens is not None and (scale := _scale_of_the_middle(lens, width, height)) < LEAST_SCALE:
        raise WideLens(f"the lens is so wide that the middle would shrink to {scale:.2f}")
    return lens


def _scale_of_the_middle(lens: Lens, width: int, height: int) -> float:
    """How large the middle of an image becomes when it is rectified, across or down."""
    x, y = (width - 1) / 2, (height - 1) / 2
    left, right, above, below = lens.undistort(
        np.array([[x - 0.5, y], [x + 0.5, y], [x, y - 0.5], [x, y + 0.5]])
    )
    fx, fy, *_ = lens.rectified_matrix(width, height)
    return float(min(fx * (right - left)[0], fy * (below - above)[1]))


@lru_cache(maxsize=8)
def lens_from(info: CameraInfo) -> Lens | None:
    """The lens of a calibration, None if it does not distort.

    Raises:
        UnknownLens: the model is not supported or its numbers are unusable.
    """
    if not any(info.distortion):
        return None
    if info.model not in POLYNOMIAL_MODELS + FISHEYE_MODELS:
        known = ", ".join(POLYNOMIAL_MODELS + FISHEYE_MODELS)
        raise UnknownLens(f"distortion model {info.model!r} is not supported; known are {known}")
    fx, _, cx, _, fy, cy = info.matrix[:6]
    if not np.isfinite(np.array([*info.matrix, *info.distortion])).all() or fx <= 0 or fy <= 0:
        raise UnknownLens(f"intrinsics are unusable: K = {info.matrix}, D = {info.distortion}")
    if len(info.distortion) > 8 and any(info.distortion[8:]):
        raise UnknownLens("thin-prism and tilt coefficients (D[8:]) are not supported")
    fisheye = info.model in FISHEYE_MODELS
    if fisheye and any(info.distortion[4:]):
        raise UnknownLens("an equidistant lens has four coefficients")
    lens = Lens((fx, fy, cx, cy), (*info.distortion[:8], *[0.0] * 8)[:8], fisheye)
    with np.errstate(all="ignore"):
        rectified = np.array(lens.rectified_matrix(info.width, info.height))
    if not np.isfinite(rectified).all() or min(rectified[:2]) <= 0:
        raise UnknownLens(f"K = {info.matrix}, D = {info.distortion} cannot be rectified")
    return lens
