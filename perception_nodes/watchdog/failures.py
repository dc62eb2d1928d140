"""Tells of failed frames: of the first one at once, then of one a second, uncut."""

from collections.abc import Iterable

from perception_nodes.core.frame import FrameRecord, FrameStatus

PERIOD_NS = 1_000_000_000


class Failures:
    """Keeps the failures that were not told yet."""

    def __init__(self) -> None:
        self._untold = 0
        self._last = ""
        self._next_ns = 0

    def update(self, reports: Iterable[FrameRecord], now_ns: int) -> str:
        """Take the reports of frames that have ended; to be called at least once a period.

        Args:
            reports: of all frames, whatever their status.
            now_ns: CLOCK_MONOTONIC.

        Returns:
            A line to tell people, empty if there is none now.
        """
        for report in reports:
            if report.status == FrameStatus.FAILED:
                self._untold += 1
                reason = report.reason.decode(errors="replace")
                self._last = f"frame {report.sequence} FAILED: {reason}"
        if not self._untold or now_ns < self._next_ns:
            return ""
        others = f" ({self._untold - 1} more FAILED before it)" if self._untold > 1 else ""
        self._untold, self._next_ns = 0, now_ns + PERIOD_NS
        return self._last + others
