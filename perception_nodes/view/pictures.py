"""Pictures of a camera's last frames, read from shared memory as one more reader.

A frame is taken up only when its deadline has passed, one at a time, by a process that runs when
nothing else wants the processor. Frames for which there is no time are pushed out of the channel.
"""

import time
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from perception_nodes.cameras import channel
from perception_nodes.core.frame import DetectionRecord, FrameHeader, FrameRejected, check_slot
from perception_nodes.core.geometry import rectified_boxes
from perception_nodes.preprocess.compressed import source_size
from perception_nodes.preprocess.placement import Placement
from perception_nodes.report.annotate import Picture, PictureMaker
from perception_nodes.report.recording import nanoseconds
from perception_nodes.transport.channels import detection_reader, slot_reader
from perception_nodes.transport.shm import Endpoint, Reader, Sample

KEPT = 12
"""Frames whose reports may still come: 0.4 s at 30 Hz."""
STAMPS_KEPT = 1000
"""Half a minute at 30 Hz, which is longer than frames are kept."""
WAITING = 1
"""Number of frames that wait for us; each one occupies a slot of the camera."""
MAX_PAUSE_NS = 20_000_000
SILENT_NS = 2_000_000_000
"""After this time without a frame, we look again for the channel that has frames."""
JPEG_QUALITY = 80


class Shot(NamedTuple):
    """A frame's pixels, and where its boxes are on them.

    Attributes:
        picture: uint8 [h, w, 3] BGR.
        size: width and height of the source, pixels.
        placement: of the frame in its slot; None if the picture is the source itself, scaled.
    """

    picture: Picture
    size: tuple[int, int]
    placement: Placement | None

    def jpeg(self) -> bytes:
        """The picture as a file."""
        return bytes(simplejpeg.encode_jpeg(self.picture, JPEG_QUALITY, "BGR", "420"))

    def place(self, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Boxes [n, 4] in source pixels as shares of the picture's width and height."""
        placed = boxes.astype(np.float64)
        where = self.placement
        if where is not None and where.lens is not None and len(placed):
            placed = rectified_boxes(placed, where.lens, where.rectified, self.size)
        return np.clip(placed / (self.size * 2), 0, 1)


class Pictures:
    """The last frames of one camera, and their detections.

    The frames come from the camera's own channel if a process fills it. Those of a camera on a ROS
    topic come from the slots of the detector, as the network sees them.
    """

    def __init__(
        self, endpoint: Endpoint, camera: str, deadline_ms: float, sample_bits: int
    ) -> None:
        """Join the channels of a camera."""
        self._wait_ns = min(round(deadline_ms * 1e6), MAX_PAUSE_NS)
        self._maker = PictureMaker(sample_bits=sample_bits)
        self._found = detection_reader(endpoint, camera)
        self._frames: Reader[Any] = channel.camera_reader(endpoint, camera, WAITING)
        self._channel = endpoint, camera
        self._is_camera = channel.camera_senders(*self._channel) > 0
        if not self._is_camera:
            self._frames = slot_reader(endpoint, camera, WAITING)
        self._held: tuple[int, Sample[Any]] | None = None
        self._shots: OrderedDict[object, Shot] = OrderedDict()
        self._records: OrderedDict[object, DetectionRecord] = OrderedDict()
        self._stamps: OrderedDict[int, int] = OrderedDict()
        self._newest_ns = time.monotonic_ns()

    @property
    def silent(self) -> bool:
        """Whether another channel may have the frames: none came for long, or a camera began."""
        has_begun = not self._is_camera and channel.camera_senders(*self._channel) > 0
        return has_begun or time.monotonic_ns() - self._newest_ns > SILENT_NS

    def take(self) -> None:
        """Take up the next frame, if its deadline has passed, and all detections."""
        for record in self._found.records():
            keep(self._records, frame_key(record), record)
        now_ns = time.monotonic_ns()
        if self._held is None and (sample := self._frames.receive()) is not None:
            self._held, self._newest_ns = (now_ns, sample), now_ns
        if self._held is None or now_ns - self._held[0] < self._wait_ns:
            return
        sample = self._held[1]
        try:
            if self._is_camera:
                keep(self._shots, sample.header.stamp_ns, self._camera_shot(sample))
            else:
                keep(self._shots, frame_key(sample.header), self._slot_shot(sample))
        except FrameRejected:
            pass  # the graph reports it as FAILED, with the reason
        finally:
            self.release()

    def hear(self, report: Any) -> None:
        """Count a report, an object with the attributes of `FrameReport`, by its stamp."""
        stamp_ns = nanoseconds(report.header.stamp)
        keep(self._stamps, stamp_ns, self._stamps.get(stamp_ns, 0) + 1, STAMPS_KEPT)

    def knows(self, report: Any) -> bool:
        """Whether a report can be matched with its frame.

        Frames in the camera's channel do not have the numbers of reports. Their stamps identify
        them, unless they have none or several frames share one.
        """
        stamp_ns = nanoseconds(report.header.stamp)
        return not self._is_camera or (stamp_ns != 0 and self._stamps.get(stamp_ns) == 1)

    def shot(self, report: Any) -> Shot | None:
        """The frame of a report that is known, None if it was not taken up."""
        key = nanoseconds(report.header.stamp) if self._is_camera else frame_key(report)
        return self._shots.get(key) if self.knows(report) else None

    def found(self, report: Any) -> DetectionRecord | None:
        """The detections of the frame of a report, None if nothing was published."""
        return self._records.get(frame_key(report))

    def release(self) -> None:
        """Give back the frame that waits for its deadline."""
        if self._held is not None:
            self._held[1].release()
            self._held = None

    def _camera_shot(self, sample: Sample[channel.CameraHeader]) -> Shot:
        view = channel.view_camera_frame(sample.header, sample.payload)
        return Shot(self._maker.of(view)[0], source_size(view), None)

    def _slot_shot(self, sample: Sample[FrameHeader]) -> Shot:
        slot = sample.header
        check_slot(slot, sample.payload.size, slot.width, slot.height)
        image, placement = sample.payload.reshape(slot.height, slot.width, 3), Placement.of(slot)
        box = placement.letterbox
        rows = slice(max(box.pad_y, 0), box.pad_y + box.inner_height)
        picture = image[rows, max(box.pad_x, 0) : box.pad_x + box.inner_width].copy()
        if not picture.size:
            raise FrameRejected("slot whose image lies outside it")
        return Shot(picture, (slot.source_width, slot.source_height), placement)


def frame_key(frame: Any) -> tuple[int, int]:
    """The key of a frame, the same in its slot, its detections and its report.

    A stamp is no key, since some cameras give none. A number alone is none either: numbers begin
    again when a process restarts.
    """
    return frame.sequence, frame.capture_ns


def keep(kept: OrderedDict[Any, Any], key: object, value: object, count: int = KEPT) -> None:
    """Add what belongs to a frame, and forget what belongs to older ones."""
    kept[key] = value
    while len(kept) > count:
        kept.popitem(last=False)
