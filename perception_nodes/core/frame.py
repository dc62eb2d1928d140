"""What travels with a frame: the header of its slot, its stamps, its status, its detections."""

import ctypes
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.budget import STAGES
from perception_nodes.core.structures import fields

MAX_DETECTIONS = 300
CROWDED = b"more objects than there is room for: the best ones are reported"
"""Text in the reason of a frame some of whose objects are missing."""
MAY_BE_OUT = b"; detections of the frame that it held may have been published"
"""Text in the reason of a frame whose detector died between publishing and reporting."""
STAMP_LIMIT_NS = (1 << 31) * 1_000_000_000
"""ROS messages hold the seconds of a stamp in 32 bits."""
MAX_SIDE_PX = 65_535
FILE_TYPES, MOSAIC_IN = ("jpeg", "png"), "; "
"""File types of compressed frames, and what separates the encoding of a mosaic from its file
type."""
FRAME_ID_BYTES = 63
"""Room for the frame_id of a frame, which detections must repeat in full."""
MAX_GAP = 256
"""Up to this number of frames missing in a row, each gets a report of its own. More are an outage
with one report, since thousands of reports would hold up the frames that do come."""
REASON_BYTES = 512
MAX_LOOKS = 3
"""Regions of a frame that the network looks at beside the whole."""
NO_PIXELS_BYTES = 1
"""Payload of a slot without pixels; a slot has at least one byte."""
MAX_SPAN_NS = 60_000_000_000
"""No time of a slot is further from its frame's capture, even if its sender was stopped between."""
MAX_PLACEMENT = 1e6
"""Scales, borders, focal lengths and lens coefficients of this magnitude are not plausible."""

_STAMPS = "capture_ns ingested_ns preprocessed_ns inferred_ns postprocessed_ns published_ns"
STAMPS = tuple(_STAMPS.split())
"""Names of a frame's stamps in order; stage i of `STAGES` lies between stamps i and i + 1."""


class FrameStatus(IntEnum):
    """What became of a frame; every frame gets exactly one. An outage gets a single one, too."""

    OK = 0
    LATE = 1
    SKIPPED_LATE = 2
    SUPERSEDED = 3
    DEGRADED = 4
    FAILED = 5


PUBLISHED = (FrameStatus.OK, FrameStatus.DEGRADED, FrameStatus.LATE)
IN_TIME = (FrameStatus.OK, FrameStatus.DEGRADED)


class FrameFlag(IntFlag):
    """Properties of a frame in addition to its status."""

    CLOCK_SUSPECT = 1
    RECTIFIED = 2
    FISHEYE = 4


def fitting(text: str) -> bytes:
    """Encode a text as the reason of a record, cut to the room there."""
    return text.encode(errors="replace")[: REASON_BYTES - 1]


class FrameRejected(ValueError):
    """A frame that cannot be processed; the text says what is wrong with it."""


@dataclass(frozen=True)
class ImageView:
    """A camera frame in the memory where it was received.

    Attributes:
        stamp_ns: the message's stamp, nanoseconds since the Unix epoch.
        frame_id: coordinate frame of the camera.
        width, height: size in pixels; 0 for a compressed frame whose header was not read yet.
        encoding: ROS encoding (`bgr8`, `nv12`, ...), or `jpeg` or `png`, or one of these behind the
            encoding of the mosaic that is in it as a grey picture: `bayer_rggb8; jpeg`.
        step: bytes from one row to the next.
        data: the pixels, or the compressed file.
        copies: full-frame pixel copies made so far.
    """

    stamp_ns: int
    frame_id: str
    width: int
    height: int
    encoding: str
    step: int
    data: memoryview
    copies: int = 0

    @property
    def file_type(self) -> str:
        """`jpeg` or `png` for a compressed frame, else empty."""
        kind = self.encoding.rpartition(MOSAIC_IN)[2]
        return kind if kind in FILE_TYPES else ""

    @property
    def mosaic(self) -> str:
        """The encoding of the mosaic that a compressed frame may hold; empty if it holds none."""
        return self.encoding.rpartition(MOSAIC_IN)[0]

    @classmethod
    def of_pixels(cls, image: NDArray[np.uint8]) -> "ImageView":
        """View pixels that come from no camera: uint8 [height, width, 3] BGR, contiguous."""
        height, width = image.shape[:2]
        return cls(0, "", width, height, "bgr8", 3 * width, memoryview(image.reshape(-1)))


@dataclass(frozen=True)
class CameraInfo:
    """Calibration of a camera, as in `sensor_msgs/CameraInfo`.

    Attributes:
        width, height: size in pixels that the calibration is for.
        model: `plumb_bob`, `rational_polynomial`, `equidistant`, or another name.
        distortion: coefficients D.
        matrix: the nine values of K, row by row.
        binning: pixels of that size to a pixel of the image, across and down; 0 means 1.
        region: x, y, width and height of what the image shows, in pixels of that size; a width or
            height of 0 means all.
    """

    width: int
    height: int
    model: str
    distortion: tuple[float, ...]
    matrix: tuple[float, ...]
    binning: tuple[int, int] = (1, 1)
    region: tuple[int, int, int, int] = (0, 0, 0, 0)

    def for_images(self, width: int, height: int) -> "CameraInfo | None":
        """The calibration of images of a size; None if it does not fit them.

        It fits images of its own size, whatever the binning, since many drivers calibrate what they
        publish. It also fits what region and binning leave of that size.
        """
        if (width, height) == (self.width, self.height):
            return replace(self, binning=(1, 1), region=(0, 0, 0, 0))
        left, top, *shown = self.region
        if not all(shown):
            left, top, shown = 0, 0, [self.width, self.height]
        if left + shown[0] > self.width or top + shown[1] > self.height:
            return None
        across, down = (max(1, step) for step in self.binning)
        if (width, height) != (shown[0] // across, shown[1] // down):
            return None
        fx, skew, cx, _, fy, cy = self.matrix[:6]
        # The centre of pixel i is at i, so that of the first `across` pixels is half a pixel
        # before.
        cx, cy = (cx - left + 0.5) / across - 0.5, (cy - top + 0.5) / down - 0.5
        matrix = (fx / across, skew / across, cx, 0.0, fy / down, cy, 0.0, 0.0, 1.0)
        return CameraInfo(width, height, self.model, self.distortion, matrix)


class FrameFacts(ctypes.Structure):
    """What is known of a frame before inference.

    Stamps are CLOCK_MONOTONIC, except `stamp_ns`, which is the message's own. `incarnation` is that
    of the process that numbered the frame: together with `sequence` it identifies the frame.
    `picture` is a hash of a sample of the frame's pixels, 0 if there are none.
    """

    _fields_ = fields(
        "uint64 sequence, incarnation; int64 stamp_ns, deadline_ns, capture_ns, ingested_ns, "
        "preprocessed_ns; uint32 copies, flags, picture; char camera[32]; "
        f"char frame_id[{FRAME_ID_BYTES + 1}]; uint32 source_width, source_height"
    )


class FrameHeader(ctypes.Structure):
    """User header of a slot: all that the detector needs to know of the frame but its pixels.

    The slot's payload is the letterboxed image, uint8 [height, width, 3] BGR. If a GPU reads the
    camera's frame in place, there is no payload: `camera_source` (its sender) and `camera_number`
    identify the frame in the camera's channel. `camera_matrix` and `rectified_matrix` hold fx, fy,
    cx, cy in source pixels; they and `distortion` (k1 k2 p1 p2 k3 k4 k5 k6) are valid if
    `RECTIFIED` is set. `looks` slots with regions of the frame follow in a channel of their own.
    `facts` has the fields of `FrameFacts`, which are also fields of ours.
    """

    _anonymous_ = ("facts",)
    _fields_ = [
        ("facts", FrameFacts),
        *fields("double scale_x, scale_y, pad_x, pad_y, camera_matrix[4], rectified_matrix[4]"),
        *fields("double distortion[8]; uint32 width, height"),
        *fields("uint64 camera_source, camera_number; uint32 looks"),
    ]


_PLACEMENT = FrameHeader.scale_x.offset
_PLACEMENT_VALUES = (FrameHeader.width.offset - _PLACEMENT) // ctypes.sizeof(ctypes.c_double)
_SIZES = FrameHeader.source_width.offset
_SIZES_TO_SIZES = FrameHeader.camera_source.offset - _SIZES


def placement_key(header: FrameHeader) -> bytes:
    """Bytes that are equal for frames with the same place in the network's input and lens."""
    flags = header.flags & (FrameFlag.RECTIFIED | FrameFlag.FISHEYE)
    return ctypes.string_at(ctypes.addressof(header) + _SIZES, _SIZES_TO_SIZES) + bytes([flags])


def check_slot(
    header: FrameHeader, payload_bytes: int, width: int, height: int, in_place: bool = False
) -> None:
    """Check that a slot holds a frame that a model can be run on.

    Args:
        header: the slot's.
        payload_bytes: size of its payload.
        width: of the model's input, pixels.
        height: of the model's input, pixels.
        in_place: whether the pixels should be in the camera's channel instead of the slot.

    Raises:
        FrameRejected: it does not; the text says what is wrong.
    """
    if (header.width, header.height) != (width, height):
        size = f"{header.width}x{header.height}, the model needs {width}x{height}"
        raise FrameRejected(f"slot of {size}: give both nodes the same model")
    if in_place != (payload_bytes <= NO_PIXELS_BYTES):
        where = "in the slot" if in_place else "with the camera"
        raise FrameRejected(f"the pixels were left {where}: give both nodes the same preprocess_on")
    if not in_place and payload_bytes != 3 * width * height:
        raise FrameRejected(f"slot of {payload_bytes} bytes, {3 * width * height} are its pixels")
    if not (0 < header.source_width <= MAX_SIDE_PX and 0 < header.source_height <= MAX_SIDE_PX):
        raise FrameRejected(f"slot from a source of {header.source_width}x{header.source_height}")
    if not _is_placed(header):
        raise FrameRejected("slot whose placement of the image is not a number, or out of range")
    capture_ns, ingested_ns = header.capture_ns, header.ingested_ns
    spans_ns = ingested_ns - capture_ns, header.deadline_ns - capture_ns
    if not all(0 <= span_ns < MAX_SPAN_NS for span_ns in spans_ns):
        raise FrameRejected("slot whose capture or deadline cannot be; its memory was damaged")


def _is_placed(header: FrameHeader) -> bool:
    """Whether the placement in a slot's header consists of plausible numbers."""
    placement = np.frombuffer(header, np.float64, _PLACEMENT_VALUES, _PLACEMENT)
    divisors = [header.scale_x, header.scale_y]
    if header.flags & FrameFlag.RECTIFIED:
        divisors += [*header.camera_matrix[:2], *header.rectified_matrix[:2]]
    return bool(np.abs(placement).max() < MAX_PLACEMENT and min(divisors) > 1 / MAX_PLACEMENT)


def is_region_of(region: FrameHeader, payload_bytes: int, frame: FrameHeader) -> bool:
    """Whether a slot holds a region of a frame in the resolution of its source.

    Args:
        region: the slot's header.
        payload_bytes: size of its payload.
        frame: header of the frame's own slot, which is checked.
    """
    is_within = -frame.source_width < region.pad_x < frame.width
    is_within &= -frame.source_height < region.pad_y < frame.height  # also not NaN
    is_in_scale = region.scale_x == region.scale_y == 1
    is_whole = payload_bytes == 3 * frame.width * frame.height
    is_of_frame = is_whole and bytes(region.facts) == bytes(frame.facts)
    return is_within and is_in_scale and is_of_frame and _is_placed(region)


class RecordKind(IntEnum):
    """What a record of a frame is; other kinds have a struct of their own: `core/records.py`."""

    ENTERED = 0
    OUTCOME = 1


class Record(ctypes.Structure):
    """What every record for the watchdog begins with: a sign of life of the process that sent it.

    `record` numbers the records of one process from 0 without gaps, so that a lost one is noticed,
    and `sent_ns` orders those of several processes. `sender` is the incarnation of the process,
    `process` its number, which another process may have had before. `patience_ns` is how long it
    may be silent from now on before it counts as hung, `spent_ns` the processor time that its main
    thread has used.
    """

    _fields_ = fields(
        "uint64 record; int64 sent_ns, patience_ns, spent_ns; uint64 sender; uint32 kind, process"
    )


class LookRecord(ctypes.Structure):
    """A second look at a frame, with the fields of `Look.msg`."""

    _fields_ = fields("uint32 x_offset, y_offset, width, height; float cost_ms")


class FrameRecord(Record):
    """A frame that has entered, or the outcome of one.

    `facts` has the fields of `FrameFacts`, which are also fields of ours. A frame report is written
    from the fields that have the names of `FrameReport.msg`; only a report has `report_number` and,
    of a lost frame, the stamps `lost_after_ns` and `lost_before_ns` of the frames around it.
    """

    _anonymous_ = ("facts",)
    _fields_ = [
        ("facts", FrameFacts),
        *fields("int64 inferred_ns, postprocessed_ns, published_ns; uint64 report_number"),
        *fields("int64 lost_after_ns, lost_before_ns; uint32 status, detections; char model[32]"),
        *fields(f"char reason[{REASON_BYTES}]; uint32 look_count"),
        ("look_records", LookRecord * MAX_LOOKS),
    ]

    @property
    def looks(self) -> list[LookRecord]:
        """The second looks at the frame, in order."""
        return list(self.look_records[: self.look_count])

    def add_look(self, region: tuple[int, int], size: tuple[int, int], cost_ms: float) -> None:
        """Note a second look.

        Args:
            region: its left and top in source pixels; less than 0 where the source is smaller.
            size: its width and height in source pixels.
            cost_ms: what it took.
        """
        left, top = max(0, region[0]), max(0, region[1])
        width = min(region[0] + size[0], self.source_width) - left
        height = min(region[1] + size[1], self.source_height) - top
        self.look_records[self.look_count] = LookRecord(left, top, width, height, cost_ms)
        self.look_count += 1

    @property
    def clock_suspect(self) -> bool:
        """Whether the deadline runs from receipt, since the source stamp was not plausible."""
        return bool(self.flags & FrameFlag.CLOCK_SUSPECT)


@dataclass(frozen=True)
class Detections:
    """Boxes of one frame, best score first.

    Attributes:
        boxes: float32 [n, 4], x1 y1 x2 y2 in pixels of the source image.
        scores: float32 [n], in (0, 1].
        classes: int64 [n], index into the model's class names.
        more: whether further objects were left out for lack of room.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    more: bool = False

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, least: NDArray[np.float32]) -> "Detections":
        """Those with the least score of their class, float32 [c], or more."""
        kept = self.scores >= least[self.classes]
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept], self.more)

    @classmethod
    def none(cls) -> "Detections":
        """No objects."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))


class DetectionRecord(ctypes.Structure):
    """A frame's detections in shared memory; boxes are x1 y1 x2 y2 in source pixels.

    `incarnation` and `sequence` identify the frame, see `FrameRecord`. A detector, and its
    successor too, gives frames in the order of `ingested_ns`.
    """

    _fields_ = fields(
        "uint64 sequence, incarnation; int64 stamp_ns, capture_ns, ingested_ns, deadline_ns; "
        f"uint32 status; char frame_id[{FRAME_ID_BYTES + 1}]; uint32 count; "
        f"float boxes[{4 * MAX_DETECTIONS}], scores[{MAX_DETECTIONS}]; "
        f"uint32 classes[{MAX_DETECTIONS}]"
    )

    def hold(self, detections: Detections) -> None:
        """Take a copy of the objects."""
        n = self.count = len(detections)
        np.frombuffer(self.boxes, np.float32)[: 4 * n] = detections.boxes.ravel()
        np.frombuffer(self.scores, np.float32)[:n] = detections.scores
        np.frombuffer(self.classes, np.uint32)[:n] = detections.classes

    def detections(self) -> Detections:
        """A copy of the objects."""
        return detections_in(self)


def detections_in(structure: Any, more: bool = False) -> Detections:
    """A copy of the objects in a structure with `count`, `boxes`, `scores` and `classes`."""
    n = min(structure.count, MAX_DETECTIONS)
    return Detections(
        np.frombuffer(structure.boxes, np.float32)[: 4 * n].reshape(n, 4).copy(),
        np.frombuffer(structure.scores, np.float32)[:n].copy(),
        np.frombuffer(structure.classes, np.uint32)[:n].astype(np.int64),
        more,
    )


def looks_ms(frame: Any) -> float:
    """What second looks at a frame took, in milliseconds, between inference and publication."""
    return float(sum(look.cost_ms for look in frame.looks))


def blame_looks(record: FrameRecord) -> None:
    """Let the reason of a frame that missed say what second looks took, as no stage does."""
    if record.status in (FrameStatus.LATE, FrameStatus.SKIPPED_LATE) and record.looks:
        reasons = filter(None, (record.reason, b"second looks took %.1f ms" % looks_ms(record)))
        record.reason = b"; ".join(reasons)[: REASON_BYTES - 1]


def stage_durations_ms(frame: Any) -> dict[str, float]:
    """Duration of each stage that the frame passed, in milliseconds, without second looks.

    Args:
        frame: an object with `looks` and the attributes named in `STAMPS`: a `FrameRecord`, a
            report message.
    """
    stamps = [getattr(frame, name) for name in STAMPS]
    durations_ms = {
        stage: (end - start) / 1e6
        for stage, start, end in zip(STAGES, stamps[:-1], stamps[1:], strict=True)
        if start and end
    }
    if frame.looks and "postprocess" in durations_ms:
        durations_ms["postprocess"] = max(0.0, durations_ms["postprocess"] - looks_ms(frame))
    return durations_ms


def latency_ms(frame: Any) -> float | None:
    """Capture to publish in milliseconds, None for a frame that was not published."""
    if not frame.published_ns:
        return None
    return float(frame.published_ns - frame.capture_ns) / 1e6


def record_of_header(header: FrameHeader) -> FrameRecord:
    """A ledger record with what a slot's header knows of the frame.

    A stamp that no message can hold becomes 0, like a missing one.
    """
    record = FrameRecord(facts=header.facts)
    if not -STAMP_LIMIT_NS <= record.stamp_ns < STAMP_LIMIT_NS:
        record.stamp_ns = 0
    return record
