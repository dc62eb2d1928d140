"""The health of the pipeline: ordered rules over measured facts, with hysteresis."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perception_nodes.core.frame import CROWDED, IN_TIME, PUBLISHED, FrameStatus
from perception_nodes.core.health import HealthMode, Phase
from perception_nodes.watchdog.faults import Fault

SETTLED_FRAMES = 3
"""After the start a better mode is entered at once when the last frames, so many of them, had
detections in time. A single detection among frames that were abandoned proves nothing."""
ABANDONED = (FrameStatus.SKIPPED_LATE, FrameStatus.SUPERSEDED)


@dataclass(frozen=True)
class HealthLimits:
    """When a worse mode is entered, and how long a better one must hold before it is entered.

    Attributes:
        unsafe_after_ms: after this time without published detections the mode is UNSAFE.
        unsafe_when_late_ms: the mode is UNSAFE too if all detections were late for this time, since
            nobody may rely on them.
        window_frames: shares are taken over this many frames.
        degraded_miss_rate: the mode is DEGRADED if a larger share of frames has no result in time,
            or only the result of a smaller model or another backend.
        skipping_rate: the mode is SKIPPING if a larger share of frames is abandoned.
        recovery_ms: how long a better mode must hold before it is entered.
    """

    unsafe_after_ms: float = 500.0
    unsafe_when_late_ms: float = 3000.0
    window_frames: int = 30
    degraded_miss_rate: float = 0.1
    skipping_rate: float = 0.4
    recovery_ms: float = 1000.0


def phase_of(counts: Mapping[FrameStatus, int]) -> Phase:
    """Whether a graph that does not stop has published detections, by its frames."""
    return Phase.RUNNING if any(counts[status] for status in PUBLISHED) else Phase.STARTING


@dataclass(frozen=True)
class Transition:
    """A change of mode and its cause."""

    previous: HealthMode
    mode: HealthMode
    cause: str


class Health:
    """The state machine. It starts UNSAFE, since nothing has been detected yet."""

    def __init__(self, limits: HealthLimits, now_ns: int) -> None:
        self._limits = limits
        self._statuses: deque[FrameStatus] = deque(maxlen=limits.window_frames)
        self._degraded_why = self._failed_why = ""
        self._unpublished, self._unpublished_why = 0, ""
        self._last_published_ns: int | None = None
        self._late_since_ns: int | None = None
        self._better_since_ns = now_ns
        self._better: tuple[HealthMode, str] | None = None
        self._starting = True
        self.mode = self.previous = HealthMode.UNSAFE
        self.cause = "no detections yet"

    def frame(
        self, status: FrameStatus, now_ns: int, reason: str = "", is_early: bool = False
    ) -> None:
        """Take the status of a frame that has ended.

        Args:
            status: of the frame.
            now_ns: CLOCK_MONOTONIC.
            reason: its reason.
            is_early: it came before the graph was ready, and says nothing of what follows.
        """
        if not is_early:
            self._statuses.append(status)
        if status == FrameStatus.DEGRADED:
            # A crowd is no cause: the wanted model would have met it too.
            self._degraded_why = reason.removeprefix(CROWDED.decode()).removeprefix("; ")
        if status == FrameStatus.FAILED:
            self._failed_why = reason
        if status in PUBLISHED:
            if status in IN_TIME:
                self._late_since_ns = None
            elif self._late_since_ns is None:
                self._late_since_ns = now_ns
            self._last_published_ns, self._unpublished, self._unpublished_why = now_ns, 0, ""
        else:
            self._unpublished += 1
            self._unpublished_why = f"{status.name}: {reason}" if reason else status.name

    def update(self, faults: Sequence[Fault], now_ns: int) -> Transition | None:
        """Judge the facts.

        Args:
            faults: all that is wrong now; the worst one decides if it is worse than the frames.
            now_ns: CLOCK_MONOTONIC.

        Returns:
            The change of mode; None if there is none. A worse mode is entered at once, and so is
            the first better one after the start if the last frames are good. Any other better mode
            must hold for `recovery_ms`. If several better modes alternate in that time, the worst
            of them is entered.
        """
        mode, cause = self._judge(faults, now_ns)
        if mode == self.mode:
            self._better, self.cause = None, cause
            return None
        last = list(self._statuses)[-SETTLED_FRAMES:]
        is_settled = len(last) == SETTLED_FRAMES and set(last) <= set(IN_TIME)
        if mode < self.mode and not (self._starting and is_settled):
            if self._better is None:
                self._better, self._better_since_ns = (mode, cause), now_ns
            elif mode >= self._better[0]:
                self._better = (mode, cause)
            if now_ns - self._better_since_ns < self._limits.recovery_ms * 1e6:
                return None
            mode, cause = self._better
        self._better, self._starting = None, False
        transition = Transition(self.mode, mode, cause)
        self.previous, self.mode, self.cause = self.mode, mode, cause
        return transition

    def _judge(self, faults: Sequence[Fault], now_ns: int) -> tuple[HealthMode, str]:
        mode, cause = self._judge_frames(now_ns)
        worst = max(faults, key=lambda fault: fault.mode, default=None)
        if worst is None or worst.mode < HealthMode.DEGRADED:
            return mode, cause
        # If both are equally bad, the fault is the cause, and the frames are its effect.
        return (mode, f"{cause}; {worst.text}") if worst.mode < mode else (worst.mode, worst.text)

    def _judge_frames(self, now_ns: int) -> tuple[HealthMode, str]:
        limits = self._limits
        if self._last_published_ns is None:
            return HealthMode.UNSAFE, "no detections yet" + self._since_then()
        if (now_ns - self._last_published_ns) / 1e6 > limits.unsafe_after_ms:
            text = f"no detections for {limits.unsafe_after_ms:.0f} ms"
            return HealthMode.UNSAFE, text + self._since_then()
        if self._late_since_ns is not None:
            if (self._last_published_ns - self._late_since_ns) / 1e6 > limits.unsafe_when_late_ms:
                text = f"no detections in time for {limits.unsafe_when_late_ms:.0f} ms"
                return HealthMode.UNSAFE, text
        frames = len(self._statuses)
        abandoned = sum(map(self._statuses.count, ABANDONED))
        if abandoned > limits.skipping_rate * limits.window_frames:
            return (HealthMode.SKIPPING, f"{abandoned} of the last {frames} frames were abandoned")
        missed = frames - sum(map(self._statuses.count, IN_TIME))
        smaller = self._statuses.count(FrameStatus.DEGRADED)
        if missed + smaller > limits.degraded_miss_rate * limits.window_frames:
            causes = []
            if missed:
                failed = self._statuses.count(FrameStatus.FAILED)
                causes.append(
                    f"{missed} of the last {frames} frames missed the deadline"
                    + (f", of which {failed} FAILED: {self._failed_why}" if failed else "")
                )
            if smaller:
                why = self._degraded_why
                causes.append(
                    f"{smaller} of the last {frames} frames"
                    + (f": {why}" if why else " were left to the smaller model")
                )
            return HealthMode.DEGRADED, "; ".join(causes)
        return HealthMode.NOMINAL, "detections arrive in time"

    def _since_then(self) -> str:
        """What became of the frames since the last detections; empty if none came."""
        if not self._unpublished:
            return ""
        frames = f"{self._unpublished} frame" + "s" * (self._unpublished > 1)
        return f"; {frames} gave none, the last one {self._unpublished_why}"
