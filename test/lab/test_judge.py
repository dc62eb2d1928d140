"""The judge against made-up runs: one in which all is well, and each thing that can be wrong."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from made_runs import MS, in_time, report

from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.faults.clock_offset import ClockOffset
from perception_nodes.faults.scenario import Expectation, NetworkConditions, RebootFault, Scenario
from perception_nodes.lab import judge as module
from perception_nodes.lab.judge import judge
from perception_nodes.lab.modes import Modes
from perception_nodes.lab.planner import Consumed
from perception_nodes.lab.run import Run
from perception_nodes.protection.profile import data_id, protect
from perception_nodes.report.account import HealthMessage

PERIOD = 33 * MS
BEGIN, END = 2_500 * MS, 4_500 * MS
STAMPS = [i * PERIOD for i in range(1, 240)]
NOMINAL, DEGRADED, _, UNSAFE = HealthMode
SILENT = "no frame from the camera for 300 ms"
SCENARIO = Scenario.model_validate(
    {
        "name": "camera_stop",
        "title": "The camera stops",
        "faults": [{"kind": "camera_stop", "for_s": 2}],
        "expect": {
            "cause": "no frame",
            "detected_within_ms": 350,
            "told": "UNSAFE",
            "lost": "nothing",
            "lost_at_most": 0,
            "detections_within_ms": 100,
            "recovered_within_ms": 1200,
        },
    }
)
NO_FAULT = {"cause": "", "told": "NOMINAL"}


def good() -> Run:
    """A camera that stops for two seconds, and a graph that does all that it should."""
    run = in_time(stamp for stamp in STAMPS if not BEGIN <= stamp < END)
    run.begin_ns, run.end_ns = BEGIN, END
    for at in range(100 * MS, run.sent[-1] + 100 * MS, 100 * MS):
        count = sum(stamp + 9 * MS <= at for stamp in run.sent)
        told = HealthMessage(at, NOMINAL, "in time", (), count, count)
        if BEGIN + 300 * MS <= at <= END + 100 * MS:
            told = replace(told, mode=UNSAFE, cause=SILENT, faults=(SILENT,))
        elif END < at <= END + 1000 * MS:
            told = replace(told, mode=UNSAFE)
        run.health.append(told)
    return protected(run)


def protected(run, names=("detections", "health"), late_ns=0, health=None):
    """The run with protected copies of its messages, each with the usual deadline."""
    messages = [(at + late_ns, "detections", b"objects", s + 10 * MS) for at, s in run.detections]
    for told in run.health if health is None else health:
        data = bytes(12) + bytes([told.mode])
        messages.append((told.at_ns, "health", data, told.at_ns + 100 * MS))
    counters, run.protected = dict.fromkeys(names, 0), []
    for at_ns, name, data, deadline_ns in sorted(messages):
        topic = f"/perception/{name}/protected"
        if name in names:
            message = protect(data, data_id(topic), counters[name], deadline_ns)
            run.protected.append((topic, at_ns, message))
            counters[name] += 1
    return run


def expecting(**changes):
    return SCENARIO.model_copy(update={"expect": SCENARIO.expect.model_copy(update=changes)})


def found(run, scenario=SCENARIO, modes=None, **values):
    """The problems without what is expected; the planner's modes may be given."""
    if modes is None:
        problems = judge(scenario, run, **values).problems
    else:
        known = len(run.detections)
        with patch.object(module, "consume", lambda *_: Consumed(lost=known, modes=Modes(modes))):
            problems = judge(scenario, run, **values).problems
    return [problem.partition(", expected: ")[0] for problem in problems]


def told(run, change):
    """The run with other health messages; the planner hears the old ones."""
    run.health = [change(message) for message in run.health]
    return run


def lose(run, status, *indices):
    """Give frames another status and no detections."""
    for index in indices:
        stamp = run.reports[index].stamp_ns
        run.reports[index] = report(stamp, status)
        run.detections = [one for one in run.detections if one[1] != stamp]
    return protected(run)


@pytest.fixture
def run():
    return good()


def test_a_good_run_passes():
    verdict = judge(SCENARIO, good())
    assert (verdict.problems, verdict.notes) == ([], [])
    assert verdict.detected_ms == pytest.approx(300)
    assert verdict.detected_as == SILENT
    assert [mode for mode, _, _ in verdict.told] == ["NOMINAL", "UNSAFE", "NOMINAL"]
    assert verdict.recovered_ms == pytest.approx(1100)
    assert verdict.detections_ms < 50
    assert (verdict.lost_silently, verdict.without_detections, verdict.miss_rate) == (0, 0, 0)
    assert verdict.planner_states == {"OK": len(good().detections)}
    assert (verdict.planner_told_ms, verdict.planner_lost) == (300, 0)


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (Run(failure="detector_node ended by signal SIGBUS"), "detector_node ended by signal"),
        (Run(), "no frame was sent"),
        (Run(not_put_in=["shm_full (faults.0) was not put in: -"]), "shm_full (faults.0) was not"),
    ],
)
def test_a_run_that_did_not_happen_has_not_passed(run, problem):
    (only,) = judge(SCENARIO, run).problems
    assert only.startswith(problem)


def test_frames_are_accounted_for(run):
    del run.detections[20]
    verdict = judge(SCENARIO, protected(run))
    assert verdict.lost_silently == 1
    assert [text[:29] for text in verdict.problems] == ["detections that were reported"]
    allowed = judge(expecting(lost_on_the_way_at_most=1), run)
    assert (allowed.problems, allowed.lost_silently) == ([], 0)
    run = good()
    run.health[-1] = replace(run.health[-1], frames_in=5, outs=5)
    assert found(run) == ["frames by health: 5"]


UNTIL = "time until"


@pytest.mark.parametrize(
    ("expect", "problems"),
    [
        ({"cause": "the lens is dirty"}, [f"{UNTIL} 'the lens is dirty' was reported: never"]),
        ({"cause": "in time"}, ["'in time': reported before the fault"]),
        (
            {"told": "DEGRADED"},
            [f"worst mode: UNSAFE ({SILENT})", "a planner's worst mode: UNSAFE"],
        ),
        ({"told": "DEGRADED", "at_worst": "UNSAFE"}, []),
        (
            {"told_within_ms": 200.0},
            [f"{UNTIL} {who} was in mode UNSAFE: 300 ms" for who in ("the graph", "a planner")],
        ),
        ({"recovered_within_ms": 900.0}, [f"{UNTIL} the mode was NOMINAL again: 1100 ms"]),
    ],
)
def test_limits(expect, problems):
    assert found(good(), expecting(**expect)) == problems


def test_the_wait_for_the_first_frame_is_no_fault_of_the_camera(run):
    waiting = HealthMessage(1, UNSAFE, "no frame from the camera")
    run.health.insert(0, waiting)
    assert found(run) == []
    run.health.insert(9, replace(waiting, at_ns=run.health[8].at_ns + 1))
    assert found(run)[0] == "'no frame': reported before the fault"


def test_a_fault_that_changed_no_mode_before_is_not_the_one_that_is_put_in():
    def exceed(message):
        late = f"{message.cause}; exceeded"
        return replace(message, cause=late) if message.at_ns > BEGIN else message

    run = told(good(), exceed)
    run.health[3] = replace(run.health[3], faults=("inference exceeded its 6 ms",))
    assert found(run, expecting(cause="exceeded")) == []


def test_what_is_said_of_the_silence_behind_the_drive_detects_nothing():
    run = told(good(), lambda message: replace(message, cause="-", faults=()))
    at_ns = run.sent[-1] + 400 * MS
    run.health.append(replace(run.health[-1], at_ns=at_ns, cause="no frame from the camera"))
    problems = found(run, expecting(detected_within_ms=60_000.0))
    assert problems == ["time until 'no frame' was reported: never"]


def test_a_frame_report_tells_too(run):
    index = next(i for i, one in enumerate(run.reports) if one.stamp_ns >= END)
    run.reports[index] = replace(run.reports[index], reason="cut off")
    verdict = judge(expecting(cause="cut off", detected_within_ms=3000.0), run)
    assert (verdict.detected_as, verdict.problems) == ("cut off", [])


def planner(unsafe_ns, nominal_ns=END + 1000 * MS):
    """A planner that is UNSAFE from an instant until a second after the fault."""
    return [(0, NOMINAL), (unsafe_ns, UNSAFE), (nominal_ns, NOMINAL)]


def from_(begin_ns):
    """The good run, in which the mode is published later."""
    return told(good(), lambda m: replace(m, mode=NOMINAL) if m.at_ns < begin_ns else m)


def test_the_mode_is_published_while_the_fault_lasts():
    assert found(from_(END - 100 * MS), modes=planner(END - 100 * MS)) == []
    assert found(from_(END + 200 * MS), modes=planner(END + 200 * MS)) == [
        f"time until {who} was in mode UNSAFE, while the fault lasted: 2200 ms"
        for who in ("the graph", "a planner")
    ]
    run = told(good(), lambda message: replace(message, mode=NOMINAL))
    assert found(run) == ["time until the graph was in mode UNSAFE: never"]
    run = good()
    at = next(i for i, message in enumerate(run.health) if message.at_ns >= BEGIN + 1500 * MS)
    run.health[at] = replace(run.health[at], mode=NOMINAL)
    assert found(run) == ["the graph left mode UNSAFE: 500 ms before the fault was over"]
    run = from_(END + 200 * MS)
    run.begin_ns = run.end_ns = END  # a fault at an instant
    assert found(run, expecting(cause=""), planner(END + 200 * MS)) == []


def test_a_unit_that_is_cut_off_cannot_publish_a_mode_but_a_planner_must_notice():
    unheard = expecting(detected_within_ms=2500)

    def delay(message):
        return replace(message, at_ns=END + 5 * MS) if BEGIN <= message.at_ns < END else message

    run = told(good(), delay)
    late = "time until the graph was in mode UNSAFE, while the fault lasted: 2005 ms"
    assert found(run, unheard) == [late]
    run.faults = [("network", BEGIN, END)]
    assert found(run, unheard) == []
    assert found(run, unheard, planner(END + 200 * MS)) == [
        "time until a planner was in mode UNSAFE, while the fault lasted: 2200 ms"
    ]


def test_what_was_not_well_before_or_does_not_recover():
    run = told(good(), lambda m: replace(m, mode=DEGRADED) if m.at_ns < BEGIN else m)
    assert found(run) == ["mode before the fault: DEGRADED"]
    run = told(good(), lambda m: replace(m, mode=UNSAFE) if m.at_ns > END else m)
    assert found(run) == ["time until the mode was NOMINAL again: never"]
    run = good()
    run.detections = [one for one in run.detections if one[1] < END]
    assert "time until detections came again: never" in found(run)


@pytest.mark.parametrize(
    ("status", "lost", "late", "count"),
    [
        (FrameStatus.SUPERSEDED, (5, -5), [], 1),  # from the fault on
        (FrameStatus.SKIPPED_LATE, (-5,), [], 0),  # one by the machine's own tail
        # Those that give way to one that the camera had late.
        (FrameStatus.SUPERSEDED, (-5, -6), [(-6, 82), (-5, 49), (-4, 16)], 0),
        (FrameStatus.SUPERSEDED, (-5,), [(9, 82)], 1),  # late before the fault
    ],
)
def test_frames_without_detections(status, lost, late, count):
    run = lose(good(), status, *lost)
    run.late = [(run.sent[number], round(late_ms * MS)) for number, late_ms in late]
    problems = [f"frames without detections, 0 of them FAILED: {count}"] if count else []
    assert found(run) == problems
    notes = judge(SCENARIO, run).notes
    assert [f"late with {len(late)} frames" in note for note in notes] == [True] * bool(late)


def test_without_a_fault_all_that_is_lost_once_the_graph_works_counts():
    run = in_time(STAMPS)
    times = range(-100 * MS, STAMPS[-1], 100 * MS)
    run.health = [HealthMessage(at, NOMINAL if at > 200 * MS else UNSAFE, "-") for at in times]
    run.begin_ns = run.end_ns = run.working_ns(BEGIN)
    lose(run, FrameStatus.SUPERSEDED, *[i for i, stamp in enumerate(STAMPS) if stamp <= 200 * MS])
    run.health[-1] = replace(run.health[-1], frames_in=len(STAMPS), outs=len(STAMPS))
    protected(run)
    expect = Expectation(lost="nothing", lost_at_most=0)
    nominal = SCENARIO.model_copy(update={"faults": (), "expect": expect})
    assert found(run, nominal) == []
    lose(run, FrameStatus.FAILED, 20)
    assert found(run, nominal) == ["frames without detections, 1 of them FAILED: 1"]


def test_frames_behind_the_end_are_accounted_for_and_judged_by_nothing_else(run):
    closing, count = run.sent[-1] + 1000 * MS, len(run.sent) + 1
    run.closing = [closing]
    run.reports.append(report(closing, FrameStatus.LATE))
    run.detections.append((closing + 9 * MS, closing))
    run.health += [
        HealthMessage(closing - 600 * MS, UNSAFE, "no frame from the camera"),
        HealthMessage(closing + 50 * MS, UNSAFE, "-", (), count, count),
    ]
    verdict = judge(SCENARIO, protected(run))
    assert (verdict.problems, verdict.sent, verdict.miss_rate) == ([], count, 0)
    assert "1 frames were sent after the end of the drive" in verdict.notes[0]


def test_a_planner_without_health_knows_by_the_silence_of_detections():
    verdict = judge(SCENARIO, protected(good(), ("detections",)))
    assert verdict.problems == []
    assert verdict.planner_told_ms == pytest.approx(500 - PERIOD / MS + 8, abs=25)


def test_a_planner_must_know_of_what_did_not_reach_it(run):
    lost = run.detections.pop(20)
    protected(run)
    run.detections.insert(20, lost)
    unknown = "detections that a planner missed and did not know of"
    assert found(run) == [f"{unknown}: 1"]
    run.protected = []
    missed = sum(at_ns > run.detections[0][0] + 3000 * MS for at_ns, _ in run.detections)
    assert f"{unknown}: {missed}" in found(run)


def test_a_planner_must_not_refuse_what_is_right(run):
    topic, at_ns, data = run.protected[-1]
    run.protected[-1] = (topic, at_ns, data[:-1] + bytes([data[-1] ^ 1]))
    assert [text for text in found(run) if f"messages of {topic}: " in text]


@pytest.mark.parametrize(
    ("later", "expect", "clock", "problems"),
    [
        ([], NO_FAULT, True, []),
        (
            [(END, DEGRADED), (END + MS, NOMINAL)],
            NO_FAULT,
            True,
            ["a planner's worst mode: DEGRADED"],
        ),
        # It rightly misses a camera that has ended.
        ([(STAMPS[-1] + 250 * MS, DEGRADED)], NO_FAULT, True, []),
        # On one machine it may be DEGRADED by the bench itself.
        ([(1, DEGRADED), (END - MS, UNSAFE), (END + 900 * MS, DEGRADED)], {}, False, []),
        (
            [(1, DEGRADED), (END - MS, UNSAFE), (END + 900 * MS, DEGRADED)],
            {},
            True,
            [
                "a planner's mode before the fault: DEGRADED",
                "time until a planner was NOMINAL again: never",
            ],
        ),
        (
            planner(BEGIN + MS, END + 2300 * MS)[1:],
            {"recovered_within_ms": 1100.0},
            True,
            ["time until a planner was NOMINAL again: 2300 ms"],
        ),
    ],
)
def test_a_planner_is_held_to_what_is_allowed(later, expect, clock, problems):
    run, scenario = good(), expecting(**expect)
    if expect is NO_FAULT:
        run = told(run, lambda message: replace(message, mode=NOMINAL))
    offset = ClockOffset(0, 1) if clock else None
    assert found(run, scenario, [(0, NOMINAL), *later], clock=offset) == problems


def test_what_a_planner_keeps_from_before_the_graph_worked_is_no_fault():
    run = told(good(), lambda message: replace(message, mode=NOMINAL))
    run.begin_ns = run.end_ns = run.working_ns(BEGIN)
    clock, nominal = ClockOffset(0, 1), expecting(**NO_FAULT)
    kept = [(0, UNSAFE), (run.begin_ns + 900 * MS, NOMINAL)]
    assert found(run, nominal, kept, clock=clock) == []
    assert found(run, nominal, kept[:1], clock=clock) == [
        "a planner's worst mode: UNSAFE",
        "time until a planner was NOMINAL again: never",
    ]


def test_missed_deadlines_are_a_share_and_mean_nothing_where_clocks_are_apart(run):
    for index in (5, 6):
        run.reports[index] = replace(run.reports[index], status=FrameStatus.LATE)
    verdict = judge(expecting(miss_rate_at_most=0.02), run)
    assert (verdict.problems, verdict.miss_rate) == ([], pytest.approx(2 / len(run.sent)))
    strict = expecting(miss_rate_at_most=0.005)
    assert found(run, strict) == ["share of frames that missed the deadline: 1.1%"]
    lenient = expecting(miss_rate_at_most=0.1)
    modes = planner(BEGIN + MS)
    assert found(good(), lenient, modes, clock=ClockOffset(3.0, 2.5)) == []
    assert found(good(), lenient, modes, clock=ClockOffset(3.0, 0.5)) == [
        "the unit's clock: 3.00 ms off (± 0.50 ms)"
    ]


@pytest.mark.parametrize(
    ("agreement", "least", "most", "problem"),
    [
        (0.8, 0.7, 0.9, None),
        (0.8, 0.9, None, "80%"),
        (0.8, None, 0.5, "80%: no effect of the fault"),
        (None, 0.1, None, "nothing was detected that could be compared"),
    ],
)
def test_agreement_has_a_floor_and_a_ceiling(agreement, least, most, problem):
    scenario = expecting(agreement_at_least=least, agreement_at_most=most)
    problems = [f"agreement with the undisturbed drive: {problem}"] if problem else []
    assert found(good(), scenario, agreement=agreement) == problems


def rebooted():
    """A unit that is killed at `BEGIN`, and heard of again half a second after `END`."""
    run, up_ns = in_time(STAMPS), END + 500 * MS  # its camera goes on
    gone = range(BEGIN - 50 * MS, up_ns)
    run.reports = [one for one in run.reports if one.stamp_ns not in gone]
    run.detections = [one for one in run.detections if one[1] not in gone]
    before = [message for message in good().health if message.at_ns < BEGIN]
    times_ns = range(up_ns, 8000 * MS, MS)
    again = [replace(before[0], at_ns=at_ns, frames_in=0, outs=0) for at_ns in times_ns]
    run.health, run.begin_ns, run.end_ns = before + again, BEGIN, END
    run.faults = [("unit_reboot", BEGIN, END)]
    return protected(run)


REBOOT = SCENARIO.model_copy(
    update={
        "faults": (RebootFault(kind="unit_reboot", for_s=2),),
        "network": NetworkConditions(),
        "expect": Expectation(lost="-", at_worst="UNSAFE", detections_within_ms=1000),
    }
)


def test_a_unit_that_was_down_accounts_for_the_frames_before_and_after():
    assert found(rebooted(), REBOOT, planner(BEGIN + MS)) == []
    down = judge(REBOOT, rebooted()).while_down
    assert down == pytest.approx(2600 / 33, abs=2)
    run = rebooted()
    # Another fault beside the reboot excuses no frame.
    run.faults.append(("night", BEGIN - 1500 * MS, END + 1500 * MS))
    run.begin_ns, run.end_ns = run.faults[-1][1:]
    assert judge(REBOOT, run).while_down == down
    del run.reports[-5]
    assert judge(REBOOT, run).lost_silently == 1
    del run.reports[next(i for i, one in enumerate(run.reports) if one.stamp_ns > run.begin_ns)]
    assert judge(REBOOT, run).lost_silently == 2
