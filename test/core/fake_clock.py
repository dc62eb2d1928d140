"""Time in the tests of this folder."""


class FakeClock:
    """Moves on only when it is told to."""

    def __init__(self):
        self.now_ns = 0

    def monotonic_ns(self):
        return self.now_ns

    def realtime_ns(self):
        return self.now_ns
