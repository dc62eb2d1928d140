"""Where the network looks again: regions of the next frame, at the resolution of its source.

A frame loses most of its pixels on its way into the network. A second look is a crop of the size of
the input, at scale 1. Looks go in turn to where small objects are, and to the part of the band
around the horizon that was not looked at for longest.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import Detections
from perception_nodes.core.geometry import intersections_and_unions
from perception_nodes.core.merging import ALIGNED_PX, Region

LEAST_GAIN = 1.25
"""A frame that is larger than the input by less than this factor gains nothing."""
STEPS = 8
"""Steps of the places of looks to the size of an input."""
OVERLAP = 8
"""Looks of the sweep overlap by this part of the input, so that what one cuts another one shows."""
SMALL_PX = 32.0
"""An object that is lower than this in the network's input is worth a second look."""
GROWING = 1.04
"""An object that is higher than before by this factor approaches, and counts twice."""
FORGETTING, FORGOTTEN = 0.7, 0.2
"""What was there and is gone counts less by the factor each frame, and then not at all."""
REMEMBERED = 128
"""Number of small objects that are remembered, the best ones."""
LEARNING = 0.02
"""Share of a frame's small objects in what is known of the horizon."""


class RegionChoice:
    """Chooses the regions of one camera's frames.

    The same calls give the same regions. Memory does not grow.

    Attributes:
        size: width and height of a region, in pixels of the source; a region that is larger than
            the source in one direction shows all of it there, in the middle.
    """

    def __init__(
        self,
        source_px: tuple[int, int],
        input_px: tuple[int, int],
        axis_px: float | None = None,
        learning: float = LEARNING,
    ) -> None:
        """Create a policy.

        Args:
            source_px: width and height of the frames.
            input_px: width and height of the network's input.
            axis_px: row of the source on which the lens's axis lies, where the horizon of a level
                camera is; None: the middle.
            learning: see `LEARNING`; 0: the horizon is on that row.
        """
        (width, height), self.size = source_px, input_px
        gain = max(width / input_px[0], height / input_px[1])
        self._pays, self._small_px = gain > LEAST_GAIN, SMALL_PX * gain
        self._lefts = _places(width, input_px[0], input_px[0] // STEPS)
        self._tops = _places(height, input_px[1], input_px[1] // STEPS)
        self._sweep = _places(width, input_px[0], input_px[0] - input_px[0] // OVERLAP)
        self._unseen = np.arange(len(self._sweep), 0, -1)  # frames since the last look; ties: left
        self._chosen: list[Region] = []
        self._looks, self._learning = 0, learning
        self._height_px, self._band_px = height, input_px[1] / 4 * np.array([-1, 1])
        self._horizon_px = height / 2 if axis_px is None else axis_px
        self._boxes, self._worth = np.empty((0, 4)), np.empty(0)

    def choose(self, count: int) -> list[Region]:
        """Regions of the next frame, at most `count`, the most wanted one first.

        There are fewer if the band has no further ones, and none if they do not pay.
        """
        regions: list[Region] = []
        worth, unseen = self._worth.copy(), self._unseen.copy()
        for look in range(self._looks, self._looks + count * self._pays):
            region = None if look % 2 else self._most_wanted(worth)
            region = region or self._unseen_longest(unseen)
            if region not in regions:
                regions.append(region)
                worth[self._shown(region, self._boxes)] = 0
                unseen[self._swept(region)] = -1
        self._chosen = regions
        return regions

    def seen(self, regions: Sequence[Region], detections: Detections) -> None:
        """Take in a frame.

        Args:
            regions: those that were looked at.
            detections: the frame's objects, in pixels of the source.
        """
        self._looks += len(regions)
        self._unseen += 1
        for region in self._chosen:  # where it does not come, the others have their turn
            self._unseen[self._swept(region)] //= 2
        for region in regions:
            self._unseen[self._swept(region)] = 0
        found = detections.boxes.astype(np.float64)
        heights = found[:, 3] - found[:, 1]
        small = np.flatnonzero(heights < self._small_px)
        boxes, same = found[small], intersections_and_unions(found, self._boxes)[0] > 0
        if len(boxes):
            middle_px = float(np.median(boxes[:, 1] + boxes[:, 3]) / 2)
            self._horizon_px += self._learning * (middle_px - self._horizon_px)
        growing = heights[:, None] > GROWING * (self._boxes[:, 3] - self._boxes[:, 1])
        worth = 1.0 + (same & growing)[small].any(axis=1)
        gone = ~same.any(axis=0)
        missed, worth_missed = self._boxes[gone], self._worth[gone] * FORGETTING
        for region in regions:
            worth_missed[self._shown(region, missed)] *= FORGETTING
        kept = worth_missed > FORGOTTEN
        self._boxes = np.concatenate([boxes, missed[kept]])[:REMEMBERED]
        self._worth = np.concatenate([worth, worth_missed[kept]])[:REMEMBERED]

    def _most_wanted(self, worth: NDArray[np.float64]) -> Region | None:
        """The region that shows the most worth, None if there is none left."""
        x1, y1, x2, y2 = self._boxes.T
        width, height = self.size
        across = (self._lefts[:, None] <= x1) & (x2 <= self._lefts[:, None] + width)
        down = (self._tops[:, None] <= y1) & (y2 <= self._tops[:, None] + height)
        shown = (across * worth) @ down.T
        left, top = divmod(int(shown.argmax()), len(self._tops))
        found = int(self._lefts[left]), int(self._tops[top])
        return found if shown[left, top] > 0 else None

    def _unseen_longest(self, unseen: NDArray[np.int64]) -> Region:
        top = self._tops[np.abs(self._tops + self.size[1] / 2 - self._horizon_px).argmin()]
        return int(self._sweep[unseen.argmax()]), int(top)

    def _shown(self, region: Region, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which boxes lie in a region as a whole."""
        (left, top), (x1, y1, x2, y2) = region, boxes.T
        shown: NDArray[np.bool_] = (x1 >= left) & (x2 <= left + self.size[0])
        shown &= (y1 >= top) & (y2 <= top + self.size[1])
        return shown

    def _swept(self, region: Region) -> NDArray[np.bool_]:
        """Which parts of the sweep a region shows as a whole."""
        low, high = np.clip(self._horizon_px + self._band_px, 0, self._height_px)
        shows: bool = region[1] <= low and high < region[1] + self.size[1] + ALIGNED_PX
        swept: NDArray[np.bool_] = (self._sweep == region[0]) & shows
        return swept


def _places(length: int, own: int, step: int) -> NDArray[np.int64]:
    """Where regions begin in one direction: even steps, none much larger than `step` pixels.

    Args:
        length: of the source.
        own: of a region.
        step: in pixels.
    """
    if length <= own:
        return np.array([-((own - length) // 2)])
    places = np.linspace(0, length - own, 1 - (own - length) // step)
    return places.astype(np.int64) // ALIGNED_PX * ALIGNED_PX
