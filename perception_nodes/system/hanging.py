"""Whether a silent process hangs, or would go on if others let it.

Only the time counts in which it could have run. Not counted is the time in which it was ready and
had no processor, because of other processes or because the host of a virtual machine had taken the
processor away. So a process that is starved is never taken for hung, however long that lasts.

Nor is the time counted in which the kernel computes for it, such as the 70 ms in which the frames
of a camera that has left are freed: a process that is killed meanwhile ends no sooner.
"""

from collections.abc import Callable

from perception_nodes.system.processes import Seen

LITTLE = 0.25
"""A process that was ready at two looks has been kept from running in between if it computed for
less than this share of the time: the kernel counts a wait only when it is over."""


class HangJudge:
    """Judges one process, look by look."""

    def __init__(self) -> None:
        self._last: Seen | None = None
        self._sign_ns = self._silent_ns = self._kept_ns = 0

    def update(
        self,
        sign_ns: int,
        silent_ns: int,
        patience_ns: int,
        spent_ns: int,
        look: Callable[[], Seen],
    ) -> bool:
        """Judge it; to be called every few milliseconds.

        Args:
            sign_ns: time of its last sign of life, which sets one silence apart from the next.
            silent_ns: how long it has been silent.
            patience_ns: how long it may be silent while it can run.
            spent_ns: `own_time_ns` of its main thread at its last sign of life.
            look: asks the kernel, which is only done when the patience is at its end.

        Returns:
            Whether it hangs; never at the first look, since a sign may have been on its way.
        """
        if silent_ns <= patience_ns:
            self._last = None
            return False
        seen = look()
        last, self._last = self._last, seen
        if last is None or sign_ns != self._sign_ns:
            # What was before the first look is not known, but for the time that it computed.
            computed_ns = max(0, seen.main_ns - spent_ns)
            self._kept_ns = max(0, silent_ns - computed_ns) if seen.is_ready else 0
            self._sign_ns, self._silent_ns = sign_ns, silent_ns
            return False
        self._kept_ns += _kept_ns(last, seen, silent_ns - self._silent_ns)
        self._silent_ns = silent_ns
        return silent_ns - self._kept_ns > patience_ns

    @property
    def sleeps_on(self) -> int:
        """The processor on which it slept at the last look; -1 if it did not sleep."""
        return -1 if self._last is None or self._last.is_ready else self._last.processor

    def excuse(self) -> None:
        """Count none of the silence so far: it could not run, as is known by other means."""
        self._kept_ns = self._silent_ns


def _kept_ns(last: Seen, seen: Seen, passed_ns: int) -> int:
    """How much of the time between two looks a process was kept from running its own code."""
    if last.is_asleep != seen.is_asleep:
        return passed_ns  # not to be compared: it is not the same threads that count
    if last.is_ready and seen.is_ready:
        if seen.computed_ns - last.computed_ns < LITTLE * passed_ns:
            return passed_ns
    stolen_ns = (now - then for now, then in zip(seen.stolen_ns, last.stolen_ns, strict=False))
    kept_ns = max(seen.waited_ns - last.waited_ns, *stolen_ns, 0)
    return min(kept_ns, passed_ns) + seen.in_kernel_ns - last.in_kernel_ns
