"""When a better model may run again after it was too slow: a hold time with exponential backoff."""

FIRST_HOLD = 8
"""Frames for which a better model rests after it was too slow once."""
LONGEST_HOLD = 2048
"""Over a minute of a camera."""
SOON = 8
"""A model that is too slow again within this many hold times rests twice as long."""
REHEARSALS = 8
"""Number of frames of a hold on which the better model is timed without using its answer."""


class StepUp:
    """Counts frames since the step down to a smaller model.

    Attributes:
        is_rehearsed: whether the better model has been timed in this hold; set by the caller.
    """

    def __init__(self) -> None:
        self._hold = FIRST_HOLD
        self._frames = SOON * FIRST_HOLD
        self.is_rehearsed = False

    def fell(self) -> None:
        """Note that the model was too slow, and begin a hold."""
        soon = self._frames < SOON * self._hold
        self._hold = min(2 * self._hold, LONGEST_HOLD) if soon else FIRST_HOLD
        self.begin()

    def begin(self) -> None:
        """Count from here: a hold begins, or the better model runs again."""
        self._frames, self.is_rehearsed = 0, False

    def count(self) -> None:
        """Count a frame."""
        self._frames += 1

    @property
    def rehearsal_due(self) -> bool:
        """Whether to time the better model on this frame."""
        return self._frames % (self._hold // REHEARSALS) == 0

    @property
    def is_over(self) -> bool:
        """Whether the hold is over."""
        return self._frames >= self._hold
