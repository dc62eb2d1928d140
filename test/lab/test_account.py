"""The account of made-up runs: every frame that was sent, and what is known of it."""

from dataclasses import replace

import pytest
from made_runs import MS, in_time, report

from perception_nodes.core.frame import MAY_BE_OUT, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.lab.checks import accounting, problems
from perception_nodes.report.account import HealthMessage, account

STAMPS = [1_000 * MS + i * 33 * MS for i in range(100)]
DIED = "detector 7 died; 8 took over"
HELD = report(STAMPS[0], FrameStatus.FAILED, reason=DIED.encode() + MAY_BE_OUT)
OUTAGE = report(0, FrameStatus.FAILED, reason=b"one report for 4 frames that were lost in a row")


def made(changes=None, without_detections=(), latency_ms=8.0):
    """A run in which some reports are others, and detections of some frames did not arrive."""
    run = in_time(STAMPS, latency_ms)
    for number, status in (changes or {}).items():
        run.reports[number] = report(STAMPS[number], status)
    lost = {STAMPS[number] for number in without_detections}
    run.detections = [found for found in run.detections if found[1] not in lost]
    return run


def test_all_in_time():
    found = account(made())
    assert (len(found.frames), found.missed, found.silent) == (100, [], 0)
    assert found.arrived_late(10.0) == 0
    assert found.latencies_ms == [8.0] * 100
    assert problems(accounting(found)) == []


def test_a_miss_that_is_reported_is_not_silent():
    found = account(made({3: FrameStatus.LATE, 4: FrameStatus.SKIPPED_LATE}, [4]))
    assert (len(found.missed), found.miss_rate, found.silent) == (2, 0.02, 0)
    assert found.statuses == {"OK": 98, "LATE": 1, "SKIPPED_LATE": 1}


@pytest.mark.parametrize(
    ("reports", "without_detections", "quantity"),
    [
        (lambda all: all[1:], (), {"unreported": 1, "unannounced": 1}),
        (lambda all: all, [0], {"missing": 1}),
        (lambda all: [*all, all[7]], (), {"surplus": 1, "unknown": 1}),
        (lambda all: [*all[1:], *2 * [replace(all[0], report_number=1)]], (), {}),
        (lambda all: [replace(all[0], stamp_ns=5), *all[1:]], [0], {"unreported": 1, "unknown": 1}),
        (lambda all: [report(STAMPS[0], FrameStatus.FAILED), *all[1:]], (), {"unannounced": 1}),
        # Of a frame that its detector held as it died, detections may be out.
        (lambda all: [HELD, *all[1:]], (), {}),
        # One that could not be read has a report without a stamp.
        (lambda all: [report(0, FrameStatus.FAILED), *all[1:]], [0], {}),
        (lambda all: [report(0), *all[1:]], [0], {"unreported": 1}),
        # An outage has one report, which says of how many frames.
        (lambda all: [OUTAGE, *all[5:]], range(5), {"unreported": 1}),
    ],
)
def test_what_does_not_agree(reports, without_detections, quantity):
    run = made(without_detections=without_detections)
    run.reports = reports(run.reports)
    found = account(run)
    assert sum(found.statuses.values()) + found.unreported == len(STAMPS)
    names = ("unreported", "surplus", "unknown", "missing", "unannounced")
    assert {name: getattr(found, name) for name in names} == dict.fromkeys(names, 0) | quantity
    assert len(problems(accounting(found))) == len(quantity)


def test_reports_without_a_stamp_that_the_warm_up_accounts_for_excuse_no_frame():
    run = made(without_detections=range(12))
    run.warm_up = set(STAMPS[:10])
    run.reports = [report(0, FrameStatus.SUPERSEDED)] * 3 + run.reports[12:]
    assert (len(account(run).frames), account(run).silent) == (90, 2)
    run.reports += [report(stamp) for stamp in STAMPS[:8]]
    assert account(run).unreported == 1


def test_two_frames_with_one_stamp_are_two_frames():
    run = made({4: FrameStatus.FAILED}, [4])
    run.sent[4] = run.sent[5]
    run.reports[4] = replace(run.reports[4], stamp_ns=STAMPS[5])
    found = account(run)
    assert (found.silent, found.unknown, found.unannounced, len(found.missed)) == (0, 0, 0, 1)


def test_frames_without_detections_are_the_slowest_and_lost_on_the_way_may_be_allowed():
    found = account(made(without_detections=[0, 1]))
    assert found.latency_ms() == {"p50": 8.0, "p99": None, "p99_9": None, "max": None}
    assert problems(accounting(found, lost_on_the_way=2)) == []
    assert problems(accounting(found, lost_on_the_way=1)) == [
        "detections that were reported as published and never arrived: 2, expected: at most 1"
    ]


def test_detections_that_arrive_late_are_counted_though_published_in_time():
    assert account(made(latency_ms=10.5)).arrived_late(10.0) == 100


def test_a_miss_is_the_hosts_where_it_had_a_processor_from_capture_to_arrival():
    run = made(dict.fromkeys((3, 4, 5), FrameStatus.LATE), [5], 12.0)
    asked = []

    def host_took(begin_ns, end_ns):
        asked.append((begin_ns, end_ns))
        return begin_ns != STAMPS[3]

    assert account(run).missed_by_host(host_took, 10.0) == 2
    late_ns = [12 * MS, 12 * MS, 10 * MS]
    assert asked == [(stamp, stamp + ns) for stamp, ns in zip(STAMPS[3:6], late_ns, strict=True)]


def test_closing_frames_must_be_accounted_for_and_nothing_else_is_judged_by_them():
    run = made()
    run.closing = [STAMPS[-1] + 1000 * MS]
    assert (account(run).sent, account(run).unreported) == (101, 1)
    run.reports.append(report(run.closing[0], FrameStatus.LATE))
    run.detections.append((run.closing[0] + MS, run.closing[0]))
    found = account(run)
    assert (found.silent, len(found.frames), found.miss_rate) == (0, 100, 0)


def test_frames_of_a_live_camera_are_known_by_their_reports():
    run = made({4: FrameStatus.LATE}, [5])
    run.sent = None
    found = account(run)
    assert (len(found.frames), len(found.missed), found.missing) == (100, 2, 1)


def test_health_must_balance():
    run = made()
    mode = HealthMode.NOMINAL
    run.health = [HealthMessage(0, mode, frames_in=9, outs=8), HealthMessage(1, mode)]
    run.health.append(HealthMessage(2, mode, frames_in=100, outs=99, in_flight=1))
    run.health.append(HealthMessage(3, HealthMode.UNSAFE, by_watchdog=False))
    run.reports.append(OUTAGE)  # of 4 frames, which health counts as one
    found = account(run)
    assert (found.entered, found.unbalanced, found.in_flight) == (103, 1, 1)
