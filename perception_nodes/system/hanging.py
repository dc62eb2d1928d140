"""Whether a silent process hangs, or would go on if others let it.

Only the time in which it could have run counts. The time in which it was ready but had no processor
does not count, whether other processes had it or the host of a virtual machine. So a starved
process is never taken for hung, however long it is starved.

Nor does the time count in which the kernel computes for it. Freeing the frames of a camera that has
left takes 70 ms, and a process that is killed meanwhile ends no sooner.
"""

from collections.abc import Callable

from perception_nodes.system.processes import Seen

LITTLE = 0.25
"""The kernel counts a wait only when it is over. So a process that was ready at two looks counts as
kept from running if it computed for less than this share of the time in between."""


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
            sign_ns: time of its last sign of life, by which one silence is told from the next.
            silent_ns: how long it has been silent.
            patience_ns: how long it may be silent while it can run.
            spent_ns: `own_time_ns` of its main thread at its last sign of life.
            look: asks the kernel; called only when the patience is at its end.

        Returns:
            Whether it hangs. It never does at the first look, since a sign may have been on its
            way.
        """
        if silent_ns <= patience_ns:
            self._last = None
            return False
        seen = look()
        last, self._last = self._last, seen
        if last is None or sign_ns != self._sign_ns:
            # Before the first look, only the time that it computed is known.
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
        """Count none of the silence so far, if it is known by other means that it could not run."""
        self._kept_ns = self._silent_ns


def _kept_ns(last: Seen, seen: Seen, passed_ns: int) -> int:
    """The time between two looks in which a process was kept from running its own code."""
    if last.is_asleep != seen.is_asleep:
        return passed_ns  # the two are of different threads, and cannot be compared
    if last.is_ready and seen.is_ready:
        if seen.computed_ns - last.computed_ns < LITTLE * passed_ns:
            return passed_ns
    stolen_ns = (now - then for now, then in zip(seen.stolen_ns, last.stolen_ns, strict=False))
    kept_ns = max(seen.waited_ns - last.waited_ns, *stolen_ns, 0)
    return min(kept_ns, passed_ns) + seen.in_kernel_ns - last.in_kernel_ns
