"""The time that passes in a recorded drive, without the jumps of its clock."""

from perception_nodes.drives.bag import RawFrame

MAX_GAP_NS = 5_000_000_000
"""A longer gap between two frames, or a backward step of the log time, is a clock jump, which is
not waited for."""
MAX_JUMPS_NAMED = 10
USUAL_NS = 33_333_333
"""The time that passes at a jump between the first two frames."""


class LogClock:
    """Follows the log times of a drive's frames.

    Attributes:
        warnings: where the clock jumps, a line each.
    """

    def __init__(self) -> None:
        """Begin before the first frame."""
        self.warnings: list[str] = []
        self._last: RawFrame | None = None
        self._passed_ns, self._step_ns = 0, USUAL_NS

    def passed_ns(self, frame: RawFrame) -> int:
        """The recorded time from the first frame to this one; frames are given in order.

        At a jump, the time goes on by the step before it. A frame with the log time of the frame
        before it counts as one microsecond later.
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
