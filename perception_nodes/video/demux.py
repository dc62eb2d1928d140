"""Videos as FFmpeg reads them from a file or a stream: whole pictures, and those that are lost."""

import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any, NamedTuple

from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import FrameRejected
from perception_nodes.video.ffmpeg import MAX_PIXELS, pyav, whole_pictures
from perception_nodes.video.h264 import FrameOrder, nal_units

ONE_EACH = ("h264", "hevc")
"""FFmpeg's names of the codecs whose packets each give a picture, or a field of one."""
ANNEX_B = ("rtsp", "rtp", "sdp", "mpegts", "h264", "hevc")
"""FFmpeg's names of the formats whose packets have start codes."""
UNDRAWN = "their pictures are drawn on others that were not there"
MISSING = "packets are missing"
LOST_ON_THE_WAY = "RTP: missed"
"""Beginning of FFmpeg's warning that numbers of RTP packets have a gap."""
SUSPECTS = 2
"""Number of pictures that a gap may have hurt: FFmpeg warns with that packet or the one before."""
SENT = "prft"
"""FFmpeg's side data of RTP packets behind a sender report of RTCP."""
MAX_HELD = 16
"""A decoder holds back at most this many pictures (ITU-T H.264, A.3.1)."""


@dataclass(frozen=True)
class VideoPicture:
    """What a packet of a video gives.

    Attributes:
        pts: its time, in units of the stream; None where the stream does not state it.
        frame: PyAV's; None if it is lost.
        cause: of the loss.
    """

    pts: int | None
    frame: Any = None
    cause: str = ""


class LivePictures(NamedTuple):
    """What a packet of a stream completes.

    Attributes:
        pictures: whole and lost ones.
        arrived_ns: wall clock of the packet's arrival.
        sender_offset_ns: wall clock of the sender, less the time in the stream; None if unknown.
        has_gap: whether packets are missing about there.
    """

    pictures: list[VideoPicture]
    arrived_ns: int
    sender_offset_ns: int | None
    has_gap: bool


class VideoInput:
    """An opened file or stream, of which the first video track is read.

    Attributes:
        container: PyAV's container.
        stream: PyAV's video stream.
        whole: decodes the packets of the stream.
    """

    def __init__(self, url: str, is_live: bool = False, **options: Any) -> None:
        """Open it.

        Args:
            url: a file, or a stream with its scheme.
            is_live: whether pictures are wanted at once, and from the first key frame on.
            options: of PyAV's `open`.

        Raises:
            FFmpegError: of PyAV: it cannot be opened.
            PerceptionError: PyAV is not installed, or there is no video that can be decoded; the
                text follows the name of the video.
        """
        self.container: Any = pyav().open(url, metadata_errors="ignore", **options)
        self.stream: Any = next(iter(self.container.streams.video), None)
        if self.stream is None or self.stream.codec_context is None:
            self.close()
            codec = "is of a codec that no decoder is known for"
            raise PerceptionError(codec if self.stream else "has no video stream")
        is_annex_b = self.container.format.name in ANNEX_B
        self.whole = WholePictures(self.stream, is_live, is_live and is_annex_b)

    def pictures(self) -> Iterator[VideoPicture]:
        """All pictures, in the order of their times."""
        for packet in self.container.demux(self.stream):
            yield from self.whole.take(packet)

    def live_pictures(self, closed: Event) -> Iterator["LivePictures"]:
        """What each packet completes, until `closed` is set or the stream ends."""
        av, packets = pyav(), self.container.demux(self.stream)
        while True:
            with av.logging.Capture() as logged:
                packet = next(packets, None)
            if packet is None or closed.is_set():
                return
            arrived_ns = time.time_ns()
            has_gap = any(text.startswith(LOST_ON_THE_WAY) for *_, text in logged)
            if has_gap or packet.is_corrupt:
                self.whole.suspect()
            sender_ns = self._sender_offset_ns(packet)
            yield LivePictures(self.whole.take(packet), arrived_ns, sender_ns, has_gap)

    def _sender_offset_ns(self, packet: Any) -> int | None:
        """What to add to the times of the pictures, by the clock of a sender that reports it."""
        if packet.pts is None or not packet.has_sidedata(SENT):
            return None
        # AVProducerReferenceTime begins with the wall clock of the picture, microseconds.
        wall_us = int.from_bytes(bytes(packet.get_sidedata(SENT))[:8], sys.byteorder, signed=True)
        return int(1000 * wall_us - packet.pts * self.stream.time_base * 1_000_000_000)

    def rate_hz(self, otherwise_hz: float) -> float:
        """Pictures a second as the stream states it."""
        rate_hz = float(self.stream.average_rate or self.stream.guessed_rate or 0)
        return rate_hz if 0 < rate_hz < 1000 else otherwise_hz

    def frame_count(self) -> int:
        """Frames that a file is to show: without those that it cuts off, and empty packets.

        The number in its header counts them all, but an index may be missing.
        """
        index = getattr(self.stream, "index_entries", ())  # older PyAV has none
        shown = sum(not entry.is_discard and entry.size > 0 for entry in index)
        return shown if len(index) > 1 else int(self.stream.frames)

    def close(self) -> None:
        """Close the container."""
        self.container.close()


class WholePictures:
    """Decodes packets; no picture is damaged, or drawn on a damaged one."""

    def __init__(self, stream: Any, is_live: bool = False, is_annex_b: bool = False) -> None:
        """Set up the stream's decoder, which has not been used yet.

        Args:
            stream: PyAV's.
            is_live: whether pictures are wanted at once, and from the first key frame on.
            is_annex_b: whether packets have start codes, so that H.264's numbers can be followed.
        """
        stream.thread_type = "NONE"  # threads of the decoder would each hold a frame back
        self._decoder = stream.codec_context
        strict = {"flags": "low_delay", "err_detect": "explode"}
        options = strict if is_live else {"err_detect": "crccheck"}
        self._decoder.options = {**options, "max_pixels": str(MAX_PIXELS)}
        # A picture of two fields may come of two packets.
        self._is_one_each = self._decoder.name in ONE_EACH
        # Of streams each packet has the time of its picture.
        self._is_reordered, self._latest_pts = is_live, -math.inf
        self._is_broken, self._resumed_pts = is_live, math.inf
        self._damage = "" if is_live else "the file is damaged"
        self._cause, self._suspects = "decoding starts at a key frame, and none has come yet", 0
        self._held: deque[int | None] = deque()
        self._lost: list[VideoPicture] = []
        self._order: FrameOrder | None = None
        if is_annex_b and self._decoder.name == "h264":
            self._order = FrameOrder()
            with suppress(FrameRejected):  # the parameter sets may come with the key frames
                self._order.read_sets([*nal_units(self._decoder.extradata or b"")])

    def suspect(self) -> None:
        """Lose the pictures of the next packets, which build on something that is missing.

        A JPEG is not lost: it builds on nothing, and FFmpeg gives it only if it arrived completely.
        """
        self._suspects = 0 if self._decoder.name == "mjpeg" else SUSPECTS

    def take(self, packet: Any) -> list[VideoPicture]:
        """The pictures that a packet completes, in the order of their times.

        Lost ones come with the next whole one, behind `MAX_HELD` others or, like those that the
        decoder has held back, with the empty packet at the end.
        """
        is_end = not packet.size
        if is_end and packet.dts is not None:
            return []  # an empty one in between
        is_hurt, self._suspects = self._suspects > 0, max(self._suspects - 1, 0)
        if self._is_broken and packet.is_keyframe and not is_hurt:
            self._is_broken = False
            if packet.pts is not None:
                self._resumed_pts = packet.pts
            if self._order is not None:
                self._order.restart()
        self._is_broken = self._is_broken and not is_end
        if not is_end and not packet.is_discard:
            self._held.append(packet.pts)
            if packet.pts is not None:
                self._is_reordered |= packet.pts < self._latest_pts
                self._latest_pts = packet.pts
        if len(self._held) > MAX_HELD and not self._is_one_each:
            self._held.popleft()
        frames: list[Any] = []
        try:
            frames = [] if self._is_broken else self._decoded(packet, is_hurt)
        except FrameRejected as error:
            self._is_broken, self._cause = True, self._damage or str(error)
            self._decoder.flush_buffers()  # any that it holds may be the damaged one
        found: list[VideoPicture] = []
        for frame in frames:
            self._leave(frame)
            found += [*self._taken_lost(), VideoPicture(frame.pts, frame)]
        if self._is_broken:
            self._lose([*self._held], self._cause)
        elif is_end and self._is_one_each:
            self._lose([*self._held], UNDRAWN)
        if is_end:
            self._held.clear()
            self._latest_pts, self._resumed_pts = -math.inf, math.inf
            found += self._taken_lost()
        elif len(self._lost) > MAX_HELD:  # none that is still to come is shown before these
            lost = self._taken_lost()
            found, self._lost = [*found, *lost[:-MAX_HELD]], lost[-MAX_HELD:]
        return found

    def drop(self, cause: str) -> list[VideoPicture]:
        """Lose the pictures that have not come yet."""
        self._lose([*self._held], cause)
        return self._taken_lost()

    def _decoded(self, packet: Any, is_hurt: bool) -> list[Any]:
        """The PyAV frames of a packet, all of them whole."""
        if is_hurt:
            raise FrameRejected(MISSING)
        if self._order is not None and packet.size:
            units = [*nal_units(bytes(packet))]
            self._order.read_sets(units)
            if self._order.follow(units):
                raise FrameRejected(MISSING)
        return whole_pictures(packet.decode)

    def _leave(self, frame: Any) -> None:
        """Stop holding a frame that has come, and those before it that never will."""
        if frame.pts in self._held:
            self._held.remove(frame.pts)
        elif self._held:
            self._held.popleft()
        self._is_one_each = self._is_one_each and not frame.interlaced_frame
        if frame.pts is None:
            return
        passed = [pts for pts in self._held if pts is not None and pts < frame.pts]
        # Otherwise packets may have other times than their pictures, such as in AVI.
        if self._is_one_each and self._is_reordered:
            self._lose(passed, UNDRAWN)
        elif frame.pts >= self._resumed_pts:
            # These are drawn on pictures from before the damage; MPEG-2 and MPEG-4 leave them out.
            self._lose([pts for pts in passed if pts < self._resumed_pts], UNDRAWN)

    def _lose(self, times: Iterable[int | None], cause: str) -> None:
        for pts in times:
            self._held.remove(pts)
            self._lost.append(VideoPicture(pts, cause=cause))

    def _taken_lost(self) -> list[VideoPicture]:
        lost = sorted(self._lost, key=lambda one: (one.pts is None, one.pts or 0))
        self._lost.clear()
        return lost
