"""What can go wrong: one small class for each fault, whose `update` takes a fact and judges it.

All times are CLOCK_MONOTONIC unless said otherwise; nothing here reads a clock.
"""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from perception_nodes.cameras.awaited import slow_transport
from perception_nodes.core.budget import Budget, enough_ms
from perception_nodes.core.failover import MS, STARVED_NS
from perception_nodes.core.frame import FrameFlag, FrameRecord, FrameStatus, stage_durations_ms
from perception_nodes.core.health import HealthMode
from perception_nodes.core.missed import TOO_SLOW

AT_ONCE_NS = 1 * MS
"""Frames that enter within this time of each other came at once: no camera is so fast."""


@dataclass(frozen=True)
class Fault:
    """Something wrong.

    Attributes:
        name: identifies the kind of fault.
        text: describes it, with the measured values.
        mode: the best mode that is possible while it lasts; NOMINAL for a fault that should be
            reported but harms no frame yet.
    """

    name: str
    text: str
    mode: HealthMode = HealthMode.NOMINAL


@dataclass(frozen=True)
class FaultLimits:
    """When a fact is a fault.

    Attributes:
        no_frame_ms: a camera that sends nothing for longer is gone.
        frozen_frames: this many frames in a row whose pixels are those of one of the
            `remembered_pictures` before mean frozen pictures, since noise changes each frame; 0
            turns this off, for a camera without noise.
        remembered_pictures: more than a driver has buffers, which it may send again and again.
        expected_rate_hz: the camera's frame rate; 0 where it is not known.
        vanished_s: no objects for so long, after there were some, are suspicious.
        clock_jump_ms: a larger step of the wall clock against the monotonic one is a jump.
        frame_rate_ratio: a frame rate below this share of the usual one is a loss.
        new_rate_s: a frame rate that lasts this long becomes the usual one.
        overrun_share: a stage that exceeds its budget in a larger share of frames overruns.
        latency_ratio: a median latency above this multiple of the one after the start is a drift.
        empty_frames: a model that has found nothing in this many frames is suspicious; those before
            the start of the watchdog are not known.
        memory_growth_mb: a process that grows steadily by this much in `memory_window_s` leaks.
        memory_window_s: see `memory_growth_mb`.
        starved_ms: we are starved if we wake later than we asked to by more than this.
        window_frames: medians and shares are taken over this many frames.
        hold_ms: a fault that lasts for an instant is reported for this long.
    """

    no_frame_ms: float = 300.0
    frozen_frames: int = 3
    remembered_pictures: int = 16
    expected_rate_hz: float = 0.0
    vanished_s: float = 5.0
    clock_jump_ms: float = 50.0
    frame_rate_ratio: float = 0.8
    new_rate_s: float = 60.0
    overrun_share: float = 0.1
    latency_ratio: float = 1.5
    empty_frames: int = 300
    memory_growth_mb: float = 64.0
    memory_window_s: float = 60.0
    starved_ms: float = STARVED_NS / MS
    window_frames: int = 60
    hold_ms: float = 1000.0


class NoFrame:
    """Fault: the camera is gone."""

    def __init__(self, limits: FaultLimits) -> None:
        self._limit_ms = limits.no_frame_ms
        self._last_ns = 0

    def frame(self, now_ns: int) -> None:
        """Note that a frame has come."""
        self._last_ns = now_ns

    def none_comes(self, now_ns: int) -> bool:
        """Whether the last frame is longer ago than allowed, or there was none."""
        return not self._last_ns or now_ns - self._last_ns > self._limit_ms * MS

    def update(self, now_ns: int, silent_process: int = 0) -> Fault | None:
        """Judge the silence; there is no fault before the first frame.

        Args:
            now_ns: CLOCK_MONOTONIC.
            silent_process: the process that takes the frames, if it gives no sign of life; nothing
                is known of the camera then.
        """
        if not self._last_ns or not self.none_comes(now_ns):
            return None
        text = f"no frame from the camera for {self._limit_ms:.0f} ms"
        if silent_process:
            text = f"no frame for {self._limit_ms:.0f} ms: preprocess {silent_process} is silent"
        return Fault("no frame", text, HealthMode.UNSAFE)


class InputTrouble:
    """Frames do not come, or not all of them, for a reason that preprocessing has found."""

    def __init__(self) -> None:
        self._fault: Fault | None = None

    def said(self, why: str, none_comes: bool) -> Fault | None:
        """Take what preprocessing reports each second; empty if nothing is wrong."""
        mode = HealthMode.UNSAFE if none_comes else HealthMode.DEGRADED
        self._fault = Fault("camera input", why, mode) if why else None
        return self._fault

    def frame(self) -> Fault | None:
        """Note that a frame has come, so that the trouble is over."""
        if self._fault is not None and self._fault.mode == HealthMode.UNSAFE:
            self._fault = None
        return self._fault


class FrozenPicture:
    """The camera repeats the same picture, or a few of them in turn."""

    def __init__(self, limits: FaultLimits) -> None:
        self._limit = limits.frozen_frames
        self._last: deque[int] = deque(maxlen=limits.remembered_pictures)
        self._repeated: set[int] = set()
        self._same = 0

    def update(self, picture: int) -> Fault | None:
        """Take the hash of a frame's pixels, 0 if there is none."""
        if picture and picture in self._last:
            self._same += 1
            self._repeated.add(picture)
        elif picture:
            self._same, self._repeated = 1, {picture}
        if picture:
            self._last.append(picture)
        if not self._limit or self._same < max(self._limit, len(self._repeated) + 1):
            return None
        text = f"the camera has sent the same picture {self._same} times"
        if len(self._repeated) > 1:
            text = f"the camera repeats the same {len(self._repeated)} pictures, {self._same} times"
        return Fault("frozen picture", text, HealthMode.UNSAFE)


class ExpectedRate:
    """Frames come more slowly than the camera should send them, for however long."""

    def __init__(self, limits: FaultLimits) -> None:
        """Judge each second's frames."""
        self._limits = limits
        self._entered_ns: deque[int] = deque(maxlen=max(2, round(limits.expected_rate_hz)))

    def update(self, entered_ns: int) -> Fault | None:
        """Take the instant at which a frame came in."""
        self._entered_ns.append(entered_ns)
        span_ns = entered_ns - self._entered_ns[0]
        if not self._limits.expected_rate_hz or span_ns < 1e9:
            return None
        rate_hz = (len(self._entered_ns) - 1) / span_ns * 1e9
        if rate_hz >= self._limits.frame_rate_ratio * self._limits.expected_rate_hz:
            return None
        text = f"{rate_hz:.1f} frames a second, expected are {self._limits.expected_rate_hz:g}"
        return Fault("expected rate", text, HealthMode.DEGRADED)


class WrongStamp:
    """A frame has the stamp of the frame before, or an older one."""

    def __init__(self) -> None:
        self._last_ns = 0

    def update(self, stamp_ns: int) -> Fault | None:
        """Take a frame's stamp, nanoseconds since the Unix epoch; 0 if there is none."""
        if not stamp_ns:
            return None
        step_ns, self._last_ns = stamp_ns - self._last_ns, stamp_ns
        if step_ns > 0:
            return None
        what = f"goes back by {-step_ns / MS:.1f} ms" if step_ns else "is that of the frame before"
        return Fault("stamp", f"a frame's stamp {what}", HealthMode.DEGRADED)


class ClockJump:
    """The wall clock was set: stamps and deadlines of frames in flight are wrong."""

    def __init__(self, limits: FaultLimits) -> None:
        self._limit_ms = limits.clock_jump_ms
        self._offset_ns: int | None = None

    def update(self, now_ns: int, realtime_ns: int) -> Fault | None:
        """Take both clocks, read at the same moment; `realtime_ns` since the Unix epoch."""
        offset_ns = realtime_ns - now_ns
        before_ns, self._offset_ns = self._offset_ns, offset_ns
        jump_ms = 0.0 if before_ns is None else (offset_ns - before_ns) / MS
        if abs(jump_ms) < self._limit_ms:
            return None
        return Fault("clock", f"the wall clock jumped by {jump_ms:+.0f} ms", HealthMode.DEGRADED)


def suspect_stamp(record: FrameRecord) -> Fault | None:
    """A fault if the frame's stamp is not of the second before its receipt.

    It has none, or the camera's clock differs from ours: the age of the frame is unknown, and its
    deadline runs from its receipt.
    """
    if not record.flags & FrameFlag.CLOCK_SUSPECT:
        return None
    text = "a frame's stamp is not of the last second: the camera's clock is not ours"
    if not record.stamp_ns:
        text = "frames have no stamp: let the driver set header.stamp to the time of exposure"
    return Fault("camera clock", text, HealthMode.DEGRADED)


class FrameRateLoss:
    """Frames come more slowly than they used to."""

    def __init__(self, limits: FaultLimits) -> None:
        """Learn the usual rate from two windows of frames, and another rate if it lasts."""
        self._limits = limits
        self._entered_ns: deque[int] = deque(maxlen=limits.window_frames)
        self._usual_ns = self._first_ns = 0.0
        self._usual_until_ns = self._last_ns = 0
        self._fault: Fault | None = None

    def update(self, entered_ns: int) -> Fault | None:
        """Take the instant at which a frame came in."""
        last_ns, self._last_ns = self._last_ns, entered_ns
        if entered_ns - last_ns < AT_ONCE_NS:
            return self._fault  # frames that were lost before it enter at once
        self._fault = self._judge(entered_ns)
        return self._fault

    def _judge(self, entered_ns: int) -> Fault | None:
        # A camera that was gone is not slow; `NoFrame` has reported it.
        if self._entered_ns and entered_ns - self._entered_ns[-1] > self._limits.no_frame_ms * MS:
            self._entered_ns.clear()
            self._usual_until_ns = entered_ns
        self._entered_ns.append(entered_ns)
        if len(self._entered_ns) < self._limits.window_frames:
            return None
        period_ns = (self._entered_ns[-1] - self._entered_ns[0]) / (len(self._entered_ns) - 1)
        ratio = self._limits.frame_rate_ratio
        if not self._usual_ns:
            # Frames that are dropped do not move the median. Those that had waited for us come in a
            # burst, which is over in the next window.
            usual_ns = median(b - a for a, b in pairwise(self._entered_ns))
            if not (self._first_ns and ratio <= usual_ns / self._first_ns <= 1 / ratio):
                self._first_ns = usual_ns
                self._entered_ns.clear()
                return None
            self._usual_ns, self._usual_until_ns = usual_ns, entered_ns
        if ratio <= self._usual_ns / period_ns <= 1 / ratio:
            self._usual_until_ns = entered_ns
        elif entered_ns - self._usual_until_ns > self._limits.new_rate_s * 1e9:
            self._usual_ns, self._usual_until_ns = period_ns, entered_ns
        if self._usual_ns >= ratio * period_ns:
            return None
        text = f"{1e9 / period_ns:.1f} frames a second instead of {1e9 / self._usual_ns:.1f}"
        return Fault("frame rate", text, HealthMode.DEGRADED)


class StageOverrun:
    """A stage often exceeds its share of the deadline."""

    def __init__(self, stage: str, budget_ms: float, limits: FaultLimits) -> None:
        """Watch one stage of `core.budget.STAGES`."""
        self._stage, self._budget_ms = stage, budget_ms
        self._limits = limits
        self._over: deque[bool] = deque(maxlen=limits.window_frames)
        self._worst_ms = 0.0

    def update(self, duration_ms: float) -> Fault | None:
        """Take the stage's duration for a frame."""
        over = duration_ms > self._budget_ms
        self._worst_ms = max(self._worst_ms, duration_ms) if over else self._worst_ms
        self._over.append(over)
        overruns = self._over.count(True)
        if overruns <= self._limits.overrun_share * self._limits.window_frames:
            if not overruns:
                self._worst_ms = 0.0
            return None
        text = (
            f"{self._stage} exceeded its {self._budget_ms:.1f} ms in {overruns} of the last "
            f"{len(self._over)} frames, up to {self._worst_ms:.1f} ms"
        )
        return Fault(f"{self._stage} overrun", text)


class SlowTransport:
    """Most frames miss the deadline because they were so long on their way here."""

    def __init__(self, deadline_ms: float, limits: FaultLimits) -> None:
        self._deadline_ms = deadline_ms
        self._ways_ms: deque[float] = deque(maxlen=limits.window_frames)

    def update(self, report: FrameRecord) -> Fault | None:
        """Take the report of a frame that has ended."""
        way_ms = (report.ingested_ns - report.capture_ns) / MS
        is_to_blame = way_ms > self._deadline_ms / 2 and not report.flags & FrameFlag.CLOCK_SUSPECT
        self._ways_ms.append(way_ms if report.status in TOO_SLOW and is_to_blame else 0.0)
        late_ms = [way_ms for way_ms in self._ways_ms if way_ms]
        share = len(late_ms) / (self._ways_ms.maxlen or 1)
        if share <= 0.5:
            return None
        text = str(slow_transport(median(late_ms), self._deadline_ms))
        return Fault("transport", text, HealthMode.UNSAFE if share > 0.9 else HealthMode.DEGRADED)


class SlowNetwork:
    """Most frames miss the deadline, and inference takes longer than its share."""

    def __init__(self, budget: Budget, limits: FaultLimits) -> None:
        self._budget = budget
        self._took_ms: deque[float] = deque(maxlen=limits.window_frames)
        self._late: deque[bool] = deque(maxlen=limits.window_frames)

    def update(self, report: FrameRecord) -> Fault | None:
        """Take the report of a frame that has ended; of those skipped one in ten is inferred."""
        if took_ms := stage_durations_ms(report).get("inference"):
            self._took_ms.append(took_ms)
        # While a very slow network works on one frame, newer ones take each other's place.
        self._late.append(report.status in (*TOO_SLOW, FrameStatus.SUPERSEDED))
        if self._late.count(True) <= (self._late.maxlen or 1) / 2 or not self._took_ms:
            return None
        if (usual_ms := median(self._took_ms)) <= self._budget.inference:
            return None
        text = (
            f"inference takes {usual_ms:.0f} ms, a frame has {self._budget.deadline_ms:g}; "
            "take a smaller network or input (perception model import --size 416x256 --int8), or "
            f"allow more with deadline_ms:={enough_ms(usual_ms)}"
        )
        return Fault("slow network", text, HealthMode.DEGRADED)


class LatencyDrift:
    """Frames take longer than after the start: heat, throttling, other load."""

    def __init__(self, limits: FaultLimits) -> None:
        """Skip the first window as warm-up, and compare later windows with the second."""
        self._limits = limits
        self._window: deque[float] = deque(maxlen=limits.window_frames)
        self._baseline_ms = 0.0
        self._frames = 0
        self._fault: Fault | None = None

    @property
    def median_ms(self) -> float:
        """Median of the last frames that were published; NaN before the first one."""
        return median(self._window or [float("nan")])

    def update(self, latency_ms: float) -> Fault | None:
        """Take a frame's latency from capture to publish."""
        self._window.append(latency_ms)
        self._frames += 1
        if (
            self._frames % self._limits.window_frames
            or self._frames < 2 * self._limits.window_frames
        ):
            return self._fault
        now_ms = self.median_ms
        self._baseline_ms = self._baseline_ms or now_ms
        self._fault = None
        if now_ms > self._limits.latency_ratio * self._baseline_ms:
            text = f"latency is {now_ms:.1f} ms, it was {self._baseline_ms:.1f} ms after the start"
            self._fault = Fault("latency drift", text)
        return self._fault


class NothingFound:
    """The model has never found anything: its file, its backend or the picture may be wrong."""

    def __init__(self, limits: FaultLimits) -> None:
        self._limit = limits.empty_frames
        self._frames = 0
        self._found = False

    def update(self, detections: int) -> Fault | None:
        """Take the number of objects in a frame whose detections were published."""
        self._found = self._found or detections > 0
        self._frames += 1
        if self._found or self._frames < self._limit:
            return None
        text = f"no object in the {self._frames} frames since the watchdog started"
        return Fault("nothing found", f"{text}, which is suspicious")


class ObjectsVanished:
    """Objects were found, and then none for far longer than ever before."""

    MUCH_LONGER = 3

    def __init__(self, limits: FaultLimits) -> None:
        self._limits = limits
        self._found = 0
        self._last_ns = 0
        self._empty_ns = self._longest_ns = 0

    def update(self, detections: int, published_ns: int) -> Fault | None:
        """Take the number of objects in a frame, and when its detections were published."""
        passed_ns, self._last_ns = published_ns - self._last_ns, published_ns
        if detections:
            if self._found:
                self._longest_ns = max(self._longest_ns, self._empty_ns)
            self._found, self._empty_ns = self._found + 1, 0
            return None
        if passed_ns < self._limits.no_frame_ms * MS:  # else nothing was looked at
            self._empty_ns += max(0, passed_ns)
        limit_ns = max(self._limits.vanished_s * 1e9, self.MUCH_LONGER * self._longest_ns)
        if self._found < self._limits.empty_frames or self._empty_ns <= limit_ns:
            return None
        text = (
            f"no object for {self._empty_ns / 1e9:.0f} s, after there were some in "
            f"{self._found} frames, never {self._longest_ns / 1e9:.1f} s apart"
        )
        return Fault("objects vanished", text, HealthMode.DEGRADED)


class MemoryGrowth:
    """A process keeps growing."""

    def __init__(self, process: str, limits: FaultLimits) -> None:
        """Watch a process; `process` describes it in the fault's text."""
        self._process, self._limits = process, limits
        self._samples: deque[tuple[int, int]] = deque()

    def update(self, rss_bytes: int, now_ns: int) -> Fault | None:
        """Take the resident memory at `now_ns`."""
        self._samples.append((now_ns, rss_bytes))
        window_ns = self._limits.memory_window_s * 1e9
        if now_ns - self._samples[0][0] < window_ns:
            return None
        # Memory that is loaded once is a step in one half of the window; a leak grows in both
        # halves.
        middle = next(rss for at_ns, rss in self._samples if at_ns >= now_ns - window_ns / 2)
        first = self._samples.popleft()[1]
        limit = self._limits.memory_growth_mb * 1e6
        if rss_bytes - first < limit or min(rss_bytes - middle, middle - first) < limit / 4:
            return None
        text = (
            f"{self._process} has grown by {(rss_bytes - first) / 1e6:.0f} MB in "
            f"{self._limits.memory_window_s:.0f} s, to {rss_bytes / 1e6:.0f} MB"
        )
        return Fault("memory", text)


class Starvation:
    """We do not get the processor in time, and so must not judge the silence of others."""

    def __init__(self, limits: FaultLimits) -> None:
        self._limit_ns = limits.starved_ms * MS
        self.count = 0

    def update(self, asked_ns: int, woke_ns: int) -> Fault | None:
        """Take the latest time at which our loop wanted to go on, and the time at which it did."""
        late_ns = woke_ns - asked_ns
        if late_ns <= self._limit_ns:
            return None
        self.count += 1
        return Fault("starved", f"the watchdog itself woke {late_ns / MS:.0f} ms late")
