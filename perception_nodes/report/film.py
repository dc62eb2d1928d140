"""The frames of a drive that a page plays: small pictures, their objects, and changes."""

from collections.abc import Sequence
from typing import Any

import cv2
import simplejpeg

from perception_nodes.core.frame import IN_TIME, latency_ms
from perception_nodes.report.annotate import changed_objects, class_colour, decoded, status_of
from perception_nodes.report.changes import Change
from perception_nodes.report.page import jpeg_url
from perception_nodes.report.recording import DetectedObject, FrameDetections, ReportedFrame

MAX_FRAMES = 300
"""Number of frames of a film. Of a longer drive, every second, fourth, ... frame is kept, and all
marked frames.

A frame is marked if it changed or missed. If most of the kept frames are marked, only every second,
fourth, ... marked frame is kept.
"""
WIDTH_PX = 480
JPEG_QUALITY = 60


class Film:
    """Collects the frames of a drive, in its order.

    Attributes:
        taken: frames so far, with those that are not kept.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._frames: dict[int, dict[str, Any]] = {}
        self._stride = 1
        # The number of marked frames before each marked frame, by the frame's index.
        self._marked: dict[int, int] = {}
        self._marked_stride = 1

    def take(
        self,
        index: int,
        jpeg: bytes,
        scale: float,
        report: ReportedFrame | None,
        found: FrameDetections | None,
        changes: Sequence[Change],
    ) -> None:
        """Add a frame.

        Args:
            index: index of the frame in the drive.
            jpeg: its picture, without anything drawn in.
            scale: picture pixels per source pixel.
            report: report of the frame; None if there is none.
            found: its objects; None if no detections were published.
            changes: against a golden.
        """
        self.taken += 1
        missed = report is None or report.status not in IN_TIME
        if missed or changes:
            self._marked[index] = len(self._marked)
        if not self._is_kept(index):
            return
        picture = decoded(jpeg)
        height, width = picture.shape[:2]
        size = (min(WIDTH_PX, width), round(height * min(WIDTH_PX, width) / width))

        sides = (width / scale, height / scale) * 2

        def drawn(one: DetectedObject, colour: str, text: str = "") -> list[Any]:
            place = [round(value / side, 4) for value, side in zip(one.box, sides, strict=True)]
            return [*place, f"{one.label} {one.score:.2f} {text}".strip(), colour]

        objects = [] if found is None else found.objects()
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        status, colour = status_of(report)
        latency = latency_ms(report) if report else None
        self._frames[index] = {
            "index": index,
            "log_time_ns": report.log_time_ns if report else None,
            "sequence": report.sequence if report else None,
            "status": status,
            "colour": colour,
            "missed": missed,
            "ms": round(latency, 1) if latency else None,  # 0 under simulated time
            "objects": [drawn(one, class_colour(one.label)) for one in objects],
            "changed": [drawn(*changed) for changed in changed_objects(changes)],
            "changes": [str(change).partition(": ")[2] for change in changes],
            "picture": jpeg_url(simplejpeg.encode_jpeg(small, JPEG_QUALITY, "BGR")),
        }
        while len(self._frames) > MAX_FRAMES:
            self._thin_out()

    def frames(self) -> list[dict[str, Any]]:
        """The kept frames, in order."""
        return [frame for _, frame in sorted(self._frames.items())]

    def _is_kept(self, index: int) -> bool:
        if index in self._marked:
            return self._marked[index] % self._marked_stride == 0
        return index % self._stride == 0

    def _thin_out(self) -> None:
        if 2 * len(self._frames.keys() & self._marked) > len(self._frames):
            self._marked_stride *= 2
        else:
            self._stride *= 2
        self._frames = {i: frame for i, frame in self._frames.items() if self._is_kept(i)}
