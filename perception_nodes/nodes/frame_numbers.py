"""Numbers that a camera gives its frames: which frames are new, and which did not arrive."""


class FrameNumbers:
    """Keeps the last number of each source, also that of a predecessor."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._predecessors_last: tuple[int, int] | None = None

    def take_over(self, source: int, number: int) -> None:
        """Go on behind the frame of this number, the last one that a predecessor took."""
        self._predecessors_last = (source, number)
        self._next[source] = number + 1

    def missing_before(self, source: int, number: int) -> range | None:
        """The numbers of frames that were sent before this one and did not arrive.

        Args:
            source: identifies who numbers the frames; not 0.
            number: that of a frame which has arrived.

        Returns:
            None if the predecessor has taken the frame already.
        """
        if self._predecessors_last is not None:
            if self._predecessors_last[0] == source and number <= self._predecessors_last[1]:
                return None
            # After the first new frame numbers may start again: a camera can be restarted.
            self._predecessors_last = None
        # A source may have been running before us: its first frame that we see is our first.
        expected = self._next.get(source, number)
        self._next[source] = number + 1
        return range(expected, number)
