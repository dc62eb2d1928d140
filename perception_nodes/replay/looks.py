"""Second looks at a fixed schedule: as many at each frame, as if time were no limit."""

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.clock import SystemClock
from perception_nodes.core.frame import (
    Detections,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    ImageView,
)
from perception_nodes.core.looking import Crop, Looking
from perception_nodes.core.merging import Region, merge_settings
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.networks.model import Model
from perception_nodes.preprocess.regions import Regions, is_in_full

UNLIMITED_NS = 3_600_000_000_000


class ScheduledLooks:
    """Looks again at the frames of one camera, one after the other."""

    def __init__(self, model: Model, most: int, pipeline: Pipeline) -> None:
        """Prepare for `most` looks at each frame but the first, with the pipeline's model."""
        size = model.input.width, model.input.height
        how = size, most, UNLIMITED_NS / 1e6, merge_settings(model.classes)
        self._pipeline, self._looking = pipeline, Looking(pipeline, SystemClock(), *how)
        self._regions = Regions(*size, model.input.padding)
        self._slot, self._pixels = FrameHeader(), np.zeros((*size[::-1], 3), np.uint8)
        self._wanted: list[Region] = []

    def detect(
        self, header: FrameHeader, pixels: NDArray[np.uint8], image: ImageView, sample_bits: int
    ) -> tuple[FrameRecord, Detections | None]:
        """Find the objects of a frame, as `Pipeline.detect`, and look again.

        Args:
            header: the frame's.
            pixels: the network input with the whole frame.
            image: the frame, uncompressed.
            sample_bits: significant bits of the frame's samples.
        """

        def crop(region: Region) -> Crop | None:
            try:
                self._regions.write(image, header, region, sample_bits, self._pixels, self._slot)
            except FrameRejected:  # see `Regions.write`
                return None
            return self._slot, self._pixels

        crops = map(crop, self._wanted if is_in_full(image, header) else [])
        header.looks, header.deadline_ns = len(self._wanted), header.deadline_ns + UNLIMITED_NS
        record, found = self._pipeline.detect(header, pixels)
        if found is not None:
            slot = header, record.deadline_ns, lambda _: next(crops, None)
            found = self._looking.again(record, found, *slot)
            asked = self._looking.ask()
            self._wanted = [(it.x_offset, it.y_offset) for it in asked.looks] if asked else []
        record.deadline_ns -= UNLIMITED_NS
        return record, found
