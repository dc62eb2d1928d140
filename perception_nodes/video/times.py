"""When the pictures of a video are shown: times and end of a file, stamps and gaps of a stream."""

import re
from collections import deque
from statistics import median
from typing import Any, NamedTuple

from perception_nodes.video.demux import MISSING, VideoInput

JUMP_NS = 5_000_000_000
"""A larger step of a stream's times shows that its clock was set: reading would have timed out."""
INTERVALS, ENOUGH = 30, 5
"""Number of intervals between frames that are kept, and that are needed to notice a missing one."""
SENDER_AGE_NS = 1_000_000_000
"""A sender by whose clock a frame is older has another clock than ours."""
STEP_NS = 1_000_000
OFFSET_WINDOW_NS = 30_000_000_000
MISSING_S = 1.0
"""A file may be cut off if its pictures end this long before its stated end. A shorter difference
may be the rest of its sound."""
MISSING_INTERVALS = 1.5
"""The same for the stated end of the pictures, in the longest interval between two of them: one
interval is that of the last picture."""


class FileTimes:
    """Times of a file's pictures, from 0 on, that always go on.

    A picture without a time, or with one that goes back, follows the one before by the file's rate.

    Attributes:
        count: number of pictures so far.
        last_ns: time of the last one, nanoseconds.
        longest_ns: longest time between two, at least that of the rate.
    """

    def __init__(self, stream: Any, rate_hz: float) -> None:
        """Start before the first picture.

        Args:
            stream: PyAV's.
            rate_hz: pictures a second where they have no times.
        """
        self._tick_ns, self._period_ns = stream.time_base * 1_000_000_000, round(1e9 / rate_hz)
        self._origin_ns: int | None = None
        self.count, self.last_ns, self.longest_ns = 0, -self._period_ns, self._period_ns

    def next_ns(self, pts: int | None) -> int:
        """The time of the next picture, nanoseconds."""
        at_ns = self.last_ns + self._period_ns
        if pts is not None:
            presented_ns = round(pts * self._tick_ns)
            if self._origin_ns is None:
                self._origin_ns = presented_ns - at_ns
            if presented_ns - self._origin_ns > self.last_ns:
                at_ns = presented_ns - self._origin_ns
        self.longest_ns = max(self.longest_ns, at_ns - self.last_ns)
        self.count, self.last_ns = self.count + 1, at_ns
        return at_ns


class StatedEnd(NamedTuple):
    """Where a file ends by what it states.

    Attributes:
        at_s: seconds since its first picture; 0 if it states no end.
        is_of_pictures: whether this is the end of its pictures; else it may be that of its sound.
    """

    at_s: float
    is_of_pictures: bool

    @classmethod
    def of(cls, video: VideoInput) -> "StatedEnd":
        """Read it from an opened file."""
        stream = video.stream
        # Matroska has a tag for it, hours:minutes:seconds.
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if tag is not None:
            hours, minutes, seconds = map(float, tag.groups())
            start_s = float((stream.start_time or 0) * stream.time_base)
            return cls(3600 * hours + 60 * minutes + seconds - start_s, True)
        duration_s = (stream.duration or 0) * stream.time_base
        at_s = float(duration_s or (video.container.duration or 0) / 1e6)
        return cls(at_s, duration_s > 0 and stream.frames > 0)

    def missing_s(self, times: FileTimes) -> float:
        """How long before it the pictures of these times end; 0 if none is missing."""
        limit_s, missing_s = MISSING_S, self.at_s - times.last_ns / 1e9
        if self.is_of_pictures:
            limit_s = min(limit_s, MISSING_INTERVALS * times.longest_ns / 1e9)
        return missing_s if missing_s > limit_s else 0.0


class StreamClock:
    """Wall-clock stamps of a stream whose presentation times have an unknown origin.

    A sender that reports its wall clock (RTCP) ties them, if by that no frame is older than
    `SENDER_AGE_NS` or of the future; stamps go over to it by `STEP_NS` a frame.

    The frame with the least delay of the last half minute ties the two clocks together. So the
    jitter of network and decoder does not reach the stamps. Stamps are late by that least delay,
    which cannot be known. If a clock is set, they are tied anew. A network that holds frames up
    looks like a slow clock; its frames count as old.
    """

    def __init__(self) -> None:
        """Know nothing of the stream yet."""
        self._offsets: list[tuple[int, int]] = []
        self._last_ns: int | None = None
        self._earlier_ns: int | None = None  # by the sender than by arrival

    def stamp_ns(
        self, presented_ns: int | None, arrived_ns: int, sender_offset_ns: int | None = None
    ) -> int:
        """The stamp of a frame.

        Args:
            presented_ns: its time in the stream; None where it has none.
            arrived_ns: wall clock of its arrival, before it was decoded.
            sender_offset_ns: wall clock of its sender, less its time in the stream; None if
                unknown.
        """
        if presented_ns is None:
            return arrived_ns
        offset_ns = arrived_ns - presented_ns
        is_back = self._last_ns is not None and presented_ns < self._last_ns
        # A network cannot hold a frame up for so long: reading would have timed out.
        if is_back or (self._offsets and offset_ns > self._offsets[-1][1] + JUMP_NS):
            self._offsets.clear()
        self._last_ns = presented_ns
        oldest_ns = arrived_ns - OFFSET_WINDOW_NS
        self._offsets = [one for one in self._offsets if one[0] > oldest_ns and one[1] < offset_ns]
        self._offsets.append((arrived_ns, offset_ns))
        tied_ns = self._offsets[0][1]
        return presented_ns + tied_ns - self._earlier(tied_ns, sender_offset_ns)

    def _earlier(self, tied_ns: int, sender_offset_ns: int | None) -> int:
        """How much earlier a frame was taken than its arrival says."""
        age_ns = 0 if sender_offset_ns is None else tied_ns - sender_offset_ns
        wanted_ns = age_ns if 0 < age_ns < SENDER_AGE_NS else 0
        if self._earlier_ns is None:
            self._earlier_ns = wanted_ns
        self._earlier_ns += max(-STEP_NS, min(STEP_NS, wanted_ns - self._earlier_ns))
        return self._earlier_ns


class LossCounter:
    """Counts the pictures of a stream or file that are lost."""

    def __init__(self) -> None:
        """None is lost yet."""
        self._lost, self._cause = 0, ""
        self.begin()

    def begin(self) -> None:
        """Expect a stream with other times."""
        self._intervals_ns: deque[int] = deque(maxlen=INTERVALS)
        self._last_ns: int | None = None
        self._gap_ns = self._known_gaps = 0

    def expect_gap(self) -> None:
        """Expect missing pictures before one of the next, since the demuxer has reported a gap."""
        self._known_gaps += 1

    def follow(self, presented_ns: int, cause: str) -> None:
        """Take the next picture of a stream.

        Pictures of which nothing arrived show in the times of the others. Where these have no
        steady rate, gaps are counted only behind a loss that is known otherwise.

        Args:
            presented_ns: its time in the stream.
            cause: of its loss; empty if it is whole.
        """
        gap_ns = presented_ns - (presented_ns if self._last_ns is None else self._last_ns)
        if cause and -JUMP_NS < gap_ns < 0:
            self.add(1, cause)  # one that others were shown before
            return
        if abs(gap_ns) > JUMP_NS:
            self.begin()
            gap_ns = 0
        missing = 0
        if len(self._intervals_ns) >= ENOUGH:
            is_steady = max(self._intervals_ns) < 1.5 * min(self._intervals_ns)
            if is_steady or self._known_gaps or (cause and not self._cause):
                missing = max(round(gap_ns / median(self._intervals_ns)) - 1, 0)
        # Twice the same gap that nothing explains is another rate.
        is_same = abs(gap_ns - self._gap_ns) < gap_ns / 10 and not self._known_gaps
        if gap_ns > 0 and (not missing or is_same):
            self._intervals_ns.append(gap_ns)
        self._known_gaps = max(self._known_gaps - bool(missing), 0) if cause else 0
        self._last_ns, self._gap_ns = presented_ns, gap_ns
        if missing or cause:
            self.add(missing + bool(cause), cause or MISSING)

    def add(self, lost: int, cause: str) -> None:
        """Count pictures whose loss is known."""
        self._lost += lost
        self._cause = self._cause or cause

    def take(self) -> tuple[int, str]:
        """The number since the last call, and the cause of the first of them."""
        taken = self._lost, self._cause
        self._lost, self._cause = 0, ""
        return taken
