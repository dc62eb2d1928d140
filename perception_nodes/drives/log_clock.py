"""The time that passes in a recorded drive, without the jumps of its clock."""

from perception_nodes.drives.bag import RawFrame

MAX_GAP_NS = 5_000_000_000
"""Longer gaps from a frame to the next and backward steps of the log time are clock jumps, which
nobody waits for."""
MAX_JUMPS_NAMED = 10
USUAL_NS = 33_333_333
"""What passes at a jump from the first frame to the second."""


class LogClock:
    """Follows the log times of a drive's frames.

    Attributes:
        warnings: where the clock jumps, a line each.
    """

    def __init__(self) -> None:
        """No frame yet."""
        self.warnings: list[str] = []
        self._last: RawFrame | None = None
        self._passed_ns, self._step_ns = 0, USUAL_NS

    def passed_ns(self, frame: RawFrame) -> int:
        """The recorded time from the first frame to this one, a later one.

        At a jump it goes on by the step before; a frame that has the log time of the one before is
        a microsecond behind it.
        """
        if self._last is not None:
            gap_ns = frame.log_time_ns - self._last.log_time_ns
            # Frames may be left out in between.
            if 0 <= gap_ns <= (frame.index - self._last.index) * MAX_GAP_NS:
                self._step_ns = gap_ns
            elif len(self.warnings) < MAX_JUMPS_NAMED:
                self.warnings.append(
                    f"the log time jumps by {gap_ns / 1e9:.1f} s at frame {frame.index}; this was "
                    "not waited for"
                )
            self._passed_ns += max(self._step_ns, 1_000)
        self._last = frame
        return self._passed_ns
