"""Videos as FFmpeg reads them from a file or a stream: whole pictures, and those that are lost."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perception_nodes.core.frame import FrameRejected
from perception_nodes.video.decode import whole_pictures

CODECS = {"h264": "h264", "hevc": "h265"}
"""Our names, by FFmpeg's, of the codecs whose packets each give a picture, or a field of one."""
UNDRAWN = "their pictures are drawn on others that were not there"
MAX_HELD = 16
"""A decoder holds back at most this many pictures (ITU-T H.264, A.3.1)."""


@dataclass(frozen=True)
class Picture:
    """What comes of a packet.

    Attributes:
        pts: its time, in units of the stream; None where nothing says it.
        frame: PyAV's; None if it is lost.
        cause: of the loss.
    """

    pts: int | None
    frame: Any = None
    cause: str = ""


class WholePictures:
    """Decodes packets; no picture is damaged, or drawn on a damaged one."""

    def __init__(self, video: Any, damage: str) -> None:
        """Set its decoder up, of which nothing has been used yet.

        Args:
            video: PyAV's stream.
            damage: what to say of pictures that are lost by damage.
        """
        video.thread_type = "NONE"  # threads of the decoder would each hold a frame back
        video.codec_context.options = {"err_detect": "crccheck"}
        self._decoder, self._damage = video.codec_context, damage
        # A picture of two fields may come of two packets.
        self._is_one_each = self._decoder.name in CODECS
        self._is_reordered, self._latest_pts = False, -math.inf
        self._is_broken, self._resumed_pts = False, math.inf
        self._held: deque[int | None] = deque()
        self._lost: list[Picture] = []

    def take(self, packet: Any) -> list[Picture]:
        """The pictures that a packet completes, in the order of their times.

        Lost ones come with the next whole one or, like those that the decoder has held back, with
        the empty packet at the end.
        """
        is_end = not packet.size
        if is_end and packet.dts is not None:
            return []  # an empty one in between
        if self._is_broken and packet.is_keyframe and packet.pts is not None:
            self._resumed_pts = packet.pts
        self._is_broken = self._is_broken and not packet.is_keyframe and not is_end
        if not is_end and not packet.is_discard:
            self._held.append(packet.pts)
            if packet.pts is not None:
                self._is_reordered |= packet.pts < self._latest_pts
                self._latest_pts = packet.pts
        if len(self._held) > MAX_HELD and not self._is_one_each:
            self._held.popleft()
        frames: list[Any] = []
        try:
            frames = [] if self._is_broken else whole_pictures(packet.decode)
        except FrameRejected:
            self._is_broken = True
            self._decoder.flush_buffers()  # any that it holds may be the damaged one
        found: list[Picture] = []
        for frame in frames:
            self._leave(frame)
            found += [*self._taken_lost(), Picture(frame.pts, frame)]
        if self._is_broken:
            self._lose([*self._held], self._damage)
        elif is_end and self._is_one_each:
            self._lose([*self._held], UNDRAWN)
        if is_end:
            self._held.clear()
            self._latest_pts, self._resumed_pts = -math.inf, math.inf
            found += self._taken_lost()
        return found

    def drop(self, cause: str) -> list[Picture]:
        """Lose the pictures that have not come yet."""
        self._lose([*self._held], cause)
        return self._taken_lost()

    def _leave(self, frame: Any) -> None:
        """A frame comes: it, and the ones before it that never will, are held no more."""
        if frame.pts in self._held:
            self._held.remove(frame.pts)
        elif self._held:
            self._held.popleft()
        self._is_one_each = self._is_one_each and not frame.interlaced_frame
        if frame.pts is None:
            return
        passed = [pts for pts in self._held if pts is not None and pts < frame.pts]
        # Else packets may have other times than their pictures, such as in AVI.
        if self._is_one_each and self._is_reordered:
            self._lose(passed, UNDRAWN)
        elif frame.pts >= self._resumed_pts:
            # Drawn on pictures from before the damage; MPEG-2 and MPEG-4 leave them out.
            self._lose([pts for pts in passed if pts < self._resumed_pts], UNDRAWN)

    def _lose(self, times: Iterable[int | None], cause: str) -> None:
        for pts in times:
            self._held.remove(pts)
            self._lost.append(Picture(pts, cause=cause))

    def _taken_lost(self) -> list[Picture]:
        lost = sorted(self._lost, key=lambda one: (one.pts is None, one.pts or 0))
        self._lost.clear()
        return lost


class FileTimes:
    """Times of a file's pictures, from 0 on, that always go on.

    One without a time, or with one that goes back, follows the one before by the file's rate.
    """

    def __init__(self, video: Any, rate_hz: float) -> None:
        """Before the first picture.

        Args:
            video: PyAV's stream.
            rate_hz: pictures a second where they have no times.
        """
        self._tick_ns, self._period_ns = video.time_base * 1_000_000_000, round(1e9 / rate_hz)
        self._origin_ns: int | None = None
        self._last_ns = -self._period_ns

    def next_ns(self, pts: int | None) -> int:
        """The time of the next picture, nanoseconds."""
        at_ns = self._last_ns + self._period_ns
        if pts is not None:
            presented_ns = round(pts * self._tick_ns)
            if self._origin_ns is None:
                self._origin_ns = presented_ns - at_ns
            if presented_ns - self._origin_ns > self._last_ns:
                at_ns = presented_ns - self._origin_ns
        self._last_ns = at_ns
        return at_ns


def rate_of(video: Any, otherwise_hz: float) -> float:
    """Pictures a second as a stream states it."""
    rate_hz = float(video.average_rate or video.guessed_rate or 0)
    return rate_hz if 0 < rate_hz < 1000 else otherwise_hz


def quarter_turns(frame: Any) -> int:
    """How often a frame has to be turned by 90 degrees, counterclockwise, to be upright."""
    return int(round(frame.rotation / 90) % 4)
