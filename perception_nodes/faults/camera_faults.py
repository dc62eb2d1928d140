"""What a camera can do wrong: functions from the frames of a drive to the frames that are sent."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from perception_nodes.core.frame import FrameRejected
from perception_nodes.drives.bag import RawFrame
from perception_nodes.drives.schemas import CAMERA_INFO, typestore
from perception_nodes.faults.scenario import CameraFault
from perception_nodes.transport.cdr_reader import read_compressed_image, read_image

LATE_BY_NS = 5_000_000
"""How long after its successor an out-of-order frame arrives."""
IMPOSSIBLE_LENGTH = 0x7FFF_FFFF
KEPT_OF_JPEG = 0.6
HEADER_BYTES = 512
"""The encoding of a serialized Image is within its first bytes; pixels may look the same."""


@dataclass(frozen=True, slots=True)
class SentFrame(RawFrame):
    """A frame as the camera sends it; `log_time_ns` is the time of sending.

    Attributes:
        stamp_shift_ns: its stamp minus the time of sending.
        lost: the frame gets a number, but is not sent.
        distortion: the radial coefficient in its CameraInfo; None for the recorded one.
    """

    stamp_shift_ns: int = 0
    lost: bool = False
    distortion: float | None = None


def with_faults(
    frames: Iterable[RawFrame], faults: Sequence[CameraFault], hits: list[int] | None = None
) -> Iterator[SentFrame]:
    """The frames as a camera with faults sends them, in the order of sending.

    Args:
        frames: of the drive, oldest first.
        faults: what the camera does wrong; their times count from the first frame.
        hits: set to the number of frames that each fault has changed, updated while iterating.

    Raises:
        FrameRejected: while iterating, if a fault cannot be applied to frames of this encoding.
    """
    hits = [] if hits is None else hits
    hits[:] = [0] * len(faults)
    sent: Iterator[SentFrame] = (
        SentFrame(frame.index, frame.log_time_ns, frame.data, frame.camera_info) for frame in frames
    )
    for number, fault in enumerate(faults):
        sent = _with_fault(sent, fault, number, hits)
    return sent


def with_distortion(info: bytes, distortion: float) -> bytes:
    """A serialized CameraInfo with another first radial coefficient, and no other distortion."""
    store = typestore()
    message: Any = store.deserialize_cdr(info, CAMERA_INFO)
    barrel = np.array([distortion, 0, 0, 0, 0], np.float64)
    changed = replace(message, distortion_model="plumb_bob", d=barrel)
    return bytes(store.serialize_cdr(changed, CAMERA_INFO))


def _with_fault(
    frames: Iterator[SentFrame], fault: CameraFault, number: int, hits: list[int]
) -> Iterator[SentFrame]:
    window = _Window(fault)
    meanwhile: list[SentFrame] = []
    for sent in frames:
        if fault.kind == "size_change":
            # Scale frames into the cache ahead of time: scaling takes so long that the camera would
            # stall.
            _scaled(sent.data, fault.scale)
        if window.holds(sent):
            meanwhile.append(sent)
            instead = list(_changed(meanwhile, fault))
            hits[number] += instead != [sent]
            yield from instead
            continue
        if meanwhile:
            released = list(_released(meanwhile, fault, sent))
            # A frame that was held back, but is sent unchanged and in its order, does not count.
            hits[number] -= sum(frame in meanwhile for frame in released)
            yield from released
            meanwhile = []
        yield sent


class _Window:
    """Selects the frames within the time of a fault, or an evenly spread share of them."""

    def __init__(self, fault: CameraFault) -> None:
        self._begin_ns = round(fault.after_s * 1e9)
        self._end_ns = self._begin_ns + round(fault.for_s * 1e9)
        self._share = fault.share
        self._first_ns: int | None = None
        self._seen = 0

    def holds(self, frame: SentFrame) -> bool:
        if self._first_ns is None:
            self._first_ns = frame.log_time_ns
        if not self._begin_ns <= frame.log_time_ns - self._first_ns < self._end_ns:
            return False
        self._seen += 1
        return int(self._seen * self._share) > int((self._seen - 1) * self._share)


def _changed(hit: list[SentFrame], fault: CameraFault) -> Iterator[SentFrame]:
    """What is sent in place of the newest frame; `hit` are those hit so far, newest last.

    A camera that stops or stalls sends nothing.
    """
    newest = hit[-1]
    data = newest.data
    match fault.kind:
        case "camera_freeze":
            yield replace(newest, data=hit[0].data)
        case "camera_drop":
            yield replace(newest, lost=True)
        case "camera_out_of_order":
            if len(hit) % 2 == 0:
                early_ns = hit[-2].log_time_ns
                sent_ns = newest.log_time_ns + LATE_BY_NS
                yield newest
                yield replace(hit[-2], log_time_ns=sent_ns, stamp_shift_ns=early_ns - sent_ns)
        case "stamp_duplicate":
            pair = hit[-1 - (len(hit) + 1) % 2]
            yield replace(newest, stamp_shift_ns=pair.log_time_ns - newest.log_time_ns)
        case "stamp_backward":
            passed_ns = newest.log_time_ns - hit[0].log_time_ns
            yield replace(newest, stamp_shift_ns=-2 * passed_ns - 1)
        case "clock_step":
            yield replace(newest, stamp_shift_ns=round(fault.step_s * 1e9))
        case "cdr_length":
            at = len(data) - len(read_image(data).data) - 4
            wrong = struct.pack("<I", IMPOSSIBLE_LENGTH)
            yield replace(newest, data=data[:at] + wrong + data[at + 4 :])
        case "jpeg_truncated":
            payload = bytes(read_compressed_image(data).data)
            at = data.index(payload) - 4
            kept = payload[: round(KEPT_OF_JPEG * len(payload))]
            yield replace(newest, data=data[:at] + struct.pack("<I", len(kept)) + kept)
        case "encoding_unknown":
            if b"bgr8\0" not in data[:HEADER_BYTES]:
                encoding = read_image(data).encoding
                raise FrameRejected(f"encoding_unknown needs bgr8 images, and these are {encoding}")
            yield replace(newest, data=data.replace(b"bgr8\0", b"lab8\0", 1))
        case "size_change":
            yield replace(newest, data=_scaled(data, fault.scale))
        case "calibration_wrong":
            yield replace(newest, distortion=fault.distortion)


def _released(
    hit: list[SentFrame], fault: CameraFault, following: SentFrame
) -> Iterator[SentFrame]:
    """What is sent when the fault is over, before the next frame."""
    if fault.kind == "camera_out_of_order" and len(hit) % 2:
        yield hit[-1]
    if fault.kind == "camera_stall_burst":
        # Those that stalled come with their own stamps, all at once.
        for frame in hit:
            shift_ns = frame.log_time_ns - following.log_time_ns
            yield replace(frame, log_time_ns=following.log_time_ns, stamp_shift_ns=shift_ns)


@lru_cache(maxsize=8)
def _scaled(data: bytes, scale: float) -> bytes:
    """A serialized bgr8 Image, scaled."""
    store = typestore()
    image: Any = store.deserialize_cdr(data, "sensor_msgs/msg/Image")
    scaled = cv2.resize(image.data.reshape(image.height, image.width, 3), None, fx=scale, fy=scale)
    height, width, channels = scaled.shape
    changed = replace(
        image, height=height, width=width, step=channels * width, data=np.ravel(scaled)
    )
    return bytes(store.serialize_cdr(changed, "sensor_msgs/msg/Image"))
