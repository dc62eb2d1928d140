"""Facts against expectations: a pure function, and the verdict it gives."""

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.frame import IN_TIME, PUBLISHED, FrameStatus
from perception_nodes.core.statistics import MEDIAN_AND_P99, percentiles
from perception_nodes.hil.clock_offset import ClockOffset
from perception_nodes.hil.scenario import Expectation, RebootFault, Scenario
from perception_nodes.hil.witness import Seen, Told
from perception_nodes.watchdog.faults import HealthMode

LAST_FRAME_NS = 200_000_000
"""How long after the last frame health is still about the drive, and not about its end."""
ON_THE_WAY_NS = 100_000_000
"""What a frame that a reboot may hit was sent before it at most."""
CLOCK_SHARE = 0.1
"""Of the deadline, what clocks may be apart before a miss rate means nothing."""


class Verdict(BaseModel):
    """What came of a scenario.

    Attributes:
        scenario, title: which.
        problems: what was not as expected, a line each; none where it passed.
        detected_ms: from the fault's begin until it was said.
        detected_as: what was said.
        told: modes from the fault on: name, milliseconds from its begin, cause.
        sent: frames that the camera sent.
        statuses: reports by status.
        lost_silently: frames sent that nobody was told of, published detections that never came.
        without_detections: frames from the fault on that gave none, all accounted for.
        detections_ms: from the fault's end until a frame captured since had detections.
        recovered_ms: from the fault's end until the mode was NOMINAL for good.
        while_down: frames sent while a unit that was rebooted was not there.
        miss_rate: of the frames reported, those without detections in time.
        agreement: see `Expectation`.
        deadline_ms: that the graph ran with.
        round_trip_ms: by our clock alone, from a frame's stamp to its detections: p50, p99.
        clock: the unit's against ours, where it has a clock of its own.
        first_ns: when the first frame was due, nanoseconds since the Unix epoch.
        faults: kind, begin and end, in seconds after the first frame.
        notes: what the reader must know, a line each.
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
    deadline_ms: float = 0.0
    round_trip_ms: tuple[float, float] | None = None
    clock: ClockOffset | None = None
    first_ns: int = 0
    faults: list[tuple[str, float, float]] = []
    notes: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.problems


def judge(scenario: Scenario, seen: Seen, deadline_ms: float = DEADLINE_MS) -> Verdict:
    """Compare what was seen with what is expected.

    Args:
        scenario: what is expected.
        seen: by an independent subscriber.
        deadline_ms: that the graph ran with.
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
        return verdict
    rebooted = any(isinstance(fault, RebootFault) for fault in scenario.faults)
    down = _down(seen) if rebooted else range(0)
    _account(verdict, seen, down, scenario.expect.lost_on_the_way_at_most)
    _latency(verdict, scenario.expect, seen)
    _accuracy(verdict, scenario.expect)
    _detection(verdict, scenario.expect, seen)
    _modes(verdict, scenario.expect, seen)
    _recovery(verdict, scenario.expect, seen)
    return verdict


def _down(seen: Seen) -> range:
    """When a unit was rebooted: frames of this time nobody can account for."""
    up_ns = min((r.stamp_ns for r in seen.reports if r.stamp_ns >= seen.end_ns), default=None)
    last_ns = [*seen.sent, *seen.closing][-1]
    return range(seen.begin_ns - ON_THE_WAY_NS, last_ns + 1 if up_ns is None else up_ns)


def _account(verdict: Verdict, seen: Seen, down: range, lost_on_the_way: int) -> None:
    problems = verdict.problems
    stamps_sent = [*seen.sent, *seen.closing]
    verdict.sent = len(stamps_sent)
    verdict.while_down = sum(stamp_ns in down for stamp_ns in stamps_sent)
    if seen.closing:
        verdict.notes.append(
            f"{len(seen.closing)} frames were sent behind the drive's end: what the network loses "
            "shows when a later frame arrives"
        )
    verdict.statuses = dict(Counter(report.status.name for report in seen.reports))
    sent = verdict.sent - verdict.while_down
    reports = [report for report in seen.reports if report.stamp_ns not in down]
    # After a reboot what was lost meanwhile may show as a gap, and be reported without a stamp.
    if not sent <= len(reports) <= verdict.sent:
        problems.append(f"{sent} frames were sent, {len(reports)} were reported")
    if not down and seen.frames_in() != sent:  # a unit that was down counts anew
        problems.append(f"{sent} frames were sent, health counts {seen.frames_in()}")
    stamps = Counter(report.stamp_ns for report in reports if report.stamp_ns)
    unknown = stamps - Counter(stamps_sent)
    if unknown:
        problems.append(f"{unknown.total()} reports are of frames that were never sent")
    unbalanced = [told for told in seen.told if told.frames_in != told.outs + told.in_flight]
    if unbalanced:
        problems.append(f"health told {len(unbalanced)} times of frames in that are not all out")
    if seen.accounts() and seen.accounts()[-1].in_flight:
        problems.append(f"{seen.accounts()[-1].in_flight} frames never ended")
    published = Counter(r.stamp_ns for r in reports if r.status in PUBLISHED)
    arrived = Counter(stamp_ns for _, stamp_ns in seen.detections if stamp_ns not in down)
    missing = (published - arrived).total()
    unreported = (arrived - published).total()
    if missing > lost_on_the_way:
        problems.append(f"detections of {missing} frames were reported published and never came")
    if unreported:
        problems.append(f"detections of {unreported} frames came that no report tells of")
    verdict.lost_silently = max(0, sent - len(reports)) + max(0, missing - lost_on_the_way)


def _latency(verdict: Verdict, expect: Expectation, seen: Seen) -> None:
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
            f"{verdict.miss_rate:.1%} of the frames missed the deadline, {limit:.1%} are expected"
        )
    clock = verdict.clock
    if clock and abs(clock.offset_ms) - clock.error_ms > CLOCK_SHARE * verdict.deadline_ms:
        verdict.problems.append(
            f"the unit's clock is {clock.offset_ms:.2f} ms off (to {clock.error_ms:.2f} ms): "
            "deadlines mean nothing before both follow one clock (PTP, chrony)"
        )


def _accuracy(verdict: Verdict, expect: Expectation) -> None:
    if not expect.asks_for_agreement:
        return
    share = verdict.agreement
    if share is None:
        verdict.problems.append("nothing was detected that could agree with the undisturbed drive")
        return
    if expect.agreement_at_least is not None and share < expect.agreement_at_least:
        verdict.problems.append(
            f"{share:.0%} agree with the undisturbed drive, {expect.agreement_at_least:.0%} are "
            "expected at least"
        )
    if expect.agreement_at_most is not None and share > expect.agreement_at_most:
        verdict.problems.append(
            f"{share:.0%} agree with the undisturbed drive: the fault does not show, "
            f"{expect.agreement_at_most:.0%} are expected at most"
        )


def _detection(verdict: Verdict, expect: Expectation, seen: Seen) -> None:
    if not expect.cause:
        return
    pattern = re.compile(expect.cause)
    said = [
        (told.at_ns, text)
        for told in seen.told
        for text in (*told.faults, told.cause)
        if seen.first_ns <= told.at_ns <= _last_ns(seen) and pattern.search(text)
    ]
    # A single frame may fare so at any time; what health says must not be about something else.
    if any(at_ns < seen.begin_ns for at_ns, _ in said):
        verdict.problems.append(f"{expect.cause!r} was told before the fault")
    said += [
        (report.at_ns, report.reason) for report in seen.reports if pattern.search(report.reason)
    ]
    after = [(at_ns, text) for at_ns, text in said if at_ns >= seen.begin_ns]
    if not after:
        verdict.problems.append(f"{expect.cause!r} was never told")
        return
    at_ns, verdict.detected_as = min(after)
    verdict.detected_ms = (at_ns - seen.begin_ns) / 1e6
    _within(verdict, "detected", verdict.detected_ms, expect.detected_within_ms)


def _modes(verdict: Verdict, expect: Expectation, seen: Seen) -> None:
    before = [told.mode for told in seen.told if told.at_ns < seen.begin_ns]
    after = [told for told in seen.told if seen.begin_ns <= told.at_ns <= _last_ns(seen)]
    if not before or before[-1] != HealthMode.NOMINAL:
        was = before[-1].name if before else "unknown"
        verdict.problems.append(f"before the fault the mode was {was}: nothing can be judged by it")
    verdict.told = [
        (told.mode.name, round((told.at_ns - seen.begin_ns) / 1e6, 1), told.cause)
        for previous, told in zip([None, *after], after, strict=False)
        if previous is None or told.mode != previous.mode
    ]
    worst = max((told.mode for told in after), default=HealthMode.NOMINAL)
    wanted = HealthMode[expect.told]
    limit = HealthMode[expect.at_worst or expect.told]
    if worst < wanted:
        verdict.problems.append(f"the vehicle was told {worst.name} at worst, not {wanted.name}")
    if worst > limit:
        cause = next(told.cause for told in after if told.mode == worst)
        verdict.problems.append(f"the vehicle was told {worst.name} ({cause}), not {limit.name}")
    if expect.told_within_ms is not None and worst >= wanted:
        first_ns = next(told.at_ns for told in after if told.mode >= wanted)
        reached_ms = (first_ns - seen.begin_ns) / 1e6
        _within(verdict, f"told {wanted.name}", reached_ms, expect.told_within_ms)
    told_at_ns = next((told.at_ns for told in after if told.mode >= wanted), seen.end_ns)
    lulls = [t for t in after if t.mode < wanted and told_at_ns < t.at_ns < seen.end_ns]
    if lulls:
        left_ms = (seen.end_ns - lulls[0].at_ns) / 1e6
        verdict.problems.append(
            f"the vehicle was told {lulls[0].mode.name} {left_ms:.0f} ms before the fault was over"
        )
    verdict.recovered_ms = _recovered_ms(after, seen.end_ns)


def _last_ns(seen: Seen) -> int:
    """Until when health is about the drive: behind it, the camera's silence is none of its."""
    return seen.sent[-1] + LAST_FRAME_NS


def _recovered_ms(after: Sequence[Told], end_ns: int) -> float | None:
    """When the last stretch of NOMINAL began, None where there is none."""
    if not after or after[-1].mode != HealthMode.NOMINAL:
        return None
    troubled = [index for index, told in enumerate(after) if told.mode != HealthMode.NOMINAL]
    if not troubled:
        return 0.0
    return max(0.0, (after[troubled[-1] + 1].at_ns - end_ns) / 1e6)


def _recovery(verdict: Verdict, expect: Expectation, seen: Seen) -> None:
    # By both times: a stamp may lie ahead.
    resumed = [at_ns for at_ns, stamp_ns in seen.detections if min(at_ns, stamp_ns) >= seen.end_ns]
    if resumed:
        verdict.detections_ms = (min(resumed) - seen.end_ns) / 1e6
    _within(verdict, "detections again", verdict.detections_ms, expect.detections_within_ms)
    _within(verdict, "recovered", verdict.recovered_ms, expect.recovered_within_ms)
    # By the time of their report: stamps may be the fault, or unreadable.
    verdict.without_detections = sum(
        report.status not in PUBLISHED
        and report.at_ns >= seen.begin_ns
        and report.stamp_ns not in seen.closing
        for report in seen.reports
    )
    most = expect.lost_at_most
    if most is not None and verdict.without_detections > most:
        failed = verdict.statuses.get(FrameStatus.FAILED.name, 0)
        verdict.problems.append(
            f"{verdict.without_detections} frames gave no detections ({failed} FAILED), "
            f"at most {most} are expected"
        )


def _within(verdict: Verdict, what: str, found_ms: float | None, limit_ms: float | None) -> None:
    if found_ms is None:
        verdict.problems.append(f"{what}: never")
    elif limit_ms is not None and found_ms > limit_ms:
        verdict.problems.append(f"{what} after {found_ms:.0f} ms, {limit_ms:.0f} ms are expected")
