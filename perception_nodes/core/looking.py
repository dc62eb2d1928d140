"""When the network looks again at a frame: while that is predicted to keep everything in time.

The first look at a frame, of whatever camera, comes before every second look. What second looks
cost is predicted apart, see `Candidate.look`, so that they do not change the choice of the model.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core import frame
from perception_nodes.core.clock import Clock
from perception_nodes.core.decode import AbsurdOutput
from perception_nodes.core.inference import BackendError, BackendLost
from perception_nodes.core.merging import MergeSettings, Region, merge
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.core.region_choice import RegionChoice

UNTIL_SHARE = 0.7
"""Share of the deadline that looks may use; the rest is for the system's own delays."""
FORGIVEN_EVERY = 30
"""At every 30th frame without time for a look, a look is expected to cost no more than the whole
frame does, from inference to publication: what once was slow may be fast again."""
PATIENCE = 30
"""After so many frames without the regions asked for, only every 30th frame is asked for some: it
may be of a kind that regions are not made of."""
Crop = tuple[frame.FrameHeader, NDArray[np.uint8]]
"""A region of a frame: its slot's header and pixels."""


class Looking:
    """Looks again at the frames of one camera, and says where to look in the next one."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        input_px: tuple[int, int],
        most: int,
        until_ms: float,
        settings: MergeSettings,
    ) -> None:
        """Create one for a camera.

        Args:
            pipeline: the camera's.
            clock: source of monotonic time.
            input_px: width and height of the network's input, which are those of a region.
            most: looks at a frame, at most.
            until_ms: time after the capture by which detections must be out after another look; 0:
                a share of the deadline.
            settings: how the objects of looks are joined.
        """
        self._pipeline, self._clock, self._input_px = pipeline, clock, input_px
        self._most, self._until_ns, self._settings = most, round(until_ms * 1e6), settings
        self._passed_over = self._unanswered = 0
        self._wanted = frame.FrameRecord()
        self._policy: RegionChoice
        self._seen: tuple[list[Region], frame.Detections] | None = None
        self._likely = 0

    def again(
        self,
        record: frame.FrameRecord,
        whole: frame.Detections,
        header: frame.FrameHeader,
        free_until_ns: int,
        next_crop: Callable[[int], Crop | None],
    ) -> frame.Detections:
        """Look again at a frame for as long as there is time.

        Args:
            record: of the frame; gets the looks, and what they found.
            whole: the objects of the whole frame.
            header: the frame's.
            free_until_ns: when the next frame of any camera is due, now if one waits.
            next_crop: gives the next region of the frame if it comes until the time given; None if
                it does not, or if a frame of any camera waits.

        Returns:
            All objects of the frame.
        """
        pipeline, model = self._pipeline, self._pipeline.best_chosen
        self._seen, self._likely = None, 0
        if model is None:
            return whole
        cost = model.look
        deadline_ns = record.deadline_ns - record.capture_ns
        until_ns = min(deadline_ns, self._until_ns or round(UNTIL_SHARE * deadline_ns))
        until_ns = min(record.capture_ns + until_ns - pipeline.publish_ns, free_until_ns)
        begin_ns = self._clock.monotonic_ns()
        self._likely = min(self._most, max(0, until_ns - begin_ns) // max(1, cost.p99_ns))
        if not self._likely:
            self._passed_over += 1
            if self._passed_over % FORGIVEN_EVERY == 0 and cost.p99_ns > model.alone.p99_ns:
                cost.expect(model.alone.p99_ns)
            return whole
        took_ns: list[int] = []
        looks: list[tuple[Region, frame.Detections]] = []
        for _ in range(min(header.looks, self._most)):
            last_ns = until_ns - cost.p99_ns
            crop = next_crop(last_ns) if begin_ns <= last_ns else None
            if crop is None:
                break
            region = -round(crop[0].pad_x), -round(crop[0].pad_y)
            found = self._found(record, crop)
            begin_ns, began_ns = self._clock.monotonic_ns(), begin_ns
            record.add_look(region, self._input_px, (begin_ns - began_ns) / 1e6)
            took_ns.append(begin_ns - began_ns)
            if found is None:
                break
            looks.append((region, found))
        self._unanswered = 0 if took_ns else self._unanswered + 1
        source_px = header.source_width, header.source_height
        if looks:
            whole = merge(whole, [found for _, found in looks], self._input_px, self._settings)
        if took_ns:
            pipeline.found(record, whole)
            merged_ns = record.postprocessed_ns - begin_ns
            record.looks[-1].cost_ms += merged_ns / 1e6
            for look_ns in took_ns:
                cost.add(look_ns + merged_ns)
        if source_px != (self._wanted.source_width, self._wanted.source_height):
            self._wanted.source_width, self._wanted.source_height = source_px
            is_rectified = header.flags & frame.FrameFlag.RECTIFIED
            axis_px = header.camera_matrix[3] if is_rectified else None
            self._policy = RegionChoice(source_px, self._input_px, axis_px)
        self._seen = [region for region, _ in looks], whole
        return whole

    def ask(self) -> frame.FrameRecord | None:
        """A record with the looks at the next frame that there will probably be time for."""
        seen, self._seen = self._seen, None
        if seen is None or (self._unanswered > PATIENCE and self._unanswered % PATIENCE):
            return None
        self._policy.seen(*seen)
        self._wanted.look_count = 0
        for region in self._policy.choose(self._likely):
            self._wanted.add_look(region, self._input_px, 0)
        return self._wanted if self._wanted.looks else None

    def _found(self, record: frame.FrameRecord, crop: Crop) -> frame.Detections | None:
        try:
            return self._pipeline.look(*crop)
        except (BackendError, AbsurdOutput) as error:
            self._pipeline.lost = error if isinstance(error, BackendLost) else None
            reasons = filter(None, (record.reason, frame.fitting(f"a second look failed: {error}")))
            record.reason = b"; ".join(reasons)[: frame.REASON_BYTES - 1]
            return None
