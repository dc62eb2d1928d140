"""Compares a run with what its scenario expects, in a pure function; and the verdict."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from pydantic import BaseModel

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.frame import PUBLISHED, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.core.statistics import MEDIAN_AND_P99, percentiles
from perception_nodes.faults.clock_offset import ClockOffset
from perception_nodes.faults.scenario import Expectation, Scenario
from perception_nodes.lab.checks import Check, accounting, at_most, problems
from perception_nodes.lab.modes import Modes
from perception_nodes.lab.planner import KEEPS_NS, Consumed, consume, demanded
from perception_nodes.lab.run import Run
from perception_nodes.report.account import Account, account

LAST_FRAME_NS = 100_000_000
"""Health is about the drive until this long after the last frame; later it is about the silent
camera, and the nodes stop."""
LATE_AT_MOST = 1
"""So many late frames are not blamed on a fault: the machine alone delays some, as
`perception bench deadline` measures."""
OVERTAKEN_SHARE = 0.75
"""If the bench sends a frame this share of the frame period late, or later, the next one follows
closely."""
CLOCK_SHARE = 0.1
"""Clocks that differ by more than this share of the deadline make a miss rate meaningless."""
AWAY = ("network", "unit_reboot")
"""Faults during which the planner must notice what the unit cannot report."""
MS = "{:.0f} ms"


class ScenarioVerdict(BaseModel):
    """The result of a scenario.

    Attributes:
        scenario, title: of the scenario.
        problems: what was not as expected, one line each; empty if the scenario passed.
        detected_ms: time from the begin of the fault until it was reported.
        detected_as: the text that reported the fault.
        told: health modes from the fault on: name, milliseconds after its begin, cause.
        sent: number of frames that the camera sent.
        statuses: number of frame reports by status.
        lost_silently: frames sent without a report, and published detections that did not arrive.
        without_detections: frames from the fault on that had none, all of them reported.
        detections_ms: time from the end of the fault until detections of a frame captured since.
        recovered_ms: time from the end of the fault until the mode was NOMINAL to the end.
        while_down: frames sent while the unit was rebooting.
        miss_rate: share of the frames without detections in time.
        agreement: see `Expectation`.
        planner_told_ms: time from the begin of the fault until a planner's consumers gave the mode
            that is expected, or a worse one; None if they never did.
        planner_states: number of protected detections by what the consumer found of each.
        planner_lost: number of detections that the consumer knows to be lost.
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
        """The worst health mode from the fault on; None if none was published."""
        return max((HealthMode[mode] for mode, _, _ in self.told), default=None)


def judge(
    scenario: Scenario,
    run: Run,
    deadline_ms: float = DEADLINE_MS,
    clock: ClockOffset | None = None,
    agreement: float | None = None,
) -> ScenarioVerdict:
    """Compare what was observed with what is expected.

    Args:
        scenario: the expectations.
        run: what an independent subscriber observed.
        deadline_ms: the deadline of the graph.
        clock: the unit's clock against the bench's; None for a unit on this machine.
        agreement: agreement with the undisturbed drive; None if it was not asked for or is not
            known.
    """
    verdict = ScenarioVerdict(
        scenario=scenario.name,
        title=scenario.title,
        deadline_ms=deadline_ms,
        clock=clock,
        agreement=agreement,
        first_ns=run.first_ns,
        problems=[run.failure] * bool(run.failure) + run.not_put_in,
        faults=[
            (kind, (begin_ns - run.first_ns) / 1e9, (end_ns - run.first_ns) / 1e9)
            for kind, begin_ns, end_ns in run.faults
        ],
    )
    if not run.sent:
        verdict.problems = verdict.problems or ["no frame was sent"]
        return verdict
    expect, found = scenario.expect, account(run)
    planned = consume(run.protected, demanded(deadline_ms))
    _describe(verdict, run, found, planned)
    verdict.lost_silently = found.unreported
    verdict.lost_silently += max(0, found.missing - expect.lost_on_the_way_at_most)
    checks = list(accounting(found, expect.lost_on_the_way_at_most))
    # A restarted unit counts from 0 again.
    if not any(kind == "unit_reboot" for kind, *_ in run.faults):
        counted = found.entered == found.sent
        checks.append(Check("frames by health", f"{found.entered}", f"{found.sent}", counted))
    checks += _figures(verdict, expect)
    checks += _cause(verdict, expect, run)
    checks += _graph(verdict, expect, run)
    checks += _planner(verdict, expect, run, planned)
    checks += _recovery(verdict, expect, run)
    verdict.problems += problems(checks)
    return verdict


def _describe(verdict: ScenarioVerdict, run: Run, found: Account, planned: Consumed) -> None:
    """Add the figures that need no expectation, and the notes."""
    verdict.sent, verdict.while_down = found.sent + found.while_down, found.while_down
    verdict.statuses = dict(Counter(FrameStatus(report.status).name for report in run.reports))
    verdict.miss_rate = found.miss_rate
    verdict.planner_states, verdict.planner_lost = dict(planned.states), planned.lost
    if found.latencies_ms:
        ranks = percentiles(found.latencies_ms, MEDIAN_AND_P99)
        verdict.round_trip_ms = ranks["p50"], ranks["p99"]
    if run.closing:
        sent = f"{len(run.closing)} frames were sent after the end of the drive"
        verdict.notes.append(f"{sent}: a lost frame is noticed when a later one arrives")
    if run.late:
        most_ms = max(late_ns for _, late_ns in run.late) / 1e6
        verdict.notes.append(
            f"the bench's camera itself was late with {len(run.late)} frames, by up to "
            f"{most_ms:.0f} ms: their latency counts from when it had them, and gaps between "
            "frames may be its own"
        )


def _figures(verdict: ScenarioVerdict, expect: Expectation) -> Iterator[Check]:
    """Deadlines and accuracy."""
    if expect.miss_rate_at_most is not None:
        name = "share of frames that missed the deadline"
        yield at_most(name, verdict.miss_rate, expect.miss_rate_at_most, "{:.1%}")
        clock = verdict.clock
        if clock is not None:
            yield Check(
                "the unit's clock",
                f"{clock.offset_ms:.2f} ms off (± {clock.error_ms:.2f} ms)",
                "one clock for both (PTP, chrony), or deadlines mean nothing",
                abs(clock.offset_ms) - clock.error_ms <= CLOCK_SHARE * verdict.deadline_ms,
            )
    if expect.asks_for_agreement:
        least, most = expect.agreement_at_least, expect.agreement_at_most
        share, name = verdict.agreement, "agreement with the undisturbed drive"
        if share is None:
            yield Check(name, "nothing was detected that could be compared", "known", False)
        elif least is not None and share < least:
            yield Check(name, f"{share:.0%}", f"at least {least:.0%}", False)
        elif most is not None and share > most:
            yield Check(name, f"{share:.0%}: no effect of the fault", f"at most {most:.0%}", False)


def _cause(verdict: ScenarioVerdict, expect: Expectation, run: Run) -> Iterator[Check]:
    """Check that the graph reported the fault's cause in time."""
    if not expect.cause:
        return
    pattern = re.compile(expect.cause)
    said = [
        (told.at_ns, text)
        for told in run.health
        for text in (*told.faults, told.cause)
        if run.begin_ns <= told.at_ns <= _last_ns(run)
    ]
    said += [(r.log_time_ns, r.reason) for r in run.reports if r.log_time_ns >= run.begin_ns]
    # A single frame may have this cause at any time. A mode that has it before the fault has it for
    # another reason; before the first detections, that reason may be that no frame has come.
    running_ns = run.working_ns(run.begin_ns) - 1
    early = [t.cause for t in run.health if running_ns <= t.at_ns < run.begin_ns]
    if any(map(pattern.search, early)):
        yield Check(f"{expect.cause!r}", "reported before the fault", "only after it", False)
    if after := [(at_ns, text) for at_ns, text in said if pattern.search(text)]:
        at_ns, verdict.detected_as = min(after)
        verdict.detected_ms = (at_ns - run.begin_ns) / 1e6
    name = f"time until {expect.cause!r} was reported"
    yield at_most(name, verdict.detected_ms, expect.detected_within_ms, MS)


def _graph(verdict: ScenarioVerdict, expect: Expectation, run: Run) -> Iterator[Check]:
    """The modes that the graph publishes."""
    modes = Modes()
    for told in run.health:
        modes.add(told.at_ns, told.mode)
    after = [told for told in run.health if run.begin_ns <= told.at_ns <= _last_ns(run)]
    verdict.told = [
        (told.mode.name, round((told.at_ns - run.begin_ns) / 1e6, 1), told.cause)
        for previous, told in zip([None, *after], after, strict=False)
        if previous is None or told.mode != previous.mode
    ]
    before = next((t.mode for t in reversed(run.health) if t.at_ns < run.begin_ns), None)
    was = "not known" if before is None else before.name
    is_well = before == HealthMode.NOMINAL
    yield Check("mode before the fault", was, "NOMINAL, or nothing can be judged", is_well)
    is_silent = not any(told.at_ns < run.end_ns for told in after)
    away = is_silent and any(kind in AWAY for kind, *_ in run.faults)
    yield from _told("the graph", modes, run, expect, away)
    limit = HealthMode[expect.at_worst or expect.told]
    worst = max((told.mode for told in after), default=HealthMode.NOMINAL)
    cause = next((f" ({told.cause})" for told in after if told.mode == worst), "")
    yield Check("worst mode", worst.name + cause, f"at worst {limit.name}", worst <= limit)
    if after:
        well_ns = modes.well_since_ns(HealthMode.NOMINAL, _last_ns(run))
        verdict.recovered_ms = _after_ms(well_ns, run.end_ns)
    name = "time until the mode was NOMINAL again"
    yield at_most(name, verdict.recovered_ms, expect.recovered_within_ms, MS)


def _planner(
    verdict: ScenarioVerdict, expect: Expectation, run: Run, planned: Consumed
) -> Iterator[Check]:
    """A planner has the protected topics alone, and must know all that other subscribers know."""
    for why, count in planned.wrong.items():
        yield at_most(f"messages of {why}, which a planner refused", count, 0)
    unknown = planned.missed([at_ns for at_ns, _ in run.detections])
    yield at_most("detections that a planner missed and did not know of", unknown, 0)
    modes, last_ns = planned.modes, _last_ns(run)
    told_ns = modes.reached_ns(HealthMode[expect.told], run.begin_ns, last_ns)
    verdict.planner_told_ms = None if told_ns is None else (told_ns - run.begin_ns) / 1e6
    yield from _told("a planner", modes, run, expect)
    # Without a network, the bench's own listener gives way to the graph and gets messages late. A
    # planner is DEGRADED then, and the graph is not to blame.
    well = HealthMode.DEGRADED if verdict.clock is None else HealthMode.NOMINAL
    # Until then a planner may still be cautious because the graph has only just begun to work.
    settled_ns = run.working_ns(run.begin_ns) + KEEPS_NS
    before = modes.worst(run.begin_ns, run.begin_ns)
    if settled_ns <= run.begin_ns:
        name, limit = "a planner's mode before the fault", f"at worst {well.name}"
        yield Check(name, before.name, f"{limit}, or nothing can be judged", before <= well)
    worst = modes.worst(max(run.begin_ns, settled_ns), last_ns)
    most = max(well, HealthMode[expect.at_worst or expect.told])
    yield Check("a planner's worst mode", worst.name, f"at worst {most.name}", worst <= most)
    recovered_ms = _after_ms(modes.well_since_ns(well, last_ns), run.end_ns)
    limit_ms = expect.recovered_within_ms + KEEPS_NS / 1e6
    yield at_most(f"time until a planner was {well.name} again", recovered_ms, limit_ms, MS)


def _told(
    who: str, modes: Modes, run: Run, expect: Expectation, away: bool = False
) -> Iterator[Check]:
    """The expected mode must be reached in time, and kept while a fault lasts.

    Args:
        who: the name of who is in the modes, for the text.
        modes: over the run.
        run: with the begin and end of the faults.
        expect: the mode.
        away: whether the fault kept all messages back; then the mode is reached when they come
            again.
    """
    wanted = HealthMode[expect.told]
    what = f"time until {who} was in mode {wanted.name}"
    told_ns = modes.reached_ns(wanted, run.begin_ns, _last_ns(run))
    told_ms = None if told_ns is None else (told_ns - run.begin_ns) / 1e6
    yield at_most(what, told_ms, expect.told_within_ms, MS)
    if told_ns is None:
        return
    lasted_ms = (run.end_ns - run.begin_ns) / 1e6
    if wanted > HealthMode.NOMINAL and lasted_ms and not away:
        # The mode must be reached before the fault ends: later it warns nobody.
        name, found = f"{what}, while the fault lasted", f"{told_ms:.0f} ms"
        yield Check(name, found, f"less than {lasted_ms:.0f} ms", told_ns < run.end_ns)
    if (left_ns := modes.left_ns(wanted, told_ns, run.end_ns)) is not None:
        found = f"{(run.end_ns - left_ns) / 1e6:.0f} ms before the fault was over"
        yield Check(f"{who} left mode {wanted.name}", found, "not before", False)


def _recovery(verdict: ScenarioVerdict, expect: Expectation, run: Run) -> Iterator[Check]:
    # Judge by both times, since a stamp may lie in the future.
    resumed = [at_ns for at_ns, stamp_ns in run.detections if min(at_ns, stamp_ns) >= run.end_ns]
    verdict.detections_ms = _after_ms(min(resumed, default=None), run.end_ns)
    name = "time until detections came again"
    yield at_most(name, verdict.detections_ms, expect.detections_within_ms, MS)
    # Judge by the time of the report: the stamp may be wrong or unreadable, perhaps by the fault.
    lost = Counter(
        FrameStatus(report.status)
        for report in run.reports
        if report.status not in PUBLISHED
        and report.log_time_ns >= run.begin_ns
        and report.stamp_ns not in run.closing
    )
    verdict.without_detections = lost.total()
    if expect.lost_at_most is not None:
        most = expect.lost_at_most
        most += min(_overtaken(run), lost[FrameStatus.SUPERSEDED])
        most += min(LATE_AT_MOST, lost[FrameStatus.SKIPPED_LATE])
        failed = f", {lost[FrameStatus.FAILED]} of them FAILED"
        yield at_most(f"frames without detections{failed}", verdict.without_detections, most)


def _last_ns(run: Run) -> int:
    """The time until which health is about the drive."""
    return (run.sent or [0])[-1] + LAST_FRAME_NS


def _after_ms(at_ns: int | None, end_ns: int) -> float | None:
    """How long after the end of the faults something was; None if it never was."""
    return None if at_ns is None else max(0.0, (at_ns - end_ns) / 1e6)


def _overtaken(run: Run) -> int:
    """The number of late frames from the fault on that may have given way to the next frame."""
    stamps = run.sent or []
    period_ns = median(abs(b - a) for a, b in pairwise(stamps)) if len(stamps) > 1 else 0
    return sum(
        stamp_ns >= run.begin_ns and late_ns >= OVERTAKEN_SHARE * period_ns
        for stamp_ns, late_ns in run.late
    )
