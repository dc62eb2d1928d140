"""Time in the tests of this folder."""


class FakeClock:
    """A clock that only advances when the test says so."""

    def __init__(self):
        self.now_ns = 0

    def monotonic_ns(self):
        return self.now_ns

    def realtime_ns(self):
        return self.now_ns
