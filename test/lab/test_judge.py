"""The judge against made-up runs: one in which all is well, and each thing that can be wrong."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from perception_nodes.core.frame import MAY_BE_OUT, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.faults.clock_offset import ClockOffset
from perception_nodes.faults.scenario import Conditions, Expectation, RebootFault, Scenario
from perception_nodes.lab.judge import judge
from perception_nodes.lab.planner import consume
from perception_nodes.lab.verdict_files import (
    problem_lines,
    verdicts_json,
    verdicts_junit,
    verdicts_table,
)
from perception_nodes.lab.witness import Observations, ReceivedHealth, ReceivedReport
from perception_nodes.protection.consumer import Limits
from perception_nodes.protection.profile import data_id, protect

MS = 1_000_000
PERIOD = 33 * MS
BEGIN, END = 2_500 * MS, 4_500 * MS
FIRST = 0
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


def run():
    """A camera that stops for two seconds, and a graph that does all that it should."""
    stamps = [FIRST + i * PERIOD for i in range(1, 240)]
    stamps = [stamp for stamp in stamps if not BEGIN <= stamp < END]
    seen = Observations(sent=stamps, first_ns=FIRST, begin_ns=BEGIN, end_ns=END)
    seen.detections = [(stamp + 8 * MS, stamp) for stamp in stamps]
    seen.reports = [ReceivedReport(stamp + 9 * MS, stamp, FrameStatus.OK) for stamp in stamps]
    for at in range(100 * MS, stamps[-1] + 100 * MS, 100 * MS):
        count = sum(stamp + 9 * MS <= at for stamp in stamps)
        told = ReceivedHealth(at, HealthMode.NOMINAL, "in time", (), count, count)
        if BEGIN + 300 * MS <= at <= END + 100 * MS:
            text = "no frame from the camera for 300 ms"
            told = replace(told, mode=HealthMode.UNSAFE, cause=text, faults=(text,))
        elif END < at <= END + 1000 * MS:
            told = replace(told, mode=HealthMode.UNSAFE)
        seen.told.append(told)
    seen.planned = planned(seen)
    return seen


def planned(seen, names=("detections", "health"), late_ns=0):
    """What a planner makes of the same messages, each with the usual deadline."""
    messages = []
    for at_ns, stamp_ns in seen.detections:
        messages.append((at_ns + late_ns, "detections", b"objects", stamp_ns + 10 * MS))
    for told in seen.told:
        health = bytes(12) + bytes([told.mode])
        messages.append((told.at_ns, "health", health, told.at_ns + 100 * MS))
    sent, counters = [], dict.fromkeys(names, 0)
    for at_ns, name, data, deadline_ns in sorted(messages):
        topic = f"/perception/{name}/protected"
        if name in names:
            sent.append((topic, at_ns, protect(data, data_id(topic), counters[name], deadline_ns)))
            counters[name] += 1
    return consume(sent, Limits())


def problems_of(seen, scenario=SCENARIO):
    return judge(scenario, seen).problems


def expecting(**changes):
    return SCENARIO.model_copy(update={"expect": SCENARIO.expect.model_copy(update=changes)})


def test_frames_that_the_camera_itself_had_late_are_noted_and_no_problem():
    seen = run()
    assert judge(SCENARIO, seen).notes == []
    seen.late = [(seen.sent[0], 3 * MS), (seen.sent[1], 82 * MS)]
    verdict = judge(SCENARIO, seen)
    assert verdict.passed
    (note,) = verdict.notes
    assert "late with 2 frames, by up to 82 ms" in note


def test_a_good_run_passes():
    verdict = judge(SCENARIO, run())
    assert verdict.problems == []
    assert verdict.detected_ms == pytest.approx(300)
    assert verdict.detected_as == "no frame from the camera for 300 ms"
    assert [mode for mode, _, _ in verdict.told] == ["NOMINAL", "UNSAFE", "NOMINAL"]
    assert verdict.recovered_ms == pytest.approx(1100)
    assert verdict.detections_ms < 50
    assert (verdict.lost_silently, verdict.without_detections) == (0, 0)


def test_a_frame_without_a_report_is_lost_silently():
    seen = run()
    del seen.reports[20]
    verdict = judge(SCENARIO, seen)
    assert verdict.lost_silently == 1
    assert f"{len(seen.sent)} frames were sent, {len(seen.sent) - 1} were reported" in (
        verdict.problems
    )
    assert "detections of 1 frames arrived without a report" in verdict.problems


def test_detections_of_a_frame_that_its_detector_held_as_it_died_may_arrive():
    seen = run()
    reason = "detector 7 died; 8 took over" + MAY_BE_OUT.decode()
    failed = replace(seen.reports[20], status=FrameStatus.FAILED, reason=reason)
    seen.reports[20] = failed
    assert not [text for text in judge(SCENARIO, seen).problems if "without a report" in text]
    seen.reports[20] = replace(failed, reason="detector 7 died; 8 took over")
    assert "detections of 1 frames arrived without a report" in problems_of(seen)


def test_published_detections_that_never_came_are_lost_silently():
    seen = run()
    del seen.detections[20]
    verdict = judge(SCENARIO, seen)
    assert verdict.lost_silently == 1
    assert verdict.problems == [
        "detections of 1 frames were reported as published and never arrived"
    ]


def test_accounts_must_balance():
    seen = run()
    seen.told[-1] = replace(seen.told[-1], outs=seen.told[-1].outs - 1, in_flight=0)
    assert problems_of(seen) == [
        "in 1 health messages frames in is not the sum of outs and in flight"
    ]
    seen.told[-1] = replace(seen.told[-1], in_flight=1)
    assert problems_of(seen) == ["1 frames were in flight to the end"]


def test_accounts_go_on_over_a_restart_of_the_watchdog():
    seen = run()
    at = next(i for i, told in enumerate(seen.told) if told.at_ns > BEGIN + 350 * MS)
    gone = "the watchdog is gone"
    seen.told.insert(
        at, ReceivedHealth(BEGIN + 350 * MS, HealthMode.UNSAFE, gone, by_watchdog=False)
    )
    assert seen.frames_in() == len(seen.sent)
    assert problems_of(seen) == []


def test_reports_of_unknown_frames_are_noticed():
    seen = run()
    seen.reports[3] = replace(seen.reports[3], stamp_ns=5)
    assert "1 reports are about frames that were never sent" in problems_of(seen)


def test_a_frame_that_could_not_be_read_has_a_report_without_a_stamp():
    seen = run()
    stamp = seen.reports[3].stamp_ns
    seen.reports[3] = replace(seen.reports[3], stamp_ns=0, status=FrameStatus.FAILED)
    seen.detections = [found for found in seen.detections if found[1] != stamp]
    assert problems_of(seen) == []


def test_detection_must_come_in_time_and_not_before():
    assert problems_of(run(), expecting(detected_within_ms=200.0)) == [
        "detected after 300 ms, at most 200 ms are expected"
    ]
    assert problems_of(run(), expecting(cause="the lens is dirty")) == [
        "'the lens is dirty' was never reported"
    ]
    assert "'in time' was reported before the fault" in problems_of(
        run(), expecting(cause="in time")
    )


def test_the_wait_for_the_first_frame_is_no_fault_of_the_camera():
    seen = run()
    waiting = ReceivedHealth(FIRST + 1, HealthMode.UNSAFE, "no frame from the camera")
    seen.told.insert(0, waiting)
    assert problems_of(seen) == []
    seen.told.insert(9, replace(waiting, at_ns=seen.told[8].at_ns + 1))
    assert problems_of(seen)[0] == "'no frame' was reported before the fault"


def test_a_fault_that_changed_no_mode_before_is_not_the_one_that_is_put_in():
    seen = run()
    seen.told[3] = replace(seen.told[3], faults=("inference exceeded its 6 ms",))
    seen.told = [
        replace(told, cause=told.cause + "; exceeded") if told.at_ns > BEGIN else told
        for told in seen.told
    ]
    assert seen.told[3].at_ns < BEGIN
    assert problems_of(seen, expecting(cause="exceeded")) == []


def test_what_is_said_of_the_silence_behind_the_drive_detects_nothing():
    seen = run()
    seen.told = [replace(told, cause="-", faults=()) for told in seen.told]
    at = seen.sent[-1] + 400 * MS
    seen.told.append(replace(seen.told[-1], at_ns=at, cause="no frame from the camera"))
    assert problems_of(seen, expecting(detected_within_ms=60_000.0)) == [
        "'no frame' was never reported"
    ]


def test_a_frame_report_tells_too():
    seen = run()
    index = next(i for i, report in enumerate(seen.reports) if report.stamp_ns >= END)
    seen.reports[index] = replace(seen.reports[index], reason="cut off")
    verdict = judge(expecting(cause="cut off", detected_within_ms=3000.0), seen)
    assert verdict.detected_as == "cut off"
    assert verdict.problems == []


def test_modes():
    assert problems_of(run(), expecting(told="DEGRADED")) == [
        "the mode was UNSAFE (no frame from the camera for 300 ms), at worst DEGRADED is expected",
        "a planner's mode was UNSAFE, at worst DEGRADED is expected",
    ]
    assert problems_of(run(), expecting(told="DEGRADED", at_worst="UNSAFE")) == []
    seen = run()
    seen.told = [replace(told, mode=HealthMode.NOMINAL) for told in seen.told]
    assert problems_of(seen) == ["the worst mode was NOMINAL, UNSAFE is expected"]


def test_nominal_must_not_be_told_while_the_fault_lasts():
    seen = run()
    at = next(i for i, told in enumerate(seen.told) if told.at_ns >= BEGIN + 1500 * MS)
    seen.told[at] = replace(seen.told[at], mode=HealthMode.NOMINAL)
    assert problems_of(seen) == ["the mode was NOMINAL 500 ms before the fault was over"]


def told_from(seen, begin_ns):
    """The same run, in which the mode is told later."""
    seen.told = [
        replace(told, mode=HealthMode.NOMINAL) if told.at_ns < begin_ns else told
        for told in seen.told
    ]
    seen.planned.modes = planner_modes(begin_ns)
    return seen


def planner_modes(unsafe_ns):
    """A planner that is UNSAFE from an instant until a second after the fault."""
    nominal, unsafe = HealthMode.NOMINAL, HealthMode.UNSAFE
    return [(0, nominal), (unsafe_ns, unsafe), (END + 1000 * MS, nominal)]


def test_a_unit_that_is_cut_off_cannot_tell_a_mode_but_a_planner_must_notice():
    seen, unheard = run(), expecting(detected_within_ms=2500)
    seen.told = [
        replace(told, at_ns=END + 5 * MS) if BEGIN <= told.at_ns < END else told
        for told in seen.told
    ]
    assert "mode UNSAFE was told only 5 ms after the fault was over" in problems_of(seen, unheard)
    seen.faults = [("network", BEGIN, END)]
    assert problems_of(seen, unheard) == []
    seen.planned.modes = planner_modes(END + 200 * MS)
    assert problems_of(seen, unheard) == [
        "a planner's mode UNSAFE was told only 200 ms after the fault was over"
    ]


def test_a_mode_must_be_told_before_the_fault_is_over():
    assert problems_of(told_from(run(), END - 100 * MS)) == []
    assert problems_of(told_from(run(), END + 200 * MS)) == [
        "mode UNSAFE was told only 200 ms after the fault was over",
        "a planner's mode UNSAFE was told only 200 ms after the fault was over",
    ]


def test_a_fault_at_an_instant_is_told_afterwards():
    seen = told_from(run(), END + 200 * MS)
    seen.begin_ns = seen.end_ns = END
    assert problems_of(seen, expecting(cause="")) == []


def test_a_run_that_was_not_well_before_the_fault_cannot_be_judged():
    seen = run()
    seen.told = [
        replace(told, mode=HealthMode.DEGRADED) if told.at_ns < BEGIN else told
        for told in seen.told
    ]
    assert problems_of(seen) == [
        "before the fault the mode was DEGRADED, not NOMINAL: nothing can be judged"
    ]


def test_recovery():
    assert problems_of(run(), expecting(recovered_within_ms=900.0)) == [
        "recovered after 1100 ms, at most 900 ms are expected"
    ]
    seen = run()
    seen.told = [
        replace(told, mode=HealthMode.UNSAFE) if told.at_ns > END else told for told in seen.told
    ]
    assert problems_of(seen) == ["recovered: never"]
    seen = run()
    seen.detections = [found for found in seen.detections if found[1] < END]
    assert "detections again: never" in problems_of(seen)


def test_frames_without_detections_are_counted_from_the_fault_on():
    seen = run()
    for index in (5, -5):
        lost = seen.reports[index]
        seen.reports[index] = replace(lost, status=FrameStatus.SUPERSEDED)
        seen.detections = [found for found in seen.detections if found[1] != lost.stamp_ns]
    assert problems_of(seen) == ["1 frames had no detections (0 FAILED), at most 0 are expected"]


@pytest.mark.parametrize("late, problems", [((-5,), 0), ((-5, -6), 1)])
def test_one_frame_may_be_late_without_the_fault(late, problems):
    seen = run()
    for index in late:
        lost = seen.reports[index]
        seen.reports[index] = replace(lost, status=FrameStatus.SKIPPED_LATE)
        seen.detections = [found for found in seen.detections if found[1] != lost.stamp_ns]
    assert len(problems_of(seen)) == problems


def test_frames_that_give_way_to_those_that_the_camera_had_late_are_no_problem():
    seen = run()
    for index in (-5, -6):
        lost = seen.reports[index]
        seen.reports[index] = replace(lost, status=FrameStatus.SUPERSEDED)
        seen.detections = [found for found in seen.detections if found[1] != lost.stamp_ns]
    seen.late = [(seen.sent[-6], 82 * MS)]
    assert problems_of(seen) == ["2 frames had no detections (0 FAILED), at most 1 are expected"]
    seen.late += [(seen.sent[-5], 49 * MS), (seen.sent[-4], 16 * MS)]
    assert problems_of(seen) == []


def test_frames_that_were_hardly_late_or_before_the_fault_excuse_no_loss():
    seen = run()
    lost = seen.reports[-5]
    seen.reports[-5] = replace(lost, status=FrameStatus.SUPERSEDED)
    seen.detections = [found for found in seen.detections if found[1] != lost.stamp_ns]
    seen.late = [(stamp_ns, 1) for stamp_ns in seen.sent] + [(BEGIN - MS, 82 * MS)]
    assert problems_of(seen) == ["1 frames had no detections (0 FAILED), at most 0 are expected"]


def test_a_graph_that_ended_is_a_failure():
    assert problems_of(Observations(failure="detector_node ended by signal SIGBUS")) == [
        "detector_node ended by signal SIGBUS"
    ]


def test_a_run_without_a_frame_has_not_passed():
    assert problems_of(Observations()) == ["no frame was sent"]


def test_without_a_fault_all_that_is_lost_once_the_graph_works_counts():
    stamps = [FIRST + i * PERIOD for i in range(1, 240)]
    seen = Observations(sent=stamps, first_ns=FIRST)
    seen.told = [
        ReceivedHealth(at, HealthMode.NOMINAL if at > 200 * MS else HealthMode.UNSAFE, "-")
        for at in range(-100 * MS, stamps[-1], 100 * MS)
    ]
    assert seen.working_ns(BEGIN) == 300 * MS + 1
    assert seen.working_ns(250 * MS) == 250 * MS
    seen.begin_ns = seen.end_ns = seen.working_ns(BEGIN)
    seen.detections = [(stamp + 8 * MS, stamp) for stamp in stamps if stamp > 200 * MS]
    skipped = FrameStatus.SUPERSEDED
    seen.reports = [
        ReceivedReport(stamp + 9 * MS, stamp, FrameStatus.OK if stamp > 200 * MS else skipped)
        for stamp in stamps
    ]
    seen.told[-1] = replace(seen.told[-1], frames_in=len(stamps), outs=len(stamps))
    seen.planned = planned(seen)
    nominal = SCENARIO.model_copy(
        update={"faults": (), "expect": Expectation(lost="nothing", lost_at_most=0)}
    )
    assert problems_of(seen, nominal) == []
    seen.reports[20] = replace(seen.reports[20], status=FrameStatus.FAILED)
    seen.told[9] = replace(seen.told[9], mode=HealthMode.UNSAFE)
    assert seen.reports[20].at_ns < BEGIN
    assert {text.split(",")[0] for text in problems_of(seen, nominal)} >= {
        "1 frames had no detections (1 FAILED)",
        "the mode was UNSAFE (-)",
    }


def test_frames_behind_the_end_are_accounted_for_and_judged_by_nothing_else():
    seen = run()
    lost, stamp_ns = seen.sent[-3:], seen.sent[-1] + 1000 * MS
    seen.reports = [
        replace(report, stamp_ns=0, at_ns=stamp_ns, status=FrameStatus.SUPERSEDED)
        if report.stamp_ns in lost
        else report
        for report in seen.reports
    ]
    seen.detections = [found for found in seen.detections if found[1] not in lost]
    missed = judge(SCENARIO, seen).miss_rate
    seen.closing = [stamp_ns]
    seen.reports.append(ReceivedReport(stamp_ns + 9 * MS, stamp_ns, FrameStatus.LATE))
    seen.detections.append((stamp_ns + 9 * MS, stamp_ns))
    seen.told.append(
        ReceivedHealth(stamp_ns - 600 * MS, HealthMode.UNSAFE, "no frame from the camera")
    )
    count = len(seen.sent) + 1
    seen.told.append(ReceivedHealth(stamp_ns + 50 * MS, HealthMode.UNSAFE, "-", (), count, count))
    verdict = judge(expecting(lost_at_most=3), seen)
    assert verdict.problems == []
    assert (verdict.sent, verdict.miss_rate) == (count, missed)
    assert "1 frames were sent after the end of the drive" in verdict.notes[0]
    seen.reports.pop(3)
    assert judge(expecting(lost_at_most=3), seen).lost_silently == 1


def test_a_fault_that_was_not_put_in_is_a_failure():
    seen = run()
    seen.not_put_in = ["camera_stop (faults.0) was not put in: the drive was over before its time"]
    assert problems_of(seen) == seen.not_put_in


def test_reports_for_machines_and_people():
    bad = run()
    del bad.reports[20]
    verdicts = [judge(SCENARIO, run()), judge(SCENARIO, bad)]
    result = verdicts_json(verdicts)
    assert (result["passed"], result["failed"]) == (1, 1)
    assert [verdict["passed"] for verdict in result["verdicts"]] == [True, False]
    suite = ElementTree.fromstring(verdicts_junit(verdicts, [9.0, 9.5]))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is None for case in suite] == [True, False]
    verdicts[1].problems.append("\x1b[31mred\x1b[0m")
    suite = ElementTree.fromstring(verdicts_junit(verdicts, [9.0, 9.5], ["c"]))
    assert (suite.get("tests"), suite.get("skipped")) == ("3", "1")
    assert suite[2].get("name") == "c"
    assert suite[2].find("skipped") is not None
    assert verdicts_table(verdicts).row_count == 2
    assert all(line.startswith("camera_stop: ") for line in problem_lines(verdicts))


def test_the_mode_must_be_told_in_time():
    assert problems_of(run(), expecting(told_within_ms=350.0)) == []
    assert problems_of(run(), expecting(told_within_ms=200.0)) == [
        "mode UNSAFE after 300 ms, at most 200 ms are expected",
        "a planner in mode UNSAFE after 300 ms, at most 200 ms are expected",
    ]


def test_a_planner_gets_what_others_get_and_is_told_the_mode():
    verdict = judge(SCENARIO, run())
    # The first detections are those by which the planner learns that there are any.
    assert verdict.planner_states == {"OK": len(run().detections)}
    assert (verdict.planner_told_ms, verdict.planner_lost) == (300, 0)


def test_a_planner_without_health_knows_by_the_silence_of_detections():
    seen = run()
    seen.planned = planned(seen, ("detections",))
    verdict = judge(SCENARIO, seen)
    assert verdict.problems == []
    assert verdict.planner_told_ms == pytest.approx(500 - PERIOD / MS + 8, abs=25)


def test_a_planner_must_know_of_what_did_not_reach_it():
    seen = run()
    at_ns, stamp_ns = seen.detections.pop(20)
    seen.planned = planned(seen)
    seen.detections.insert(20, (at_ns, stamp_ns))
    assert problems_of(seen) == ["a planner missed the detections of 1 frames and did not know it"]
    seen.planned.lost += 1
    assert problems_of(seen) == []
    seen.planned = planned(Observations())
    missed = sum(at_ns > seen.detections[0][0] + 3000 * MS for at_ns, _ in seen.detections)
    assert f"a planner missed the detections of {missed} frames and did not know it" in (
        problems_of(seen)
    )


def test_a_planner_must_not_be_told_of_a_better_mode_or_refuse_what_is_right():
    seen = run()
    at_ns = BEGIN + 1000 * MS
    seen.planned.modes += [(at_ns, HealthMode.DEGRADED), (at_ns + MS, HealthMode.UNSAFE)]
    seen.planned.modes.sort()
    assert problems_of(seen) == ["a planner left mode UNSAFE before the fault was over"]
    seen = run()
    seen.planned.wrong["/perception/health/protected: CRC"] += 2
    assert problems_of(seen) == [
        "a planner refused 2 messages of /perception/health/protected: CRC"
    ]
    seen = run()
    seen.planned.modes = [(0, HealthMode.NOMINAL)]
    assert problems_of(seen) == ["a planner in mode UNSAFE: never"]


def test_a_planner_to_which_everything_comes_too_late_was_never_well():
    seen = run()
    seen.planned = planned(seen, late_ns=200 * MS)
    assert seen.planned.states == {"LATE": len(seen.detections)}
    assert problems_of(seen) == [
        "before the fault a planner's mode was UNSAFE, at worst DEGRADED is expected: nothing can "
        "be judged",
        "a planner recovered: never",
    ]


def test_a_planner_whose_health_stops_with_the_fault_does_not_recover():
    seen = run()
    heard = replace(seen, told=[told for told in seen.told if told.at_ns < BEGIN + 1000 * MS])
    seen.planned = planned(heard)
    assert problems_of(seen) == ["a planner recovered: never"]


def test_a_planner_is_held_to_the_worst_mode_that_is_allowed():
    seen = run()
    seen.clock = ClockOffset(0, 1)
    nominal = expecting(cause="", told="NOMINAL")
    seen.told = [replace(told, mode=HealthMode.NOMINAL) for told in seen.told]
    seen.planned.modes = [(0, HealthMode.NOMINAL)]
    assert problems_of(seen, nominal) == []
    seen.planned.modes += [(END, HealthMode.DEGRADED), (END + MS, HealthMode.NOMINAL)]
    assert problems_of(seen, nominal) == [
        "a planner's mode was DEGRADED, at worst NOMINAL is expected"
    ]
    after_ns = seen.sent[-1] + 250 * MS  # it rightly misses a camera that has ended
    seen.planned.modes = [(0, HealthMode.NOMINAL), (after_ns, HealthMode.DEGRADED)]
    assert problems_of(seen, nominal) == []


def test_a_planner_on_one_machine_may_be_degraded_by_the_bench_itself():
    seen = run()
    unsafe, degraded = HealthMode.UNSAFE, HealthMode.DEGRADED
    seen.planned.modes = [(0, degraded), (END - MS, unsafe), (END + 900 * MS, degraded)]
    assert problems_of(seen) == []
    seen.clock = ClockOffset(0, 1)
    assert problems_of(seen) == [
        "before the fault a planner's mode was DEGRADED, at worst NOMINAL is expected: nothing can "
        "be judged",
        "a planner recovered: never",
    ]


def test_a_planner_recovers_over_a_network_when_it_is_nominal():
    seen, limits = run(), expecting(recovered_within_ms=1100.0)
    assert problems_of(seen, limits) == []
    seen.clock = ClockOffset(0, 1)
    assert problems_of(seen, limits) == []
    seen.planned.modes[-1] = (END + 2300 * MS, HealthMode.NOMINAL)
    assert problems_of(seen, limits) == [
        "a planner recovered after 2300 ms, at most 2200 ms are expected"
    ]


def test_what_a_planner_keeps_from_before_the_graph_worked_is_no_fault():
    seen = run()
    seen.clock = ClockOffset(0, 1)
    seen.begin_ns = seen.end_ns = seen.working_ns(BEGIN)
    modes = seen.planned.modes
    nominal_ns = next(at_ns for at_ns, mode in modes if mode is HealthMode.NOMINAL)
    assert seen.begin_ns < nominal_ns < seen.begin_ns + 1100 * MS
    seen.told = [replace(told, mode=HealthMode.NOMINAL) for told in seen.told]
    seen.planned.modes = [change for change in modes if change[0] <= nominal_ns]
    nominal = expecting(cause="", told="NOMINAL")
    assert problems_of(seen, nominal) == []
    seen.planned.modes = [(FIRST, HealthMode.UNSAFE)]
    assert problems_of(seen, nominal)[-2:] == [
        "a planner's mode was UNSAFE, at worst NOMINAL is expected",
        "a planner recovered: never",
    ]


def test_missed_deadlines_are_a_share_of_all_frames():
    seen = run()
    for index in (5, 6):
        seen.reports[index] = replace(seen.reports[index], status=FrameStatus.LATE)
    verdict = judge(expecting(miss_rate_at_most=0.02), seen)
    assert (verdict.problems, verdict.miss_rate) == ([], pytest.approx(2 / len(seen.sent)))
    assert problems_of(seen, expecting(miss_rate_at_most=0.005)) == [
        "1.1% of the frames missed the deadline, at most 0.5% may"
    ]


def test_a_miss_rate_means_nothing_where_clocks_are_apart():
    seen = run()
    seen.clock = ClockOffset(3.0, 2.5)
    assert problems_of(seen, expecting(miss_rate_at_most=0.1)) == []
    seen.clock = ClockOffset(3.0, 0.5)
    (problem,) = problems_of(seen, expecting(miss_rate_at_most=0.1))
    assert problem.startswith("the unit's clock differs by 3.00 ms (± 0.50 ms)")


def test_agreement_has_a_floor_and_a_ceiling():
    seen = run()
    seen.agreement = 0.8
    assert problems_of(seen, expecting(agreement_at_least=0.7, agreement_at_most=0.9)) == []
    assert problems_of(seen, expecting(agreement_at_least=0.9)) == [
        "80% agree with the undisturbed drive, at least 90% are expected"
    ]
    assert "has no effect" in problems_of(seen, expecting(agreement_at_most=0.5))[0]
    seen.agreement = None
    assert "nothing was detected" in problems_of(seen, expecting(agreement_at_least=0.1))[0]


def test_detections_that_the_network_lost_are_told_by_their_reports():
    seen = run()
    del seen.detections[20]
    verdict = judge(expecting(lost_on_the_way_at_most=1), seen)
    assert (verdict.problems, verdict.lost_silently) == ([], 0)


def rebooted():
    """A unit that is killed at `BEGIN`, and heard of again half a second after `END`."""
    seen, up_ns = run(), END + 500 * MS
    seen.sent = [FIRST + i * PERIOD for i in range(1, 240)]  # its camera goes on
    gone = range(BEGIN - 50 * MS, up_ns)
    seen.reports = [
        ReceivedReport(stamp + 9 * MS, stamp, FrameStatus.OK)
        for stamp in seen.sent
        if stamp not in gone
    ]
    seen.detections = [(report.at_ns, report.stamp_ns) for report in seen.reports]
    before = [told for told in seen.told if told.at_ns < BEGIN]
    again = [
        replace(before[0], at_ns=at, frames_in=0, outs=0) for at in range(up_ns, 8000 * MS, MS)
    ]
    seen.told = before + again
    seen.faults = [("unit_reboot", BEGIN, END)]
    return seen


REBOOT = SCENARIO.model_copy(
    update={
        "faults": (RebootFault(kind="unit_reboot", for_s=2),),
        "network": Conditions(),
        "expect": Expectation(lost="-", at_worst="UNSAFE", detections_within_ms=1000),
    }
)


def test_a_unit_that_was_down_accounts_for_the_frames_before_and_after():
    verdict = judge(REBOOT, rebooted())
    assert verdict.problems == []
    assert verdict.while_down == pytest.approx(2600 / 33, abs=2)
    seen = rebooted()
    del seen.reports[-5]
    assert judge(REBOOT, seen).lost_silently == 1
    del seen.reports[3]
    assert judge(REBOOT, seen).lost_silently == 2


def test_another_fault_beside_a_reboot_excuses_no_frame():
    seen = rebooted()
    seen.faults.append(("night", BEGIN - 1500 * MS, END + 1500 * MS))
    seen.begin_ns, seen.end_ns = seen.faults[-1][1:]
    down = judge(REBOOT, seen).while_down
    assert down == judge(REBOOT, rebooted()).while_down
    for index in (-5, next(i for i, r in enumerate(seen.reports) if r.stamp_ns > seen.begin_ns)):
        del seen.reports[index]
    assert judge(REBOOT, seen).lost_silently == 2
