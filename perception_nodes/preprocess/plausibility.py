"""Whether pictures can be those of a camera that sees the road: ISO 21448 asks for it.

A lens cap, the sun, a lens that is out of focus or wet, and dirt or a sticker on a part of it
leave the graph working without fault: only the pictures tell.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameHeader

LOOK_NS = 200_000_000
"""Pictures are looked at this often."""
HELD_NS = 3_000_000_000
"""Implausible pictures are told when they have lasted for so long: tunnels begin and end."""
LEARNED_NS = 20_000_000_000
"""Pictures must have been sharp for so long before blurred ones are a fault: some cameras, and test
pictures, are never sharp. What is usual in a part of the picture is learned as long."""

DARK, LIT_SHARE = 40, 0.01
"""By night one pixel in a hundred is brighter than this at least; of 255."""
BLINDING, BLINDED_SHARE = 250, 0.5
NEAR, FAR = 1, 4
"""Distances between pixels of a row. Where a picture is smooth, the difference grows with it."""
SHARPNESS = 0.285
"""Least mean difference of near pixels, as a share of that of far ones. Of 780 pictures of eleven
sets of roads the least sharp one, in fog, has 0.29. Blurred by two pixels (sigma) nearly all have
less than this, and a smooth picture has NEAR / FAR."""
ROWS, COLUMNS = 4, 6
"""The parts of the picture."""
TEXTURED = 3.0
"""Parts with a smaller mean difference of far pixels than this, such as the sky, tell nothing."""
LOST, KEPT = 0.2, 0.5
"""Texture, as a share of the usual, of a part that is covered and of one that is not."""
COVERED_PARTS = 3
"""A third of the picture covers as many whole parts, wherever it lies."""
ENLARGED = 0.9
"""Pictures that are scaled by more than this show too little detail to be judged by it."""
SHADED = 0.5
"""A part of the upper half must be darker than this share of the whole: others are open sky."""
_STEP = 8
"""Only every so many rows are looked at."""


@dataclass(frozen=True)
class Measures:
    """What is seen in one picture.

    Attributes:
        lit: share of pixels that are brighter than `DARK`.
        blinded: share of pixels that are brighter than `BLINDING`.
        sharpness: see `SHARPNESS`; 1 where nothing is to be seen.
        texture, brightness: [ROWS, COLUMNS], means over each part.
    """

    lit: float
    blinded: float
    sharpness: float
    texture: NDArray[np.float32]
    brightness: NDArray[np.float32]


def measured(picture: NDArray[np.uint8], border: int) -> Measures | None:
    """Measure a picture.

    Args:
        picture: uint8 [height, width, 3], without the letterbox's borders.
        border: grey of what a rectified picture does not show.

    Returns:
        None if the picture is too small.
    """
    green = picture[::_STEP, :, 1].astype(np.int16)
    height, width = green.shape[0] // ROWS, (green.shape[1] - FAR) // COLUMNS
    if not height or not width:
        return None
    near, far = (np.abs(green[:, step:] - green[:, :-step]) for step in (NEAR, FAR))
    texture = float(far.mean())

    def parts(values: NDArray[np.int16]) -> NDArray[np.float32]:
        tiles = values[: ROWS * height, : COLUMNS * width].reshape(ROWS, height, COLUMNS, width)
        return np.asarray(tiles.mean(axis=(1, 3), dtype=np.float32))

    lit = float(((green > DARK) & (green != border)).mean())
    sharpness = float(near.mean()) / texture if texture else 1.0
    return Measures(lit, float((green > BLINDING).mean()), sharpness, parts(far), parts(green))


class PictureJudge:
    """Judges the pictures of one camera.

    Attributes:
        trouble: what is wrong with them, with what was measured; empty if they are plausible.
    """

    def __init__(self, border: int) -> None:
        """Begin to learn; for `border` see `measured`."""
        self.trouble = ""
        self._border = border
        self._looked_ns = 0
        self._plausible_ns = 0
        self._learned_ns = 0
        self._usual: NDArray[np.float32] | None = None

    def look(self, header: FrameHeader, pixels: NDArray[np.uint8]) -> None:
        """Take a frame; most are passed over.

        Args:
            header: of its slot.
            pixels: of its slot, uint8 [height, width, 3].
        """
        now_ns = header.ingested_ns
        passed_ns = now_ns - self._looked_ns
        if passed_ns < LOOK_NS:
            return
        self._looked_ns = now_ns
        left, top = round(header.pad_x), round(header.pad_y)
        right = left + round(header.scale_x * header.source_width)
        bottom = top + round(header.scale_y * header.source_height)
        seen = measured(pixels[top:bottom, left:right], self._border)
        is_enlarged = max(header.scale_x, header.scale_y) > ENLARGED
        why = self._implausible(seen, is_enlarged) if seen is not None else ""
        if not why:
            self._plausible_ns, self.trouble = now_ns, ""
            if seen is not None and seen.sharpness >= SHARPNESS:
                self._learn(seen, min(passed_ns, 2 * LOOK_NS))
        elif now_ns - (self._plausible_ns or now_ns) > HELD_NS:
            self.trouble = why
        self._plausible_ns = self._plausible_ns or now_ns  # the first one may be implausible

    def _learn(self, seen: Measures, passed_ns: int) -> None:
        self._learned_ns += passed_ns
        if self._usual is None:
            self._usual = seen.texture.copy()
        self._usual += (seen.texture - self._usual) * np.float32(passed_ns / LEARNED_NS)

    def _implausible(self, seen: Measures, is_enlarged: bool) -> str:
        if seen.lit < LIT_SHARE:
            return f"the camera's pictures are dark: only {seen.lit:.1%} is brighter than {DARK}"
        if seen.blinded > BLINDED_SHARE:
            return f"the camera is blinded: {seen.blinded:.0%} of its picture is white"
        if self._learned_ns < LEARNED_NS or is_enlarged:
            return ""
        if seen.sharpness < SHARPNESS:
            return (
                f"the camera's pictures are blurred: their sharpness is {seen.sharpness:.2f}, "
                f"pictures of roads have more than {SHARPNESS}"
            )
        covered = self._covered(seen)
        if covered >= COVERED_PARTS:
            share = covered / (ROWS * COLUMNS)
            return f"the camera is covered: {share:.0%} of its picture shows nothing any more"
        return ""

    def _covered(self, seen: Measures) -> int:
        """The number of parts that show nothing where there was something."""
        assert self._usual is not None
        told = self._usual >= TEXTURED
        lost = told & (seen.texture < LOST * self._usual)
        rest = told & ~lost
        if rest.any() and np.median(seen.texture[rest] / self._usual[rest]) < KEPT:
            return 0  # all of the picture has changed, as in a tunnel
        shaded = seen.brightness < SHADED * seen.brightness.mean()
        lost[: ROWS // 2] &= shaded[: ROWS // 2]
        return int(lost.sum())
