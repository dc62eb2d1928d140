"""When the pictures of a video are shown: times of a file, and stamps and gaps of a stream."""

from collections import deque
from statistics import median
from typing import Any

from perception_nodes.video.demux import MISSING

JUMP_NS = 5_000_000_000
"""A stream whose times go on from further away has set its clock: else reading had timed out."""
INTERVALS, ENOUGH = 30, 5
"""Times between frames by which a missing one is noticed: how many are kept, and needed."""
OFFSET_WINDOW_NS = 30_000_000_000


class FileTimes:
    """Times of a file's pictures, from 0 on, that always go on.

    A picture without a time, or with one that goes back, follows the one before by the file's rate.
    """

    def __init__(self, stream: Any, rate_hz: float) -> None:
        """Start before the first picture.

        Args:
            stream: PyAV's.
            rate_hz: pictures a second where they have no times.
        """
        self._tick_ns, self._period_ns = stream.time_base * 1_000_000_000, round(1e9 / rate_hz)
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


class StreamClock:
    """Wall-clock stamps of a stream whose presentation times have an unknown origin.

    The frame with the least delay of the last half minute ties the two clocks together, so that the
    jitter of network and decoder does not reach the stamps. The least delay itself cannot be known:
    stamps are late by it. Clocks that are set are tied anew. Frames whose times fall behind are
    old, since a network that holds frames up cannot be told from a clock that is slow.
    """

    def __init__(self) -> None:
        """Know nothing of the stream yet."""
        self._offsets: list[tuple[int, int]] = []
        self._last_ns: int | None = None

    def stamp_ns(self, presented_ns: int | None, arrived_ns: int) -> int:
        """The stamp of a frame.

        Args:
            presented_ns: its time in the stream; None where it has none.
            arrived_ns: wall clock of its arrival, before it was decoded.
        """
        if presented_ns is None:
            return arrived_ns
        offset_ns = arrived_ns - presented_ns
        is_back = self._last_ns is not None and presented_ns < self._last_ns
        # Reading had timed out before a network could hold a frame up for so long.
        if is_back or (self._offsets and offset_ns > self._offsets[-1][1] + JUMP_NS):
            self._offsets.clear()
        self._last_ns = presented_ns
        oldest_ns = arrived_ns - OFFSET_WINDOW_NS
        self._offsets = [one for one in self._offsets if one[0] > oldest_ns and one[1] < offset_ns]
        self._offsets.append((arrived_ns, offset_ns))
        return presented_ns + self._offsets[0][1]


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
        """Expect that pictures are missing before one of the next: the demuxer says so."""
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
