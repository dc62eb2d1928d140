"""Checks a drive against the budgets, in pure functions of its run."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from perception_nodes.core.frame import IN_TIME, latency_ms
from perception_nodes.core.health import HealthMode
from perception_nodes.lab import budgets, resources
from perception_nodes.lab.checks import Check, at_most
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.lab.run import Run
from perception_nodes.report.account import HostTook, account
from perception_nodes.report.recording import TRACKS_TOPIC, ReportedFrame


def drive_checks(
    run: Run, seconds: float, deadline_ms: float, tracks: bool, host_took: HostTook
) -> list[Check]:
    """Judge a drive.

    Args:
        run: the run of the drive, or of a live camera.
        seconds: how long it was to be.
        deadline_ms: from capture to publish.
        tracks: whether the graph follows objects.
        host_took: when the host of a virtual machine had a processor.
    """
    limit, least_s = f"within {budgets.START_S:g} s", 0.98 * seconds
    if not run.detections:
        return [Check("start-up", "no detections", limit, False)]
    judged = settled(run)
    frames, lasted_s = judged.reports, max(0.0, (run.ended_ns - judged.started_ns) / 1e9)
    start_s = (run.detections[0][0] - run.started_ns) / 1e9
    began, least = f"first detections after {start_s:.1f} s", f"at least {least_s:.0f} s"
    checks = [
        Check("start-up", began, limit, start_s <= budgets.START_S),
        Check("drive", f"{lasted_s:.0f} s", least, lasted_s >= least_s),
    ]
    if len(frames) < 2:
        return [*checks, Check("frames", f"{len(frames)}", "at least 2", False)]
    suspect = sum(frame.clock_suspect for frame in frames)
    camera_hz = _rate_hz(frames)
    return [
        *checks,
        _tail(judged, deadline_ms, host_took),
        at_most("camera's clock", suspect, 0, "{} frames with an implausible stamp"),
        _told(judged, deadline_ms),
        _numbers(run.reports),
        _health(run, judged.started_ns),
        _processes(run, judged.samples),
        *_processor_time(judged.samples, camera_hz),
        *_growth(judged.samples),
        *(
            _pace(topic, pace, camera_hz, judged)
            for topic, pace in budgets.PACES.items()
            if tracks or topic != TRACKS_TOPIC
        ),
    ]


def failover_check(verdict: ScenarioVerdict) -> Check:
    """The check that a scenario has passed."""
    found = [f"{verdict.without_detections} of {verdict.sent} frames without detections"]
    for what, took_ms in (
        ("reported after", verdict.detected_ms),
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


def settled(run: Run) -> Run:
    """The judged part of a drive: its reports, and its begin; health is of the whole drive."""
    if not run.detections:
        return replace(run, reports=[])
    begin_ns = run.detections[0][0] + round(budgets.SETTLING_S * 1e9)
    begin_s = (begin_ns - run.started_ns) / 1e9
    return replace(
        run,
        started_ns=begin_ns,
        reports=[r for r in run.reports if begin_ns <= r.log_time_ns <= run.ended_ns],
        samples=[sample for sample in run.samples if sample.at_s >= begin_s],
    )


def latencies_ms(frames: Sequence[ReportedFrame]) -> list[float]:
    """Capture to publish, in order of size; infinite for a frame without detections."""
    return sorted(np.inf if (took := latency_ms(frame)) is None else took for frame in frames)


def _rate_hz(frames: Sequence[ReportedFrame]) -> float:
    """The camera's rate, by the median time between two captures."""
    captures_ns = np.unique([frame.capture_ns for frame in frames if frame.capture_ns])
    return 1e9 / float(np.median(np.diff(captures_ns)))


def _tail(judged: Run, deadline_ms: float, host_took: HostTook) -> Check:
    frames = judged.reports
    ranked = latencies_ms(frames)
    at_rank_ms = ranked[int(np.ceil(budgets.RANK * len(ranked))) - 1]
    missed = [frame for frame in frames if frame.status not in IN_TIME]
    stolen = sum(host_took(frame.stamp_ns, frame.log_time_ns) for frame in missed)
    # Judge by the time of publishing. The monitor has a low priority so as not to disturb the
    # drive, so a message that reaches it late may have reached another subscriber in time.
    late = account(judged).arrived_late(deadline_ms)
    notes = []
    if stolen:
        notes.append(f"{stolen} of them while the host of this virtual machine had a processor")
    if late:
        of = f"detections of {late} frames that were published in time"
        notes.append(f"{of} came late to the monitor: its priority is low; this is not judged")
    value = f"{at_rank_ms:.2f} ms" if np.isfinite(at_rank_ms) else "no detections"
    return Check(
        f"p{100 * budgets.RANK:g}",
        f"{value}; {len(missed)} of {len(frames)} frames missed the deadline",
        f"{deadline_ms:g} ms",
        at_rank_ms <= deadline_ms and len(missed) <= (1 - budgets.RANK) * len(frames),
        tuple(notes),
    )


def _told(judged: Run, deadline_ms: float) -> Check:
    late = sum(r.status in IN_TIME and (latency_ms(r) or 0.0) > deadline_ms for r in judged.reports)
    lost = account(judged).missing
    found = f"{late} late frames reported as in time, {lost} published ones did not arrive"
    return Check("told", found, "0 and 0", not late and not lost)


def _numbers(reports: Sequence[ReportedFrame]) -> Check:
    numbers = [report.sequence for report in reports]
    known = set(numbers)
    gaps = max(known) - min(known) + 1 - len(known)
    twice = len(numbers) - len(known)
    found = f"{gaps} missing, {twice} twice, of {len(known)}"
    return Check("frame numbers", found, "no gap, none twice", not gaps and not twice)


def _health(run: Run, begin_ns: int) -> Check:
    told = [change for change in run.health if change.at_ns <= run.ended_ns]
    before = [change for change in told if change.at_ns < begin_ns][-1:]
    since = before + [change for change in told if change.at_ns >= begin_ns]
    worst = max(since, key=lambda change: change.mode, default=None)
    if worst is None:
        return Check("health", "never published", "never UNSAFE", False)
    cause = f": {worst.cause}" if worst.mode != HealthMode.NOMINAL else ""
    found = f"at worst {worst.mode.name}{cause}"
    return Check("health", found, "never UNSAFE", worst.mode < HealthMode.UNSAFE)


def _processes(run: Run, samples: Sequence[resources.Sample]) -> Check:
    died = resources.replaced(run.samples)
    absent = (resources.missing(samples, run.wanted) & run.wanted) - died
    found = [f"{name} died" for name in sorted(died)]
    found += [f"{name} did not run all the time" for name in sorted(absent)]
    return Check("processes", ", ".join(found) or "none died", "none dies", not found)


def _processor_time(samples: Sequence[resources.Sample], rate_hz: float) -> Iterator[Check]:
    if not (shares := resources.processor_shares(samples)):
        yield Check("processor time", "not measured: the drive is too short", "known", False)
    for name, share in shares.items():
        took_ms, budget_ms = 1000 * share / rate_hz, budgets.PROCESSOR_MS[name]
        found = f"{took_ms:.2f} ms a frame, {share:.1%} of a processor"
        yield Check(f"processor time: {name}", found, f"{budget_ms:g} ms", took_ms <= budget_ms)


def _growth(samples: Sequence[resources.Sample]) -> Iterator[Check]:
    found, limit_mb = resources.constancy(samples), resources.GROWTH_LIMIT_MB
    for check, quantity, form, limit, allowed in (
        ("memory", "memory_growth_mb", "{:+.1f} MB", limit_mb, f"+{limit_mb:g} MB"),
        ("file descriptors", "descriptor_growth", "{:+g}", 1e-9, "no more"),
    ):
        grown = found[quantity]
        name = max(grown, key=lambda name: grown[name], default="")
        most = f"at most {form.format(grown.get(name, 0))} ({name or 'not measured'})"
        over = f" in {found['over_s']:.0f} s" if check == "memory" else ""
        yield Check(check, most + over, allowed, bool(grown) and grown[name] < limit)
    shared_mb = found["shared_memory_growth_mb"]
    yield Check("shared memory", f"{shared_mb:+.1f} MB", "no more", shared_mb <= 0)


def _pace(topic: str, pace: budgets.Pace, camera_hz: float, judged: Run) -> Check:
    begin_ns, end_ns = judged.started_ns, judged.ended_ns
    wanted_hz = pace.rate_hz or camera_hz
    period_ms = 1000 / wanted_hz
    p99_ms, longest_ms = pace.p99_periods * period_ms, pace.longest_periods * period_ms
    limit = (
        f"{budgets.LOWEST_RATE * wanted_hz:.2f} Hz, 99 % of the intervals {p99_ms:.0f} ms, "
        f"the longest {longest_ms:.0f} ms"
    )
    arrivals_ns = judged.arrivals_ns.get(topic, ())
    times_ns = np.array([at_ns for at_ns in arrivals_ns if begin_ns <= at_ns <= end_ns], np.int64)
    if len(times_ns) < 2:
        return Check(topic, f"{len(times_ns)} messages", limit, False)
    # Silence before the first message and after the last one counts: it is judged time too.
    intervals_ms = np.diff([begin_ns, *times_ns, end_ns]) / 1e6
    rate_hz = 1000 / float(intervals_ms.mean())
    tail_ms, most_ms = float(np.percentile(intervals_ms, 99)), float(intervals_ms.max())
    return Check(
        topic,
        f"{rate_hz:.2f} Hz, 99 % of the intervals {tail_ms:.1f} ms, the longest {most_ms:.0f} ms",
        limit,
        rate_hz >= budgets.LOWEST_RATE * wanted_hz and tail_ms <= p99_ms and most_ms <= longest_ms,
    )
