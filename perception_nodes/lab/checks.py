"""Compares a drive with the budgets: pure functions of what was seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perception_nodes.core.frame import IN_TIME, PUBLISHED, latency_ms
from perception_nodes.core.health import HealthMode
from perception_nodes.lab.acceptance_drive import Drive
from perception_nodes.lab.budgets import (
    LOWEST_RATE,
    PACES,
    PROCESSOR_MS,
    RANK,
    SETTLING_S,
    START_S,
    Pace,
)
from perception_nodes.lab.judge import Verdict
from perception_nodes.lab.resources import (
    GROWTH_LIMIT_MB,
    ResourcesHeld,
    constancy,
    processor_shares,
)
from perception_nodes.report.recording import DETECTIONS_TOPIC, TRACKS_TOPIC, ReportedFrame


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: what is checked.
        found: what was found, for people.
        limit: what must be, for people.
        passed: whether it is so.
        notes: what else a reader should know, one line each.
    """

    name: str
    found: str
    limit: str
    passed: bool
    notes: tuple[str, ...] = ()


def drive_checks(seen: Drive, seconds: float, deadline_ms: float, tracks: bool) -> list[Check]:
    """Judge a drive.

    Args:
        seen: the drive.
        seconds: how long it was to be.
        deadline_ms: from capture to publish.
        tracks: whether the graph follows objects.
    """
    if not seen.arrivals_ns.get(DETECTIONS_TOPIC):
        return [Check("start-up", "no detections", f"within {START_S:g} s", False)]
    begin_ns = settled_ns(seen)
    frames = judged_frames(seen)
    lasted_s = max(0.0, (seen.ended_ns - begin_ns) / 1e9)
    checks = [_start(seen), _at_least("drive", lasted_s, seconds)]
    if len(frames) < 2:
        return [*checks, Check("frames", f"{len(frames)}", "at least 2", False)]
    rate_hz = _rate_hz(frames)
    return [
        *checks,
        _tail(seen, frames, deadline_ms),
        _clock(frames),
        _told(seen, frames, deadline_ms),
        _numbers(seen.recording.reports),
        _health(seen, begin_ns),
        _processes(seen, begin_ns),
        *_processor_time(seen, begin_ns, rate_hz),
        *_growth(seen, begin_ns),
        *(
            _pace(topic, seen.arrivals_ns.get(topic, ()), pace, rate_hz, begin_ns, seen.ended_ns)
            for topic, pace in PACES.items()
            if tracks or topic != TRACKS_TOPIC
        ),
    ]


def failover_check(verdict: Verdict) -> Check:
    """The check that a scenario is: it has passed or not."""
    found = [f"{verdict.without_detections} of {verdict.sent} frames without detections"]
    for what, took_ms in (
        ("told after", verdict.detected_ms),
        ("detections again after", verdict.detections_ms),
        ("NOMINAL after", verdict.recovered_ms),
    ):
        if took_ms is not None:
            found.append(f"{what} {took_ms:.0f} ms")
    return Check(
        f"failover: {verdict.scenario}",
        ", ".join(found) if verdict.sent else "not run",
        "as the scenario expects",
        verdict.passed,
        tuple(verdict.problems),
    )


def settled_ns(seen: Drive) -> int:
    """When the drive began that is judged."""
    return seen.arrivals_ns[DETECTIONS_TOPIC][0] + round(SETTLING_S * 1e9)


def judged_frames(seen: Drive) -> list[ReportedFrame]:
    """The reports of the drive that is judged; none where nothing was detected."""
    if not seen.arrivals_ns.get(DETECTIONS_TOPIC):
        return []
    begin_ns = settled_ns(seen)
    return [r for r in seen.recording.reports if begin_ns <= r.log_time_ns <= seen.ended_ns]


def latencies_ms(frames: Sequence[ReportedFrame]) -> list[float]:
    """Capture to publish, in order of size; infinite for a frame without detections."""
    return sorted(np.inf if (took := latency_ms(frame)) is None else took for frame in frames)


def _start(seen: Drive) -> Check:
    took_s = (seen.arrivals_ns[DETECTIONS_TOPIC][0] - seen.started_ns) / 1e9
    found = f"first detections after {took_s:.1f} s"
    return Check("start-up", found, f"within {START_S:g} s", took_s <= START_S)


def _at_least(name: str, lasted_s: float, seconds: float) -> Check:
    return Check(name, f"{lasted_s:.0f} s", f"{seconds:.0f} s", lasted_s >= 0.98 * seconds)


def _rate_hz(frames: Sequence[ReportedFrame]) -> float:
    """Of the camera, by the time between two captures in the middle."""
    captures_ns = np.unique([frame.capture_ns for frame in frames if frame.capture_ns])
    return 1e9 / float(np.median(np.diff(captures_ns)))


def _tail(seen: Drive, frames: Sequence[ReportedFrame], deadline_ms: float) -> Check:
    host = seen.host
    ranked = latencies_ms(frames)
    at_rank_ms = ranked[int(np.ceil(RANK * len(ranked))) - 1]
    missed = [frame for frame in frames if frame.status not in IN_TIME]
    stolen = sum(
        host is not None and host.had_a_processor(frame.stamp_ns, frame.log_time_ns)
        for frame in missed
    )
    # By the time of publishing. That of arrival is the monitor's too, which has a low priority so
    # as not to disturb the drive: what it has late may have been with a subscriber in time.
    arrived_ns = seen.recording.arrived_ns
    late = sum(
        frame.status in IN_TIME
        and arrived_ns.get(frame.stamp_ns, 0) - frame.stamp_ns > deadline_ms * 1e6
        for frame in frames
    )
    notes = []
    if stolen:
        notes.append(f"{stolen} of them while the host of this virtual machine had a processor")
    if late:
        notes.append(
            f"detections of {late} frames that were published in time were with the monitor after "
            "the deadline; its priority is low, and this is not judged"
        )
    value = f"{at_rank_ms:.2f} ms" if np.isfinite(at_rank_ms) else "no detections"
    return Check(
        f"p{100 * RANK:g}",
        f"{value}; {len(missed)} of {len(frames)} frames missed the deadline",
        f"{deadline_ms:g} ms",
        at_rank_ms <= deadline_ms and len(missed) <= (1 - RANK) * len(frames),
        tuple(notes),
    )


def _clock(frames: Sequence[ReportedFrame]) -> Check:
    suspect = sum(frame.clock_suspect for frame in frames)
    found = f"{suspect} frames with an implausible stamp"
    return Check("camera's clock", found, "none", not suspect)


def _told(seen: Drive, frames: Sequence[ReportedFrame], deadline_ms: float) -> Check:
    late = sum(
        frame.status in IN_TIME and (latency_ms(frame) or 0.0) > deadline_ms for frame in frames
    )
    lost = sum(
        frame.status in PUBLISHED and seen.recording.found(frame) is None for frame in frames
    )
    return Check(
        "told",
        f"{late} late frames reported as in time, {lost} published ones did not arrive",
        "0 and 0",
        not late and not lost,
    )


def _numbers(reports: Sequence[ReportedFrame]) -> Check:
    numbers = [report.sequence for report in reports]
    known = set(numbers)
    gaps = max(known) - min(known) + 1 - len(known)
    twice = len(numbers) - len(known)
    found = f"{gaps} missing, {twice} twice, of {len(known)}"
    return Check("frame numbers", found, "no gap, none twice", not gaps and not twice)


def _health(seen: Drive, begin_ns: int) -> Check:
    told = [change for change in seen.recording.health if change.log_time_ns <= seen.ended_ns]
    before = [change for change in told if change.log_time_ns < begin_ns][-1:]
    since = before + [change for change in told if change.log_time_ns >= begin_ns]
    worst = max(since, key=lambda change: change.mode, default=None)
    if worst is None:
        return Check("health", "never told", "never UNSAFE", False)
    cause = f": {worst.cause}" if worst.mode != HealthMode.NOMINAL else ""
    found = f"at worst {worst.mode.name}{cause}"
    return Check("health", found, "never UNSAFE", worst.mode < HealthMode.UNSAFE)


def _processes(seen: Drive, begin_ns: int) -> Check:
    samples = _settled_samples(seen, begin_ns)
    found = [f"{name} died" for name in sorted(seen.died)]
    found += [
        f"{name} did not run all the time"
        for name in sorted(seen.wanted - seen.died)
        if any(name not in sample.memory_mb for sample in samples)
    ]
    return Check("processes", ", ".join(found) or "none died", "none dies", not found)


def _processor_time(seen: Drive, begin_ns: int, rate_hz: float) -> Iterator[Check]:
    shares = processor_shares(_settled_samples(seen, begin_ns))
    if not shares:
        yield Check("processor time", "not measured: the drive is too short", "known", False)
    for name, share in shares.items():
        took_ms, budget_ms = 1000 * share / rate_hz, PROCESSOR_MS[name]
        found = f"{took_ms:.2f} ms a frame, {share:.1%} of a processor"
        yield Check(f"processor time: {name}", found, f"{budget_ms:g} ms", took_ms <= budget_ms)


def _growth(seen: Drive, begin_ns: int) -> Iterator[Check]:
    found = constancy(_settled_samples(seen, begin_ns))

    def most(growth: dict[str, float], form: str) -> str:
        name = max(growth, key=lambda name: growth[name], default="")
        return f"at most {form.format(growth.get(name, 0))} ({name or 'not measured'})"

    memory, files = found["memory_growth_mb"], found["descriptor_growth"]
    yield Check(
        "memory",
        most(memory, "{:+.1f} MB") + f" in {found['over_s']:.0f} s",
        f"+{GROWTH_LIMIT_MB:g} MB",
        max(memory.values(), default=np.inf) < GROWTH_LIMIT_MB,
    )
    yield Check(
        "file descriptors",
        most(files, "{:+.0f}"),
        "no more",
        max(files.values(), default=np.inf) <= 0,
    )
    shared_mb = found["shared_memory_growth_mb"]
    yield Check("shared memory", f"{shared_mb:+.1f} MB", "no more", shared_mb <= 0)


def _pace(
    topic: str,
    arrivals_ns: Sequence[int],
    pace: Pace,
    camera_hz: float,
    begin_ns: int,
    end_ns: int,
) -> Check:
    wanted_hz = pace.rate_hz or camera_hz
    period_ms = 1000 / wanted_hz
    p99_ms, longest_ms = pace.p99_periods * period_ms, pace.longest_periods * period_ms
    limit = (
        f"{LOWEST_RATE * wanted_hz:.2f} Hz, 99 % of the intervals {p99_ms:.0f} ms, "
        f"the longest {longest_ms:.0f} ms"
    )
    times_ns = np.array([at_ns for at_ns in arrivals_ns if begin_ns <= at_ns <= end_ns], np.int64)
    if len(times_ns) < 2:
        return Check(topic, f"{len(times_ns)} messages", limit, False)
    # Silence before the first message and behind the last one counts: it is judged time, too.
    intervals_ms = np.diff([begin_ns, *times_ns, end_ns]) / 1e6
    rate_hz = 1000 / float(intervals_ms.mean())
    tail_ms, most_ms = float(np.percentile(intervals_ms, 99)), float(intervals_ms.max())
    return Check(
        topic,
        f"{rate_hz:.2f} Hz, 99 % of the intervals {tail_ms:.1f} ms, the longest {most_ms:.0f} ms",
        limit,
        rate_hz >= LOWEST_RATE * wanted_hz and tail_ms <= p99_ms and most_ms <= longest_ms,
    )


def _settled_samples(seen: Drive, begin_ns: int) -> list[ResourcesHeld]:
    begin_s = (begin_ns - seen.started_ns) / 1e9
    return [sample for sample in seen.samples if sample.at_s >= begin_s]
