"""Whether those who listen to topics have discovered the publishers that have just been opened."""

from collections.abc import Callable

ACQUAINTANCE_NS = 500_000_000
"""Once we know a listener, it gets this much more time, because each side discovers the other in
its own time. A reader that has not discovered us yet asks for missed messages only seconds
later."""


class Audience:
    """Waits for listeners, but not for ever: some may never discover us."""

    def __init__(self, now_ns: int, patience_ns: int, is_complete: Callable[[], bool]) -> None:
        """Start when the publishers are opened.

        Args:
            now_ns: CLOCK_MONOTONIC.
            patience_ns: after this time we count as heard anyway.
            is_complete: whether we know all listeners that are waited for.
        """
        self._hears_ns, self._is_complete = now_ns + patience_ns, is_complete

    def hears(self, now_ns: int) -> bool:
        """Whether what is published now is heard; once true, it stays true."""
        if now_ns > self._hears_ns:
            return True
        if self._is_complete():
            self._hears_ns = min(self._hears_ns, now_ns + ACQUAINTANCE_NS)
        return False
