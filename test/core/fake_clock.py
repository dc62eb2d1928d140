"""Time in tests."""


class FakeClock:
    """Both clocks, which only advance, together, when the test sets `now_ns`."""

    behind_ns = 0

    def __init__(self, monotonic_ns=0, realtime_ns=0):
        self.now_ns, self._starts_ns = 0, (monotonic_ns, realtime_ns)

    def monotonic_ns(self):
        return self._starts_ns[0] + self.now_ns

    def realtime_ns(self):
        return self._starts_ns[1] + self.now_ns
