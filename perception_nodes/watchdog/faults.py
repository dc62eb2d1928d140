"""What can go wrong, one small class a fault: `update` takes a fact and says whether it is wrong.

All times are CLOCK_MONOTONIC unless they say otherwise; nobody here looks at a clock.
"""

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from statistics import median

from perception_nodes.core.frame import FrameFlag, FrameRecord

MS = 1_000_000


class HealthMode(IntEnum):
    """How far the detections can be relied on, best first."""

    NOMINAL = 0
    DEGRADED = 1
    SKIPPING = 2
    UNSAFE = 3


@dataclass(frozen=True)
class Fault:
    """Something wrong.

    Attributes:
        name: what is wrong, always in the same words.
        text: the same with the values measured.
        mode: the best mode that the pipeline can be in meanwhile; NOMINAL for what is worth
            telling and harms no frame yet.
    """

    name: str
    text: str
    mode: HealthMode = HealthMode.NOMINAL


@dataclass(frozen=True)
class FaultLimits:
    """When a fact is a fault.

    Attributes:
        no_frame_ms: a camera silent for so long is gone.
        frozen_frames: so many frames of the same pixels in a row are one frozen picture, since
            a camera's noise changes every frame; 0 for a camera without noise.
        clock_jump_ms: the wall clock moved so far against the monotonic one.
        frame_rate_ratio: a frame rate below this share of the usual one is a loss.
        overrun_share: a stage that exceeds its budget in a larger share of frames overruns.
        latency_ratio: a median latency of this multiple of the one after start has drifted.
        memory_growth_mb: a process that grows steadily, by so much in `memory_window_s`, leaks.
        memory_window_s: see there.
        starved_ms: we are starved where we wake so much later than we asked to.
        window_frames: medians and shares are taken over so many frames.
        hold_ms: a fault of an instant is told for so long.
    """

    no_frame_ms: float = 300.0
    frozen_frames: int = 3
    clock_jump_ms: float = 50.0
    frame_rate_ratio: float = 0.8
    overrun_share: float = 0.1
    latency_ratio: float = 1.5
    memory_growth_mb: float = 64.0
    memory_window_s: float = 60.0
    starved_ms: float = 20.0
    window_frames: int = 60
    hold_ms: float = 1000.0


class Held:
    """Keeps telling of a fault of an instant for a while, lest nobody sees it."""

    def __init__(self, limits: FaultLimits) -> None:
        """Nothing to tell yet."""
        self._hold_ns = limits.hold_ms * MS
        self._fault: Fault | None = None
        self._since_ns = 0

    def update(self, fault: Fault | None, now_ns: int) -> Fault | None:
        """Take a fault that has just been found, or none; what is to be told now."""
        if fault is not None:
            self._fault, self._since_ns = fault, now_ns
        elif now_ns - self._since_ns > self._hold_ns:
            self._fault = None
        return self._fault


class NoFrame:
    """The camera is gone."""

    def __init__(self, limits: FaultLimits) -> None:
        """No frame was expected yet."""
        self._limit_ms = limits.no_frame_ms
        self._last_ns = 0

    def frame(self, now_ns: int) -> None:
        """One came."""
        self._last_ns = now_ns

    def update(self, now_ns: int) -> Fault | None:
        """Judge the silence; that before the first frame is the start."""
        if not self._last_ns or now_ns - self._last_ns <= self._limit_ms * MS:
            return None
        text = f"no frame from the camera for {self._limit_ms:.0f} ms"
        return Fault("no frame", text, HealthMode.UNSAFE)


class FrozenPicture:
    """The camera sends the same picture again and again."""

    def __init__(self, limits: FaultLimits) -> None:
        """No picture yet."""
        self._limit = limits.frozen_frames
        self._last = 0
        self._same = 0

    def update(self, picture: int) -> Fault | None:
        """Take the hash of a frame's pixels, 0 for none."""
        if picture:
            self._same = self._same + 1 if picture == self._last else 1
            self._last = picture
        if not self._limit or self._same < self._limit:
            return None
        text = f"the camera has sent the same picture {self._same} times"
        return Fault("frozen picture", text, HealthMode.UNSAFE)


class WrongStamp:
    """A frame's stamp repeats the one before, or is older."""

    def __init__(self) -> None:
        """No frame yet."""
        self._last_ns = 0

    def update(self, stamp_ns: int) -> Fault | None:
        """Take a frame's stamp, nanoseconds since the Unix epoch; 0 for none."""
        if not stamp_ns:
            return None
        step_ns, self._last_ns = stamp_ns - self._last_ns, stamp_ns
        if step_ns > 0:
            return None
        what = f"goes back by {-step_ns / MS:.1f} ms" if step_ns else "is that of the frame before"
        return Fault("stamp", f"a frame's stamp {what}", HealthMode.DEGRADED)


class ClockJump:
    """The wall clock was set: stamps and deadlines of frames under way are wrong."""

    def __init__(self, limits: FaultLimits) -> None:
        """The first update is where we start from."""
        self._limit_ms = limits.clock_jump_ms
        self._offset_ns: int | None = None

    def update(self, now_ns: int, realtime_ns: int) -> Fault | None:
        """Take both clocks, read at once."""
        offset_ns = realtime_ns - now_ns
        before_ns, self._offset_ns = self._offset_ns, offset_ns
        jump_ms = 0.0 if before_ns is None else (offset_ns - before_ns) / MS
        if abs(jump_ms) < self._limit_ms:
            return None
        return Fault("clock", f"the wall clock jumped by {jump_ms:+.0f} ms", HealthMode.DEGRADED)


def suspect_stamp(record: FrameRecord) -> Fault | None:
    """The frame's stamp is not of the second before it came: the camera's clock is not ours.

    Its age cannot be known then, and its deadline runs from its receipt.
    """
    if not record.flags & FrameFlag.CLOCK_SUSPECT:
        return None
    text = "a frame's stamp is not of the last second: the camera's clock is not ours"
    return Fault("camera clock", text, HealthMode.DEGRADED)


class FrameRateLoss:
    """Frames come in more slowly than they used to."""

    def __init__(self, limits: FaultLimits) -> None:
        """The usual rate is that of the first window of frames."""
        self._limits = limits
        self._entered_ns: deque[int] = deque(maxlen=limits.window_frames)
        self._usual_ns = 0.0

    def update(self, entered_ns: int) -> Fault | None:
        """Take the instant at which a frame came in."""
        # A camera that was gone is not slow: that is told of it already.
        if self._entered_ns and entered_ns - self._entered_ns[-1] > self._limits.no_frame_ms * MS:
            self._entered_ns.clear()
        self._entered_ns.append(entered_ns)
        if len(self._entered_ns) < self._limits.window_frames:
            return None
        period_ns = (self._entered_ns[-1] - self._entered_ns[0]) / (len(self._entered_ns) - 1)
        if not self._usual_ns:
            self._usual_ns = period_ns
        if self._usual_ns >= self._limits.frame_rate_ratio * period_ns:
            return None
        text = f"{1e9 / period_ns:.1f} frames a second instead of {1e9 / self._usual_ns:.1f}"
        return Fault("frame rate", text, HealthMode.DEGRADED)


class StageOverrun:
    """A stage exceeds its share of the deadline more often than now and then."""

    def __init__(self, stage: str, budget_ms: float, limits: FaultLimits) -> None:
        """Watch one stage of `core.budget.STAGES`."""
        self._stage, self._budget_ms = stage, budget_ms
        self._limits = limits
        self._over: deque[bool] = deque(maxlen=limits.window_frames)
        self._worst_ms = 0.0

    def update(self, duration_ms: float) -> Fault | None:
        """Take what the stage took for a frame."""
        over = duration_ms > self._budget_ms
        self._worst_ms = max(self._worst_ms, duration_ms) if over else self._worst_ms
        self._over.append(over)
        if sum(self._over) <= self._limits.overrun_share * self._limits.window_frames:
            if not any(self._over):
                self._worst_ms = 0.0
            return None
        text = (
            f"{self._stage} exceeded its {self._budget_ms:.1f} ms in {sum(self._over)} of the last "
            f"{len(self._over)} frames, up to {self._worst_ms:.1f} ms"
        )
        return Fault(f"{self._stage} overrun", text)


class LatencyDrift:
    """Frames take longer than they did after the start: heat, throttling, company."""

    def __init__(self, limits: FaultLimits) -> None:
        """The first window warms up, the second is what later ones are compared with."""
        self._limits = limits
        self._window: deque[float] = deque(maxlen=limits.window_frames)
        self._baseline_ms = 0.0
        self._frames = 0
        self._fault: Fault | None = None

    def update(self, latency_ms: float) -> Fault | None:
        """Take a frame's time from capture to publish."""
        self._window.append(latency_ms)
        self._frames += 1
        if (
            self._frames % self._limits.window_frames
            or self._frames < 2 * self._limits.window_frames
        ):
            return self._fault
        now_ms = median(self._window)
        self._baseline_ms = self._baseline_ms or now_ms
        self._fault = None
        if now_ms > self._limits.latency_ratio * self._baseline_ms:
            text = f"latency is {now_ms:.1f} ms, it was {self._baseline_ms:.1f} ms after the start"
            self._fault = Fault("latency drift", text)
        return self._fault


class MemoryGrowth:
    """A process needs more and more memory."""

    def __init__(self, name: str, limits: FaultLimits) -> None:
        """Watch the process of that name."""
        self._name, self._limits = name, limits
        self._samples: deque[tuple[int, int]] = deque()

    def update(self, rss_bytes: int, now_ns: int) -> Fault | None:
        """Take the resident memory now."""
        self._samples.append((now_ns, rss_bytes))
        window_ns = self._limits.memory_window_s * 1e9
        if now_ns - self._samples[0][0] < window_ns:
            return None
        # What is loaded once is a step in one half of the window; a leak grows through both.
        half_ns = now_ns - window_ns / 2
        middle = next(rss for at_ns, rss in self._samples if at_ns >= half_ns)
        first = self._samples.popleft()[1]
        limit = self._limits.memory_growth_mb * 1e6
        if rss_bytes - first < limit or min(rss_bytes - middle, middle - first) < limit / 4:
            return None
        text = (
            f"{self._name} has grown by {(rss_bytes - first) / 1e6:.0f} MB in "
            f"{self._limits.memory_window_s:.0f} s, to {rss_bytes / 1e6:.0f} MB"
        )
        return Fault(f"{self._name} memory", text)


class Starvation:
    """We do not get the processor when we ask for it, and so must not judge others' silence."""

    def __init__(self, limits: FaultLimits) -> None:
        """Not starved yet."""
        self._limit_ns = limits.starved_ms * MS
        self._last_ns = 0
        self.count = 0

    def update(self, asked_ns: int, woke_ns: int) -> Fault | None:
        """Take when our loop wanted to go on at the latest, and when it did."""
        late_ns = woke_ns - asked_ns
        if late_ns <= self._limit_ns:
            return None
        self.count += 1
        return Fault("starved", f"the watchdog itself woke {late_ns / MS:.0f} ms late")
