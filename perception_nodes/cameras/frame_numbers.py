"""Numbers that a camera gives its frames: which frames are new, and which did not arrive."""

from collections.abc import Mapping

WAITING = 16
"""At most so many frames wait in a queue when another process takes over."""


class FrameNumbers:
    """Keeps the last number of each source, including those that a predecessor took."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        self._refused = 0

    def take_over(self, taken: Mapping[int, int]) -> None:
        """Go on behind the last number that a predecessor took from each source.

        A camera that has ended is one of them: its last frames may still be waiting.
        """
        self._taken, self._refused = dict(taken), 0
        self._next |= {source: number + 1 for source, number in taken.items()}

    def missing_before(
        self, source: int, number: int, lost: int = 0, begins_at: int | None = None
    ) -> range | None:
        """The numbers of frames that were sent before this one and did not arrive.

        Args:
            source: identifies who numbers the frames; not 0.
            number: that of a frame which has arrived.
            lost: so many frames directly before it were lost by the camera itself.
            begins_at: first number of a source that has begun while we listened; None if the
                source may have been running before us.

        Returns:
            None if the predecessor has taken the frame already.
        """
        taken = self._taken.get(source, -1)
        # Beyond that its numbers have begun anew, or stand still.
        if taken - WAITING < number <= taken and self._refused < WAITING:
            self._refused += 1
            return None
        # After its first new frame a source's numbers may start again.
        self._taken.pop(source, None)
        # Of a source that may have been running before us, only the frames that it reports as lost
        # are missing before the first one that we see.
        first = max(0, number - lost) if begins_at is None else min(begins_at, number)
        expected = self._next.get(source, first)
        self._next[source] = number + 1
        return range(expected, number)
