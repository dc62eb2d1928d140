"""Cases for the GPU kernels, and their comparison with the specifications, to the bit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import decode_oracle
import numpy as np
import preprocess_oracle

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import CameraInfo, ImageView
from perception_nodes.gpu.decode_job import DecodeResult, Head
from perception_nodes.gpu.preprocess_job import FramePlan, plan_frame
from perception_nodes.preprocess.formats import BYTES_PER_PIXEL, PACKED, PLANAR
from perception_nodes.preprocess.lens import lens_from
from perception_nodes.preprocess.placement import Placement

ENCODINGS = (*BYTES_PER_PIXEL, *PACKED)
SIZES = ((416, 256), (640, 384), (639, 383), (96, 65))
"""Width and height of a network's input."""
HEAD = Head(640, 384, (8, 16, 32), 16, 8)
SETTINGS = DecodeSettings(0.25, 0.6)


def lenses(width: int, height: int) -> dict[str, CameraInfo]:
    """Calibrations for images of this size."""
    focal = 0.6 * width
    matrix = (focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1)
    return {
        "no lens": CameraInfo(width, height, "plumb_bob", (), matrix),
        "barrel": CameraInfo(width, height, "plumb_bob", (-0.3, 0.08, 1e-3, -5e-4, 0), matrix),
        "pincushion": CameraInfo(width, height, "plumb_bob", (0.25, 0.1, 0, 0, 0), matrix),
        "fisheye": CameraInfo(width, height, "equidistant", (0.03, -6e-3, 1e-3, -5e-4), matrix),
    }


def flat(width: int, height: int) -> CameraInfo:
    """A calibration without distortion."""
    return lenses(width, height)["no lens"]


def placed(source: tuple[int, int], size: tuple[int, int], info: CameraInfo) -> Placement:
    """Placement of frames of a calibrated camera; sizes are width and height."""
    return Placement.fit(source, size, lens_from(info))


@dataclass(frozen=True)
class PictureCase:
    """A frame, the size of the network's input, and the camera's calibration."""

    name: str
    image: ImageView
    size: tuple[int, int]
    info: CameraInfo

    @property
    def placement(self) -> Placement:
        """Placement of the frame."""
        return placed((self.image.width, self.image.height), self.size, self.info)

    @property
    def plan(self) -> FramePlan:
        """Plan for such frames."""
        placement = self.placement
        return plan_frame(self.image, placement.letterbox, placement.grid())


def noise(encoding: str, width: int, height: int, padding: int = 0, seed: int = 0) -> ImageView:
    """A frame of random bytes; any bytes are a valid frame."""
    layout, bits = PACKED.get(encoding, (encoding, 8))
    step = width * BYTES_PER_PIXEL[layout] * bits // 8 + padding
    rows = height * 3 // 2 if encoding in PLANAR else height
    data = np.random.default_rng(seed).integers(0, 256, rows * step).astype(np.uint8)
    return ImageView(0, "camera", width, height, encoding, step, memoryview(data))


def picture_cases() -> Iterator[PictureCase]:
    """Every encoding with every lens, and extreme sizes."""
    for encoding in ENCODINGS:
        for lens, info in lenses(1280, 720).items():
            for size in SIZES[:2]:
                name = f"{encoding} 1280x720, {lens}, to {size[0]}x{size[1]}"
                yield PictureCase(name, noise(encoding, 1280, 720, 24), size, info)
    for size in SIZES:
        for source in [(2, 2), (2, 500), (500, 2), (642, 386), (1920, 1080)]:
            for encoding in ("nv12", "yuyv", "bgr8", "bayer_grbg8"):
                name = f"{encoding} {source[0]}x{source[1]} to {size[0]}x{size[1]}"
                yield PictureCase(name, noise(encoding, *source, 3), size, flat(*source))
    for source in [(1, 1), (1, 77), (77, 1), (333, 111)]:
        name = f"rgb8 {source[0]}x{source[1]} to {SIZES[0][0]}x{SIZES[0][1]}"
        yield PictureCase(name, noise("rgb8", *source, 1), SIZES[0], flat(*source))


@dataclass(frozen=True)
class HeadCase:
    """A head's tensors, and the placement of their frame."""

    name: str
    boxes: list[Any]
    classes: list[Any]
    placement: Placement


def head_cases() -> Iterator[HeadCase]:
    """Some objects, many, and too many through every lens; none, equal scores, and no numbers."""
    for lens, info in lenses(1920, 1080).items():
        placement = placed((1920, 1080), (HEAD.width, HEAD.height), info)
        for name, mean in {"some objects": -7.0, "many": -4.0, "a flood": 6.0}.items():
            yield HeadCase(f"{name}, {lens}", *tensors(3, mean), placement)
    boxes, classes = tensors(5, -20.0)
    yield HeadCase("no object", boxes, classes, placement)
    equal = [np.where(np.arange(8)[:, None, None] == 3, np.float32(2), level) for level in classes]
    yield HeadCase("equal scores everywhere", boxes, equal, placement)
    broken = [level.copy() for level in equal]
    broken[1][0, 2, 5, 5] = np.nan
    yield HeadCase("a class logit that is no number", boxes, broken, placement)
    boxes = [level.copy() for level in boxes]
    boxes[0][0, 9] = np.inf
    yield HeadCase("box logits that are no numbers", boxes, equal, placement)


def tensors(seed: int, mean: float) -> tuple[list[Any], list[Any]]:
    """Random box and class logits for `HEAD`, float32, one tensor for each level."""
    random = np.random.default_rng(seed)
    boxes, classes = [], []
    for stride in HEAD.strides:
        size = HEAD.size(stride)
        boxes.append(random.normal(0, 2, (1, 4 * HEAD.reg_max, *size)).astype(np.float32))
        classes.append(random.normal(mean, 2, (1, HEAD.classes, *size)).astype(np.float32))
    return boxes, classes


def compare(
    preprocess: Callable[[PictureCase], Sequence[Any]],
    decode: Callable[[HeadCase], DecodeResult],
    progress: Callable[[int, int], None],
    few: bool = False,
) -> tuple[int, list[str]]:
    """Run every case.

    Args:
        preprocess: computes the network's input of a case, in each way that a frame can come.
        decode: computes the result of a case.
        progress: called with the number of finished cases and the total.
        few: whether to run only some of the cases.

    Returns:
        The number of cases, and a line for each one that differs.
    """
    step = 16 if few else 1
    pictures, heads = list(picture_cases())[::step], list(head_cases())[::step]
    total, differences = len(pictures) + len(heads), []
    for number, case in enumerate(pictures):
        pixels = np.frombuffer(case.image.data, np.uint8)
        expected = preprocess_oracle.preprocess(pixels, case.plan)
        found = preprocess(case)
        wrong = max(int((one.reshape(expected.shape) != expected).sum()) for one in found)
        if wrong:
            differences.append(f"{case.name}: {wrong} of {expected.size} values differ")
        progress(number + 1, total)
    for number, head in enumerate(heads):
        result = decode_oracle.decode(head.boxes, head.classes, HEAD, SETTINGS, head.placement)
        if bytes(used(decode(head))) != bytes(used(result)):
            differences.append(f"decoding {head.name}: the results differ")
        progress(len(pictures) + number + 1, total)
    return total, differences


def used(result: DecodeResult) -> DecodeResult:
    """A copy of a result without its ticket and without remains of earlier frames."""
    kept = DecodeResult()
    for name in ("count", "found", "entered", "kept", "absurd"):
        setattr(kept, name, getattr(result, name))
    count = result.count
    kept.boxes[: 4 * count] = result.boxes[: 4 * count]
    kept.scores[:count] = result.scores[:count]
    kept.classes[:count] = result.classes[:count]
    return kept
