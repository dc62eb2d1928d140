"""Video packets, one a frame, as pictures: H.264 and H.265, decoded by FFmpeg through PyAV.

Decoding starts at a key frame. Whatever cannot be decoded is rejected with its reason, and so are
the frames behind it until the next key frame, since they are drawn on top of it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.preprocess.compressed import MAX_PIXELS
from perception_nodes.video.h264 import IDR_SLICE, PICTURE_SET, SEQUENCE_SET, SLICE, FrameOrder

VIDEO_ENCODINGS = ("h264", "h265")
"""Encodings of an `ImageView` whose data is a packet of video."""
START_CODE = b"\0\0\1"
UNIT_BYTES = 2048
"""Enough of a NAL unit for every header; slices are not copied whole."""
TYPES_H264 = {IDR_SLICE}, {SLICE, IDR_SLICE}, {SEQUENCE_SET, PICTURE_SET}
TYPES_H265 = set(range(16, 24)), set(range(32)), {32, 33, 34}
"""Types of NAL units: key frames, all pictures, parameter sets."""
OTHER = -1
FULL_RANGE = 2
"""FFmpeg's AVCOL_RANGE_JPEG: black is 0 and white 255, not 16 and 235."""
MATRICES = {1: "ITU709", 7: "SMPTE240M", 9: "BT2020"}
"""Those that are not BT.601's, by FFmpeg's AVCOL_SPC numbers, under the names of its scaler."""
MAX_SETS = 32
"""Parameter sets that are kept, the newest ones."""
PATCHED = "concealing"
HARMLESS = ("mmco: unref short", "unable to decode APP fields")
"""Beginnings of FFmpeg's errors behind which a picture may be whole: the picture that
the stream says to drop is not there, or what a JPEG tells of its camera cannot be read."""
OPTIONS = {
    "flags": "low_delay",  # each packet gives its picture at once
    "err_detect": "explode",  # no concealment: a damaged picture is an error
    "max_pixels": str(MAX_PIXELS),
}
# What FFmpeg says while it is listened to is not for the console.
logging.getLogger("libav").addHandler(logging.NullHandler())


class VideoDecoder:
    """Decodes one camera's stream; every packet has to be given to it, in order."""

    def __init__(self) -> None:
        """No stream yet.

        Raises:
            PerceptionError: PyAV is not installed.
        """
        self._av = pyav()
        self._codec, self._number = "", 0
        self._out = np.empty((0, 0), np.uint8)

    def decode(self, image: ImageView) -> ImageView:
        """The picture of a packet.

        Args:
            image: with one of `VIDEO_ENCODINGS`; any other comes back as it is.

        Returns:
            NV12, valid until the next call.

        Raises:
            FrameRejected: it cannot be decoded.
        """
        if image.encoding not in VIDEO_ENCODINGS:
            return image
        self._number += 1
        frames = self.pictures(image.encoding, bytes(image.data), self._number)
        if len(frames) != 1 or frames[0].pts != self._number:
            cause = "not one picture comes of it; encode without B-frames"
            self.interrupt(cause)
            raise FrameRejected(f"{self._codec}: {cause}")
        (frame,) = frames
        height, width = frame.height & ~1, frame.width & ~1
        if self._out.shape != (height * 3 // 2, width):
            self._out = np.empty((height * 3 // 2, width), np.uint8)
        write_nv12(frame, self._out)
        return replace(
            image,
            width=width,
            height=height,
            encoding="nv12",
            step=width,
            data=memoryview(self._out.reshape(-1)),
            copies=image.copies + 1,
        )

    def begin(self, codec: str, sets: bytes = b"") -> None:
        """Expect a new stream.

        Args:
            codec: one of `VIDEO_ENCODINGS`.
            sets: parameter sets that came beside the stream.

        Raises:
            FrameRejected: they are damaged.
        """
        self._codec, self._order = codec, FrameOrder()
        self._sets: list[bytes] = []
        self._waits = "decoding starts at a key frame, and none has come yet"
        if sets:
            self._sets = list(nal_units(sets))
            self._read_order(self._sets)

    def pictures(self, codec: str, data: bytes, time: int) -> list[Any]:
        """The pictures that come of a packet: with B-frames none or a former one, with its time.

        Args:
            codec: one of `VIDEO_ENCODINGS`.
            data: the packet.
            time: of its picture, which gets it as its `pts`.

        Returns:
            PyAV's frames.

        Raises:
            FrameRejected: it cannot be decoded.
        """
        if codec != self._codec:
            self.begin(codec)
        try:
            return self._pictures(data, time)
        except FrameRejected as error:
            if not isinstance(error, _NothingNew):
                self.interrupt(str(error))
            raise FrameRejected(f"{codec}: {error}") from error

    def interrupt(self, cause: str) -> None:
        """Wait for the next key frame: what comes before it would be drawn on a wrong picture.

        Args:
            cause: of the wait, for the reasons of the frames until then.
        """
        self._waits = f"a key frame is awaited since: {cause}"

    def _open(self) -> None:
        """A new decoder: one that has met damage can be wrong even behind the next key frame."""
        name = "hevc" if self._codec == "h265" else self._codec
        self._context: Any = self._av.CodecContext.create(name, "r")
        self._context.thread_count = 1  # each more would hold a frame back
        self._context.options = OPTIONS
        self._sets_due, self._waits = True, ""

    def _read_order(self, units: list[bytes]) -> None:
        if self._codec == "h264":
            self._order.read_sets(units)

    def _pictures(self, data: bytes, time: int) -> list[Any]:
        units = list(nal_units(data))
        kinds, keys, pictures, sets = self._kinds(units)
        own_sets = [unit for unit, kind in zip(units, kinds, strict=True) if kind in sets]
        self._read_order(own_sets)
        if own_sets:
            # Complete ones replace all, so that a damaged one does not stay.
            kept = [] if sets.issubset(kinds) else self._sets
            self._sets = [*(one for one in kept if one not in own_sets), *own_sets][-MAX_SETS:]
        if pictures.isdisjoint(kinds):
            if not own_sets:
                raise FrameRejected("the packet holds no picture of this codec")
            self._sets_due = True
            raise _NothingNew("the packet holds parameter sets without a picture")
        if self._waits and not keys.isdisjoint(kinds):
            if not sets.issubset(self._kinds(self._sets)[0]):
                raise FrameRejected(
                    "a key frame without parameter sets; have the encoder repeat them with each"
                )
            self._open()
        if self._waits:
            raise _NothingNew(self._waits)
        if self._codec == "h264" and self._order.follow(units):
            raise FrameRejected("a packet before this one is missing")
        if self._sets_due:
            data = b"".join(START_CODE + unit for unit in self._sets) + data
            self._sets_due = False
        packet = self._av.Packet(data)
        packet.pts = time
        return whole_pictures(lambda: self._context.decode(packet))

    def _kinds(self, units: list[bytes]) -> tuple[list[int], set[int], set[int], set[int]]:
        """Types of NAL units: those that are here, and `TYPES_H264` or `TYPES_H265`."""
        if self._codec == "h264":
            return [unit[0] & 31 for unit in units], *TYPES_H264
        # An odd first byte: of another layer than the first, or of H.264.
        return [OTHER if unit[0] & 1 else unit[0] >> 1 & 63 for unit in units], *TYPES_H265


class _NothingNew(FrameRejected):
    """A rejected packet that leaves the stream as it was: broken already, or whole."""


@cache
def pyav() -> Any:
    """PyAV, which takes a while to load, ready for `whole_pictures`.

    Raises:
        PerceptionError: it is not installed.
    """
    try:
        import av
        import av.logging
    except ImportError as error:
        raise PerceptionError("video needs PyAV; install it with: pip install av") from error
    # Of a picture that it has patched up a decoder may only speak in its log.
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    return av


def whole_pictures(decode: Callable[[], list[Any]]) -> list[Any]:
    """What a decoder makes of a packet, if it has not patched anything up.

    Args:
        decode: decodes the packet; returns PyAV's frames.

    Raises:
        FrameRejected: something is damaged or missing.
    """
    av = pyav()
    with av.logging.Capture() as said:
        try:
            frames = list(decode())
        except av.FFmpegError as failed:
            raise FrameRejected("damaged, or a packet before this one is missing") from failed
    errors = [text for level, _, text in said if level <= av.logging.ERROR]
    is_patched = any(text.startswith(PATCHED) for _, _, text in said)
    is_damaged = any(not text.startswith(HARMLESS) for text in errors)
    if is_patched or is_damaged or any(frame.is_corrupt for frame in frames):
        raise FrameRejected("the picture is damaged")
    return frames


def nal_units(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet in the form of Annex B, cut to their beginnings.

    Raises:
        FrameRejected: it has another form.
    """
    at = data.find(START_CODE)
    if at < 0 or data[:at].strip(b"\0"):
        raise FrameRejected("the packet has no start code: H.264 and H.265 come in Annex B form")
    while at >= 0:
        begin, at = at + len(START_CODE), data.find(START_CODE, at + len(START_CODE))
        unit = data[begin : min(at if at >= 0 else len(data), begin + UNIT_BYTES)]
        if unit:
            yield unit


def write_nv12(frame: Any, out: NDArray[np.uint8], turns: int = 0) -> None:
    """Write a decoded frame as NV12, BT.601 in limited range.

    Args:
        frame: PyAV's; one that is not planar 4:2:0 in this range, or is marked as of one of
            `MATRICES`, is converted by FFmpeg before. One without a mark is taken for BT.601.
        out: uint8 [height * 3 / 2, width].
        turns: how often it is turned by 90 degrees, counterclockwise.
    """
    target = {}
    if frame.color_range == FULL_RANGE:
        target["dst_color_range"] = "MPEG"
    if frame.colorspace in MATRICES:
        target |= {"src_colorspace": MATRICES[frame.colorspace], "dst_colorspace": "ITU601"}
    if target or frame.format.name != "yuv420p":
        frame = frame.reformat(format="yuv420p", **target)
    height, width = out.shape[0] * 2 // 3, out.shape[1]
    rows, columns = (width, height) if turns % 2 else (height, width)
    luma, *chroma = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes
    )
    out[:height] = np.rot90(luma[:rows, :columns], turns)
    pairs = out[height:].reshape(height // 2, width // 2, 2)
    for channel, plane in enumerate(chroma):
        pairs[:, :, channel] = np.rot90(plane[: rows // 2, : columns // 2], turns)
