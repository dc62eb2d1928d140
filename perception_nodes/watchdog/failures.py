"""Which failed frames are logged: the first one at once, then one a second, uncut.

Frames that came before the first detections of a graph are told apart: it was not ready yet.
"""

from collections.abc import Iterable

from perception_nodes.core.frame import FrameRecord, FrameStatus

PERIOD_NS = 1_000_000_000


class Failures:
    """Keeps the failures that were not logged yet."""

    def __init__(self) -> None:
        self._unlogged = 0
        self._last = ""
        self._next_ns = 0

    def update(self, reports: Iterable[FrameRecord], now_ns: int) -> str:
        """Take the reports of frames that have ended; to be called at least once a period.

        Args:
            reports: of all frames, whatever their status.
            now_ns: CLOCK_MONOTONIC.

        Returns:
            A line to log, empty if there is none now.
        """
        for report in reports:
            if report.status == FrameStatus.FAILED:
                self._unlogged += 1
                reason = report.reason.decode(errors="replace")
                self._last = f"frame {report.sequence} FAILED: {reason}"
        if not self._unlogged or now_ns < self._next_ns:
            return ""
        others = f" ({self._unlogged - 1} more FAILED before it)" if self._unlogged > 1 else ""
        self._unlogged, self._next_ns = 0, now_ns + PERIOD_NS
        return self._last + others
