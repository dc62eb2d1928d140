"""Clocks: a monotonic one, which durations are measured with, and the wall clock of the stamps."""

import time
from collections import deque
from typing import NamedTuple, Protocol

MAX_SANE_AGE_NS = 1_000_000_000
CLOCK_MESSAGES = 50
"""Number of the latest clock messages from which the rate of simulated time is computed."""
RECENT_NS = 250_000_000
"""The rate of the messages of this time, at least of the last three, is compared with that of all.
If they differ by more than delivery explains, it has changed, and older messages are forgotten."""
PAUSE_NS = 100_000_000
"""No message waits this long for delivery. So simulated time that is further behind its own rate
has paused, or goes slower now."""


class Clock(Protocol):
    """Source of monotonic and wall-clock time; the tests have a fake one.

    Attributes:
        behind_ns: how far `realtime_ns` may lag behind the clock that made the stamps.
    """

    behind_ns: int

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC, the same in every process of this machine."""

    def realtime_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""


class SystemClock:
    """The clocks of this machine, which also make the stamps."""

    behind_ns = 0

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def realtime_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()


class SimulatedClock:
    """The clock of a recorded drive, which is published now and then, for example on `/clock`.

    Between two messages, time advances at the rate of the last `CLOCK_MESSAGES` ones, or of those
    since the rate has changed, as that of a simulator does. Every message arrives with some delay,
    so the one with the smallest delay is the reference: the estimate is the line with that rate
    through the reference, and no message lies above it.
    """

    behind_ns = 20_000_000
    """The longest that a clock message waits for delivery on a busy machine."""

    def __init__(self) -> None:
        self._messages: deque[tuple[int, int]] = deque(maxlen=CLOCK_MESSAGES)
        self._rate = 1.0
        self._least_span_ns = 0
        self._reference = (0, 0)

    def update(self, time_ns: int, now_ns: int) -> None:
        """Take a clock message into account.

        Args:
            time_ns: the recorded time in the message.
            now_ns: CLOCK_MONOTONIC at its receipt.
        """
        if self._messages:
            (first_ns, begin_ns), (before_ns, told_ns) = self._messages[0], self._messages[-1]
            stands = time_ns <= before_ns
            ahead_ns = self._at(now_ns) - time_ns
            if not stands and now_ns > begin_ns and told_ns - begin_ns <= self._least_span_ns:
                # No rate has been learned since the last pause. A slower one counts at once.
                # Otherwise rare messages would each look like a pause, and no rate would ever be
                # learned.
                self._rate = min(self._rate, (time_ns - first_ns) / (now_ns - begin_ns))
            if stands or not -MAX_SANE_AGE_NS <= ahead_ns <= PAUSE_NS:
                # The clock pauses, goes back, or jumps: the rate until now says nothing of what
                # follows.
                if ahead_ns < -MAX_SANE_AGE_NS:
                    # With a slower rate each message would be a jump.
                    self._rate = max(self._rate, 1.0)
                self._messages.clear()
                self._least_span_ns = PAUSE_NS
        self._messages.append((time_ns, now_ns))
        first_ns, begin_ns = self._messages[0]
        passed_ns = now_ns - begin_ns
        # After a pause messages may come in a burst, which says nothing of the rate.
        if passed_ns > self._least_span_ns:
            self._rate = (time_ns - first_ns) / passed_ns
            self._forget_other_rates(time_ns, now_ns)
        self._reference = max(self._messages, key=lambda m: m[0] - self._rate * (m[1] - begin_ns))

    def _forget_other_rates(self, time_ns: int, now_ns: int) -> None:
        """If the last messages have another rate than all, keep only them."""
        messages = self._messages
        recent = next(i for i, (_, at_ns) in enumerate(messages) if now_ns - at_ns <= RECENT_NS)
        recent = min(recent, len(messages) - 3)
        if recent <= 0:
            return
        then_ns, at_ns = messages[recent]
        passed_ns = now_ns - at_ns
        if passed_ns and abs(time_ns - then_ns - self._rate * passed_ns) > self.behind_ns:
            self._rate = (time_ns - then_ns) / passed_ns
            for _ in range(recent):
                messages.popleft()

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def realtime_ns(self) -> int:
        """The recorded time, nanoseconds since the Unix epoch; 0 before the first message."""
        return self._at(time.monotonic_ns()) if self._messages else 0

    def _at(self, now_ns: int) -> int:
        time_ns, at_ns = self._reference
        return time_ns + round(self._rate * (now_ns - at_ns))


class CaptureTime(NamedTuple):
    """When a frame was captured, and whether its stamp could be believed."""

    capture_ns: int
    clock_suspect: bool


def since_receipt(waited_ns: int) -> int:
    """How long a frame has waited for us; 0 if the sender's clock or ours is wrong."""
    return waited_ns if 0 < waited_ns < MAX_SANE_AGE_NS else 0


def capture_time(
    stamp_ns: int, received_ns: int, received_realtime_ns: int, behind_ns: int = 0
) -> CaptureTime:
    """Translate a message stamp into CLOCK_MONOTONIC.

    Args:
        stamp_ns: `header.stamp`, nanoseconds since the Unix epoch.
        received_ns: CLOCK_MONOTONIC at receipt.
        received_realtime_ns: the clock of the stamps at the same moment.
        behind_ns: how far `received_realtime_ns` may lag; the age of a frame that seems to be
            captured in the future, but by no more than this, counts as 0.

    Returns:
        The capture instant in CLOCK_MONOTONIC. If the frame's age is not in [0 s, 1 s), the stamp
        comes from a clock that is not ours: the instant is then the receipt, and `clock_suspect`
        is set.
    """
    age_ns = received_realtime_ns - stamp_ns
    if -behind_ns <= age_ns < 0:
        age_ns = 0
    if 0 <= age_ns < MAX_SANE_AGE_NS:
        return CaptureTime(received_ns - age_ns, False)
    return CaptureTime(received_ns, True)
