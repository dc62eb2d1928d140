"""Second looks at single images, chosen and joined as those at the frames of a camera.

An image stands for itself: its looks are chosen as if the frame before it had shown the same.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import Detections
from perception_nodes.core.merging import fragments, merge, merge_settings
from perception_nodes.core.region_choice import RegionChoice
from perception_nodes.evaluation.detector import Detector, Seen


class SecondLooks:
    """Looks again at images, and counts what that does to large objects.

    Attributes:
        made: number of looks so far.
        second_boxes: number of boxes that lie in that of another, large object of their kind:
            without second looks, and with them.
    """

    def __init__(self, detector: Detector, classes: Sequence[str], most: int) -> None:
        """Prepare for images.

        Args:
            detector: the model.
            classes: names of the classes of detections.
            most: looks at an image.
        """
        self._detector, self._most = detector, most
        self._settings = merge_settings(classes)
        self.made, self.second_boxes = 0, np.zeros(2, np.int64)

    def joined(
        self,
        pixels: NDArray[np.uint8],
        whole: Sequence[Detections],
        readers: Sequence[Callable[[Seen], Detections]],
    ) -> list[Detections]:
        """What was found in an image, together with what looks find.

        Args:
            pixels: uint8 [height, width, 3] BGR.
            whole: what each reader has read of the whole image.
            readers: read objects from an output; the last one does so as at run time.
        """
        source_px, input_px = pixels.shape[1::-1], self._detector.input_px
        policy = RegionChoice(source_px, input_px, None)
        policy.seen([], whole[-1])
        regions = policy.choose(self._most)
        found = []
        for region in regions:
            seen = self._detector.look(pixels, region)
            found.append([read(seen) for read in readers])
        joined = [
            merge(one, list(zip(regions, parts, strict=True)), input_px, source_px, self._settings)
            for one, *parts in zip(whole, *found, strict=True)
        ]
        self.made += len(regions)
        for place, one in enumerate((whole[-1], joined[-1])):
            within = fragments(one, one, input_px, self._settings)
            self.second_boxes[place] += np.count_nonzero(within)
        return joined

    def note(self) -> str:
        """What was done, and how many second boxes there are."""
        before, after = self.second_boxes.tolist()
        return (
            f"{self.made} second looks; boxes within that of another, large object of their kind: "
            f"{before} before, {after} after"
        )
