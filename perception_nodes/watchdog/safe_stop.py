"""The request that the vehicle stops safely, and when it ends."""

from collections.abc import Sequence


class SafeStop:
    """Stands from the start, since nothing has been detected yet."""

    def __init__(self, latched: bool) -> None:
        """Request the stop.

        Args:
            latched: the request stays, whatever happens, until it is released.
        """
        self._latched = latched
        self._causes: Sequence[str] = ("nothing has been detected yet",)
        self.requested = True

    def update(self, causes: Sequence[str]) -> bool:
        """Judge the present.

        Args:
            causes: why detections cannot be relied on; empty if they can.

        Returns:
            Whether the request stands.
        """
        self._causes = causes
        self.requested = bool(causes) or (self._latched and self.requested)
        return self.requested

    def release(self) -> str:
        """End the request unless there is still a cause; return that cause, else an empty text."""
        if not self._causes:
            self.requested = False
        return "; ".join(self._causes)
