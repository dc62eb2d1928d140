"""Decodes video packets of which each is one frame: H.264 and H.265 in Annex B form.

Decoding starts at a key frame. A packet that cannot be decoded is rejected with its reason, and so
are the packets behind it until the next key frame, since their pictures are drawn on top of it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.video import h264
from perception_nodes.video.ffmpeg import MAX_PIXELS, pyav, whole_pictures, write_nv12

VIDEO_ENCODINGS = ("h264", "h265")
"""Encodings of an `ImageView` whose data is a packet of video."""
TYPES_H264 = {h264.IDR_SLICE}, {h264.SLICE, h264.IDR_SLICE}, {h264.SEQUENCE_SET, h264.PICTURE_SET}
TYPES_H265 = set(range(16, 24)), set(range(32)), {32, 33, 34}
"""Types of NAL units: key frames, all pictures, parameter sets."""
OTHER = -1
SLOW_BYTES = 1 << 19
"""A larger packet takes so long to decode that we would be taken for hung."""
MAX_SETS = 32
"""Parameter sets that are kept, the newest ones."""
OPTIONS = {
    "flags": "low_delay",  # each packet gives its picture at once
    "err_detect": "explode",  # no concealment: a damaged picture is an error
    "max_pixels": str(MAX_PIXELS),
}


class VideoDecoder:
    """Decodes one camera's packets; every packet has to be given to it, in order."""

    def __init__(self, preparing: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """No packet has come yet.

        Args:
            preparing: context in which packets are decoded that take long.

        Raises:
            PerceptionError: PyAV is not installed.
        """
        self._av, self._preparing = pyav(), preparing
        self._codec, self._number = "", 0
        self._out = np.empty((0, 0), np.uint8)

    def decode(self, image: ImageView) -> ImageView:
        """Decode a packet to its picture.

        Args:
            image: with one of `VIDEO_ENCODINGS`; any other comes back as it is.

        Returns:
            NV12, valid until the next call.

        Raises:
            FrameRejected: it cannot be decoded.
        """
        if image.encoding not in VIDEO_ENCODINGS:
            return image
        if image.encoding != self._codec:
            self._codec, self._order = image.encoding, h264.FrameOrder()
            self._sets: list[bytes] = []
            self._waits = "decoding starts at a key frame, and none has come yet"
        self._number += 1
        try:
            with self._preparing() if len(image.data) > SLOW_BYTES else nullcontext():
                (frame,) = self._pictures(bytes(image.data))
        except FrameRejected as error:
            if not isinstance(error, _NothingNew):
                self.interrupt(str(error))
            raise FrameRejected(f"{self._codec}: {error}") from error
        height, width = frame.height & ~1, frame.width & ~1
        if self._out.shape != (height * 3 // 2, width):
            self._out = np.empty((height * 3 // 2, width), np.uint8)
        write_nv12(frame, self._out)
        layout = {"width": width, "height": height, "encoding": "nv12", "step": width}
        pixels = memoryview(self._out.reshape(-1))
        return replace(image, data=pixels, copies=image.copies + 1, **layout)

    def interrupt(self, cause: str) -> None:
        """Wait for the next key frame: pictures before it would be drawn on a wrong one.

        Args:
            cause: of the wait, for the reasons of the frames until then.
        """
        self._waits = f"a key frame is awaited since: {cause}"

    def _pictures(self, data: bytes) -> list[Any]:
        """The one PyAV frame of a packet."""
        units = list(h264.nal_units(data))
        kinds, keys, pictures, sets = self._kinds(units)
        own_sets = [unit for unit, kind in zip(units, kinds, strict=True) if kind in sets]
        if self._codec == "h264":
            self._order.read_sets(own_sets)
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
            data = b"".join(h264.START_CODE + unit for unit in self._sets) + data
            self._sets_due = False
        packet = self._av.Packet(data)
        packet.pts = self._number
        frames = whole_pictures(lambda: self._context.decode(packet))
        if [frame.pts for frame in frames] != [self._number]:
            raise FrameRejected("not one picture comes of it; encode without B-frames")
        return frames

    def _open(self) -> None:
        """A new decoder: one that has met damage can be wrong even behind the next key frame."""
        name = "hevc" if self._codec == "h265" else self._codec
        self._context: Any = self._av.CodecContext.create(name, "r")
        self._context.thread_count = 1  # each more would hold a frame back
        self._context.options = OPTIONS
        self._sets_due, self._waits = True, ""

    def _kinds(self, units: list[bytes]) -> tuple[list[int], set[int], set[int], set[int]]:
        """Types of NAL units: those that are here, and `TYPES_H264` or `TYPES_H265`."""
        if self._codec == "h264":
            return [unit[0] & 31 for unit in units], *TYPES_H264
        # An odd first byte: of another layer than the first, or of H.264.
        return [OTHER if unit[0] & 1 else unit[0] >> 1 & 63 for unit in units], *TYPES_H265


class _NothingNew(FrameRejected):
    """A rejected packet, after which the stream is as whole or as broken as before."""
