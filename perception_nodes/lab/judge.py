"""Compares what was observed with what is expected: a pure function, and its verdict."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from pydantic import BaseModel

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.frame import IN_TIME, MAY_BE_OUT, PUBLISHED, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.core.statistics import MEDIAN_AND_P99, percentiles
from perception_nodes.faults.clock_offset import ClockOffset
from perception_nodes.faults.scenario import Expectation, Scenario
from perception_nodes.lab.planner import KEEPS_NS
from perception_nodes.lab.witness import Observations, ReceivedHealth

LAST_FRAME_NS = 100_000_000
"""How long after the last frame health is about the drive; later it is about the silent camera, and
the nodes stop."""
ON_THE_WAY_NS = 100_000_000
"""A reboot can hit frames that were sent at most this long before it."""
LATE_AT_MOST = 1
"""Of the frames from a fault on, so many may be too late by the machine's own tail, which
`perception bench deadline` measures: the fault is not to blame."""
OVERTAKEN_SHARE = 0.75
"""A frame that the bench had late by this share of the frame period or more has the next one close
behind it."""
CLOCK_SHARE = 0.1
"""Clocks that differ by more than this share of the deadline make a miss rate meaningless."""


class Verdict(BaseModel):
    """The result of a scenario.

    Attributes:
        scenario, title: of the scenario.
        problems: what was not as expected, one line each; empty if the scenario passed.
        detected_ms: time from the begin of the fault until it was reported.
        detected_as: the text that reported it.
        told: health modes from the fault on: name, milliseconds after its begin, cause.
        sent: number of frames that the camera sent.
        statuses: number of frame reports by status.
        lost_silently: frames sent without a report, and published detections that did not arrive.
        without_detections: frames from the fault on that had none, all of them reported.
        detections_ms: time from the end of the fault until detections of a frame captured since.
        recovered_ms: time from the end of the fault until the mode was NOMINAL to the end.
        while_down: frames sent while the unit was rebooting.
        miss_rate: share of the reported frames without detections in time.
        agreement: see `Expectation`.
        planner_told_ms: time from the begin of the fault until a planner's consumers gave the mode
            that is expected, or a worse one; None if they never did.
        planner_states: number of protected detections by what the consumer found of each.
        planner_lost: number of those that it knows not to have come.
        deadline_ms: the deadline of the graph.
        round_trip_ms: time from the stamp of a frame to its detections, by the bench's clock: p50,
            p99.
        clock: the unit's clock against the bench's, if it has one of its own.
        first_ns: when the first frame was due, nanoseconds since the Unix epoch.
        faults: kind, begin and end of each, in seconds after the first frame.
        notes: what the reader must know, one line each.
    """

    scenario: str
    title: str
    problems: list[str] = []
    detected_ms: float | None = None
    detected_as: str = ""
    told: list[tuple[str, float, str]] = []
    sent: int = 0
    statuses: dict[str, int] = {}
    lost_silently: int = 0
    without_detections: int = 0
    detections_ms: float | None = None
    recovered_ms: float | None = None
    while_down: int = 0
    miss_rate: float | None = None
    agreement: float | None = None
    planner_told_ms: float | None = None
    planner_states: dict[str, int] = {}
    planner_lost: int = 0
    deadline_ms: float = 0.0
    round_trip_ms: tuple[float, float] | None = None
    clock: ClockOffset | None = None
    first_ns: int = 0
    faults: list[tuple[str, float, float]] = []
    notes: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.problems

    @property
    def worst(self) -> HealthMode | None:
        """The worst health mode from the fault on; None if none was told."""
        return max((HealthMode[mode] for mode, _, _ in self.told), default=None)


def judge(scenario: Scenario, seen: Observations, deadline_ms: float = DEADLINE_MS) -> Verdict:
    """Compare what was observed with what is expected.

    Args:
        scenario: the expectations.
        seen: the observations of an independent subscriber.
        deadline_ms: the deadline of the graph.
    """
    verdict = Verdict(
        scenario=scenario.name,
        title=scenario.title,
        deadline_ms=deadline_ms,
        clock=seen.clock,
        agreement=seen.agreement,
        first_ns=seen.first_ns,
        faults=[
            (kind, (begin_ns - seen.first_ns) / 1e9, (end_ns - seen.first_ns) / 1e9)
            for kind, begin_ns, end_ns in seen.faults
        ],
    )
    if seen.failure:
        verdict.problems.append(seen.failure)
    verdict.problems += seen.not_put_in
    if not seen.sent:
        verdict.problems = verdict.problems or ["no frame was sent"]
        return verdict
    _account(verdict, seen, scenario.expect.lost_on_the_way_at_most)
    _latency(verdict, scenario.expect, seen)
    _accuracy(verdict, scenario.expect)
    _detection(verdict, scenario.expect, seen)
    _modes(verdict, scenario.expect, seen)
    _planner(verdict, scenario.expect, seen)
    _recovery(verdict, scenario.expect, seen)
    _planner_modes(verdict, scenario.expect, seen)
    return verdict


def _reboots(seen: Observations) -> list[range]:
    """For each reboot the stamps of frames that nobody can account for because of it."""
    after_ns = max(seen.sent + seen.closing) + 1
    return [
        range(
            begin_ns - ON_THE_WAY_NS,
            min((r.stamp_ns for r in seen.reports if r.stamp_ns >= end_ns), default=after_ns),
        )
        for kind, begin_ns, end_ns in seen.faults
        if kind == "unit_reboot"
    ]


def _account(verdict: Verdict, seen: Observations, lost_on_the_way: int) -> None:
    problems = verdict.problems
    stamps_sent = [*seen.sent, *seen.closing]
    reboots = _reboots(seen)
    down = {s for s in stamps_sent if any(s in reboot for reboot in reboots)}
    verdict.sent = len(stamps_sent)
    verdict.while_down = sum(stamp_ns in down for stamp_ns in stamps_sent)
    if seen.closing:
        verdict.notes.append(
            f"{len(seen.closing)} frames were sent after the end of the drive: a lost frame is "
            "noticed when a later one arrives"
        )
    if seen.late:
        most_ns = max(late_ns for _, late_ns in seen.late)
        verdict.notes.append(
            f"the bench's camera itself was late with {len(seen.late)} frames, by up to "
            f"{most_ns / 1e6:.0f} ms: their latency counts from when it had them, and gaps between "
            "frames may be its own"
        )
    verdict.statuses = dict(Counter(report.status.name for report in seen.reports))
    sent = verdict.sent - verdict.while_down
    reports = [report for report in seen.reports if report.stamp_ns not in down]
    # A rebooted unit may see the frames lost meanwhile as a gap, and report them without a stamp.
    if not sent <= len(reports) <= verdict.sent:
        problems.append(f"{sent} frames were sent, {len(reports)} were reported")
    if not reboots and seen.frames_in() != sent:  # a rebooted unit counts from 0 again
        problems.append(f"{sent} frames were sent, health counts {seen.frames_in()}")
    stamps = Counter(report.stamp_ns for report in reports if report.stamp_ns)
    unknown = stamps - Counter(stamps_sent)
    if unknown:
        problems.append(f"{unknown.total()} reports are about frames that were never sent")
    unbalanced = [told for told in seen.told if told.frames_in != told.outs + told.in_flight]
    if unbalanced:
        problems.append(
            f"in {len(unbalanced)} health messages frames in is not the sum of outs and in flight"
        )
    if seen.accounts() and seen.accounts()[-1].in_flight:
        problems.append(f"{seen.accounts()[-1].in_flight} frames were in flight to the end")
    published = Counter(r.stamp_ns for r in reports if r.status in PUBLISHED)
    arrived = Counter(stamp_ns for _, stamp_ns in seen.detections if stamp_ns not in down)
    missing = (published - arrived).total()
    may_be_out = Counter(r.stamp_ns for r in reports if MAY_BE_OUT.decode() in r.reason)
    unreported = (arrived - published - may_be_out).total()
    if missing > lost_on_the_way:
        problems.append(
            f"detections of {missing} frames were reported as published and never arrived"
        )
    if unreported:
        problems.append(f"detections of {unreported} frames arrived without a report")
    verdict.lost_silently = max(0, sent - len(reports)) + max(0, missing - lost_on_the_way)


def _latency(verdict: Verdict, expect: Expectation, seen: Observations) -> None:
    closing = set(seen.closing)
    waits_ms = [
        (at_ns - stamp_ns) / 1e6 for at_ns, stamp_ns in seen.detections if stamp_ns not in closing
    ]
    if waits_ms:
        found = percentiles(waits_ms, MEDIAN_AND_P99)
        verdict.round_trip_ms = found["p50"], found["p99"]
    reports = [report for report in seen.reports if report.stamp_ns not in closing]
    if reports:
        missed = sum(report.status not in IN_TIME for report in reports)
        verdict.miss_rate = missed / len(reports)
    limit = expect.miss_rate_at_most
    if limit is None or verdict.miss_rate is None:
        return
    if verdict.miss_rate > limit:
        verdict.problems.append(
            f"{verdict.miss_rate:.1%} of the frames missed the deadline, at most {limit:.1%} may"
        )
    clock = verdict.clock
    if clock and abs(clock.offset_ms) - clock.error_ms > CLOCK_SHARE * verdict.deadline_ms:
        verdict.problems.append(
            f"the unit's clock differs by {clock.offset_ms:.2f} ms (± {clock.error_ms:.2f} ms): "
            "deadlines mean nothing until both follow one clock (PTP, chrony)"
        )


def _accuracy(verdict: Verdict, expect: Expectation) -> None:
    if not expect.asks_for_agreement:
        return
    share = verdict.agreement
    if share is None:
        verdict.problems.append(
            "nothing was detected that could be compared with the undisturbed drive"
        )
        return
    if expect.agreement_at_least is not None and share < expect.agreement_at_least:
        verdict.problems.append(
            f"{share:.0%} agree with the undisturbed drive, at least "
            f"{expect.agreement_at_least:.0%} are expected"
        )
    if expect.agreement_at_most is not None and share > expect.agreement_at_most:
        verdict.problems.append(
            f"{share:.0%} agree with the undisturbed drive, at most "
            f"{expect.agreement_at_most:.0%} are expected: the fault has no effect"
        )


def _detection(verdict: Verdict, expect: Expectation, seen: Observations) -> None:
    if not expect.cause:
        return
    pattern = re.compile(expect.cause)
    said = [
        (told.at_ns, text)
        for told in seen.told
        for text in (*told.faults, told.cause)
        if seen.first_ns <= told.at_ns <= _last_ns(seen) and pattern.search(text)
    ]
    # A single frame may have this cause at any time, but a mode that has it before the fault has it
    # for something else. Until the first detections the mode may have it because no frame has come.
    running = (t.at_ns for t in seen.told if t.mode == HealthMode.NOMINAL)
    running_ns = next((at_ns for at_ns in running if at_ns >= seen.first_ns), seen.begin_ns)
    before = [told for told in seen.told if running_ns <= told.at_ns < seen.begin_ns]
    if any(pattern.search(told.cause) for told in before):
        verdict.problems.append(f"{expect.cause!r} was reported before the fault")
    said += [
        (report.at_ns, report.reason) for report in seen.reports if pattern.search(report.reason)
    ]
    after = [(at_ns, text) for at_ns, text in said if at_ns >= seen.begin_ns]
    if not after:
        verdict.problems.append(f"{expect.cause!r} was never reported")
        return
    at_ns, verdict.detected_as = min(after)
    verdict.detected_ms = (at_ns - seen.begin_ns) / 1e6
    _within(verdict, "detected", verdict.detected_ms, expect.detected_within_ms)


def _modes(verdict: Verdict, expect: Expectation, seen: Observations) -> None:
    before = [told.mode for told in seen.told if told.at_ns < seen.begin_ns]
    after = [told for told in seen.told if seen.begin_ns <= told.at_ns <= _last_ns(seen)]
    if not before or before[-1] != HealthMode.NOMINAL:
        was = before[-1].name if before else "unknown"
        verdict.problems.append(
            f"before the fault the mode was {was}, not NOMINAL: nothing can be judged"
        )
    verdict.told = [
        (told.mode.name, round((told.at_ns - seen.begin_ns) / 1e6, 1), told.cause)
        for previous, told in zip([None, *after], after, strict=False)
        if previous is None or told.mode != previous.mode
    ]
    worst = max((told.mode for told in after), default=HealthMode.NOMINAL)
    wanted = HealthMode[expect.told]
    limit = HealthMode[expect.at_worst or expect.told]
    if worst < wanted:
        verdict.problems.append(f"the worst mode was {worst.name}, {wanted.name} is expected")
    if worst > limit:
        cause = next(told.cause for told in after if told.mode == worst)
        verdict.problems.append(
            f"the mode was {worst.name} ({cause}), at worst {limit.name} is expected"
        )
    if expect.told_within_ms is not None and worst >= wanted:
        first_ns = next(told.at_ns for told in after if told.mode >= wanted)
        reached_ms = (first_ns - seen.begin_ns) / 1e6
        _within(verdict, f"mode {wanted.name}", reached_ms, expect.told_within_ms)
    told_at_ns = next((told.at_ns for told in after if told.mode >= wanted), seen.end_ns)
    silent = not any(seen.begin_ns <= told.at_ns < seen.end_ns for told in after)
    # What a unit that reboots or is cut off cannot tell is for the planner to notice.
    is_away = silent and any(kind in ("network", "unit_reboot") for kind, *_ in seen.faults)
    if worst >= wanted and not is_away:
        _while_it_lasts(verdict, f"mode {wanted.name}", wanted, told_at_ns, seen)
    lulls = [t for t in after if t.mode < wanted and told_at_ns < t.at_ns < seen.end_ns]
    if lulls:
        left_ms = (seen.end_ns - lulls[0].at_ns) / 1e6
        verdict.problems.append(
            f"the mode was {lulls[0].mode.name} {left_ms:.0f} ms before the fault was over"
        )
    verdict.recovered_ms = _recovered_ms(after, seen.end_ns)


def _planner(verdict: Verdict, expect: Expectation, seen: Observations) -> None:
    """Who has the protected topics alone must know all that the other subscribers know."""
    planned, problems, wanted = seen.planned, verdict.problems, HealthMode[expect.told]
    verdict.planner_states, verdict.planner_lost = dict(planned.states), planned.lost
    problems += [f"a planner refused {n} messages of {why}" for why, n in planned.wrong.items()]
    missed = planned.missed([at_ns for at_ns, _ in seen.detections])
    if missed:
        problems.append(f"a planner missed the detections of {missed} frames and did not know it")
    told_ns = planned.told_ns(wanted, seen.begin_ns)
    if told_ns is not None:
        verdict.planner_told_ms = (told_ns - seen.begin_ns) / 1e6
        _while_it_lasts(verdict, f"a planner's mode {wanted.name}", wanted, told_ns, seen)
        if planned.lets_up(wanted, told_ns, seen.end_ns):
            problems.append(f"a planner left mode {wanted.name} before the fault was over")
    what = f"a planner in mode {wanted.name}"
    _within(verdict, what, verdict.planner_told_ms, expect.told_within_ms)


def _last_ns(seen: Observations) -> int:
    """Until when health is about the drive."""
    return seen.sent[-1] + LAST_FRAME_NS


def _recovered_ms(after: Sequence[ReceivedHealth], end_ns: int) -> float | None:
    """When the mode became NOMINAL to the end, after the end of the faults; None if it did not."""
    if not after or after[-1].mode != HealthMode.NOMINAL:
        return None
    troubled = [index for index, told in enumerate(after) if told.mode != HealthMode.NOMINAL]
    if not troubled:
        return 0.0
    return max(0.0, (after[troubled[-1] + 1].at_ns - end_ns) / 1e6)


def _recovery(verdict: Verdict, expect: Expectation, seen: Observations) -> None:
    # By both times, since a stamp may lie in the future.
    resumed = [at_ns for at_ns, stamp_ns in seen.detections if min(at_ns, stamp_ns) >= seen.end_ns]
    if resumed:
        verdict.detections_ms = (min(resumed) - seen.end_ns) / 1e6
    _within(verdict, "detections again", verdict.detections_ms, expect.detections_within_ms)
    _within(verdict, "recovered", verdict.recovered_ms, expect.recovered_within_ms)
    # By the time of the report: the stamp may be wrong or unreadable, which may be the fault.
    lost = [
        report.status
        for report in seen.reports
        if report.status not in PUBLISHED
        and report.at_ns >= seen.begin_ns
        and report.stamp_ns not in seen.closing
    ]
    verdict.without_detections = len(lost)
    most = expect.lost_at_most
    if most is not None:
        most += min(_overtaken(seen), lost.count(FrameStatus.SUPERSEDED))
        most += min(LATE_AT_MOST, lost.count(FrameStatus.SKIPPED_LATE))
    if most is not None and verdict.without_detections > most:
        failed = verdict.statuses.get(FrameStatus.FAILED.name, 0)
        verdict.problems.append(
            f"{verdict.without_detections} frames had no detections ({failed} FAILED), "
            f"at most {most} are expected"
        )


def _planner_modes(verdict: Verdict, expect: Expectation, seen: Observations) -> None:
    """What is expected of the mode that is told holds for the mode that a planner is in."""
    planned, last_ns = seen.planned, _last_ns(seen)
    # Without a network messages are late by the bench's own listener, which gives way to the graph:
    # a planner is DEGRADED then, and the graph is not to blame.
    well = HealthMode.DEGRADED if seen.clock is None else HealthMode.NOMINAL
    # Until then it may still keep against the graph that this has only just begun to work.
    settled_ns = seen.working_ns(seen.begin_ns) + KEEPS_NS
    before = planned.worst(seen.begin_ns, seen.begin_ns)
    if settled_ns <= seen.begin_ns and before > well:
        verdict.problems.append(
            f"before the fault a planner's mode was {before.name}, at worst {well.name} is "
            "expected: nothing can be judged"
        )
    worst = planned.worst(max(seen.begin_ns, settled_ns), last_ns)
    limit = max(well, HealthMode[expect.at_worst or expect.told])
    if worst > limit:
        verdict.problems.append(
            f"a planner's mode was {worst.name}, at worst {limit.name} is expected"
        )
    well_ns = planned.no_worse_ns(well, last_ns)
    recovered_ms = None if well_ns is None else max(0.0, (well_ns - seen.end_ns) / 1e6)
    limit_ms = expect.recovered_within_ms + KEEPS_NS / 1e6
    _within(verdict, "a planner recovered", recovered_ms, limit_ms)


def _overtaken(seen: Observations) -> int:
    """How many frames from the fault on may have given way to the next one, as they were late."""
    period_ns = median(abs(b - a) for a, b in pairwise(seen.sent)) if len(seen.sent) > 1 else 0
    return sum(
        stamp_ns >= seen.begin_ns and late_ns >= OVERTAKEN_SHARE * period_ns
        for stamp_ns, late_ns in seen.late
    )


def _while_it_lasts(
    verdict: Verdict, what: str, wanted: HealthMode, told_ns: int, seen: Observations
) -> None:
    """A mode told only after a fault that lasts has warned nobody of it."""
    if wanted > HealthMode.NOMINAL and seen.begin_ns < seen.end_ns <= told_ns:
        late_ms = (told_ns - seen.end_ns) / 1e6
        verdict.problems.append(f"{what} was told only {late_ms:.0f} ms after the fault was over")


def _within(verdict: Verdict, what: str, found_ms: float | None, limit_ms: float | None) -> None:
    if found_ms is None:
        verdict.problems.append(f"{what}: never")
    elif limit_ms is not None and found_ms > limit_ms:
        verdict.problems.append(
            f"{what} after {found_ms:.0f} ms, at most {limit_ms:.0f} ms are expected"
        )
