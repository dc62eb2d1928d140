"""The state machine of health, driven by a clock of the test's own."""

import pytest

from perception_nodes.core.frame import CROWDED, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.watchdog.faults import Fault
from perception_nodes.watchdog.health import SETTLED_FRAMES, Health, HealthLimits, Transition

MS = 1_000_000
LIMITS = HealthLimits(
    unsafe_after_ms=500, window_frames=10, degraded_miss_rate=0.2, recovery_ms=1000
)
GONE = Fault("crash", "detector 7 is gone", HealthMode.UNSAFE)
NOTED = Fault("starved", "late by 30 ms")
OK, LATE, FAILED = FrameStatus.OK, FrameStatus.LATE, FrameStatus.FAILED
SKIPPED = FrameStatus.SKIPPED_LATE


class Run:
    """Health under a clock that stands at `ms`."""

    def __init__(self, ms=0):
        self.ms = ms
        self.health = Health(LIMITS, ms * MS)

    def frames(self, status, count=1, every_ms=33, faults=()):
        """Frames of one status; returns the transitions on the way."""
        seen = []
        for _ in range(count):
            self.ms += every_ms
            self.health.frame(status, self.ms * MS, "lab8 is unknown" if status == FAILED else "")
            seen.append(self.health.update(list(faults), self.ms * MS))
        return [transition for transition in seen if transition]

    def wait(self, ms, faults=()):
        self.ms += ms
        return self.health.update(list(faults), self.ms * MS)

    @property
    def mode(self):
        return self.health.mode.name


@pytest.fixture
def nominal():
    run = Run()
    run.frames(OK, 20)
    assert run.mode == "NOMINAL"
    return run


def test_starts_unsafe_since_nothing_was_detected():
    run = Run()
    assert (run.mode, run.health.cause) == ("UNSAFE", "no detections yet")
    assert run.wait(10_000) is None
    assert run.mode == "UNSAFE"


@pytest.mark.parametrize("start_ms", [0, 1, 1_000_000])
def test_the_first_detections_end_the_start_at_once(start_ms):
    run = Run(start_ms)
    run.wait(100, faults=[GONE])
    assert run.health.cause == "detector 7 is gone"
    assert run.frames(OK, SETTLED_FRAMES - 1) == []
    why = "detections arrive in time"
    assert run.frames(OK) == [Transition(HealthMode.UNSAFE, HealthMode.NOMINAL, why)]


def test_one_detection_among_frames_that_are_abandoned_does_not_end_the_start():
    run = Run()
    run.frames(SKIPPED, 28)
    assert run.frames(OK) == run.frames(SKIPPED, 14) == []
    assert run.mode == "UNSAFE"


def test_frames_before_the_graph_was_ready_do_not_count():
    run = Run()
    for _ in range(20):
        run.health.frame(FAILED, 0, "nobody works", is_early=True)
    assert run.wait(0) is None
    assert run.health.cause.endswith("20 frames gave none, the last one FAILED: nobody works")
    run.frames(OK, SETTLED_FRAMES)
    assert run.mode == "NOMINAL"


def test_a_frame_that_is_not_published_does_not_end_the_start():
    run = Run()
    assert run.frames(FAILED, 5) == []
    cause = "no detections yet; 5 frames gave none, the last one FAILED: lab8 is unknown"
    assert (run.mode, run.health.cause) == ("UNSAFE", cause)


def test_silence_is_unsafe_after_the_limit(nominal):
    assert nominal.wait(500) is None
    transition = nominal.wait(1)
    assert transition.mode is HealthMode.UNSAFE
    assert transition.cause == "no detections for 500 ms"
    nominal.frames(FrameStatus.SUPERSEDED)
    gave_none = "; 1 frame gave none, the last one SUPERSEDED"
    assert nominal.health.cause == "no detections for 500 ms" + gave_none


def test_a_fault_that_harms_no_frame_changes_nothing(nominal):
    assert nominal.frames(OK, 50, faults=[NOTED]) == []
    assert nominal.health.cause == "detections arrive in time"


def test_the_worst_of_several_faults_decides(nominal):
    degrading = Fault("clock", "the wall clock jumped", HealthMode.DEGRADED)
    assert nominal.wait(1, [NOTED, degrading]).cause == "the wall clock jumped"
    transition = nominal.wait(1, [degrading, GONE])
    assert (transition.mode, transition.cause) == (HealthMode.UNSAFE, "detector 7 is gone")
    assert nominal.health.previous == HealthMode.DEGRADED


@pytest.mark.parametrize("abandoned", [FrameStatus.SKIPPED_LATE, FrameStatus.SUPERSEDED])
def test_frames_abandoned_regularly_are_skipping(nominal, abandoned):
    for _ in range(10):
        nominal.frames(abandoned)
        nominal.frames(OK)
    assert nominal.mode == "SKIPPING"
    assert nominal.health.cause == "5 of the last 10 frames were abandoned"
    nominal.wait(1, [Fault("slow network", "29 ms", HealthMode.DEGRADED)])
    assert nominal.health.cause == "5 of the last 10 frames were abandoned; 29 ms"


@pytest.mark.parametrize("missed", [LATE, FAILED, FrameStatus.SKIPPED_LATE, FrameStatus.SUPERSEDED])
def test_more_misses_than_the_limit_degrade(nominal, missed):
    nominal.frames(missed, 2)
    assert nominal.mode == "NOMINAL"
    (transition,) = nominal.frames(missed)
    assert transition.mode is HealthMode.DEGRADED
    failed = ", of which 3 FAILED: lab8 is unknown" if missed == FAILED else ""
    assert transition.cause == "3 of the last 10 frames missed the deadline" + failed


def test_where_none_is_in_time_for_long_nobody_may_rely_on_them(nominal):
    nominal.frames(LATE, 80)
    nominal.frames(OK, 1)
    nominal.frames(LATE, 90)
    assert nominal.mode == "DEGRADED"
    nominal.frames(LATE, 10)
    assert (nominal.mode, nominal.health.cause) == ("UNSAFE", "no detections in time for 3000 ms")
    nominal.frames(OK, 80)
    assert nominal.mode == "NOMINAL"


def test_rare_frames_that_are_all_in_time_are_safe():
    run = Run()
    run.health = Health(HealthLimits(unsafe_after_ms=10_000), 0)
    run.frames(OK, 40, every_ms=5000)
    run.wait(4000)
    assert run.mode == "NOMINAL"


@pytest.mark.parametrize("missed", [LATE, FAILED])
def test_frames_that_missed_and_those_of_a_smaller_model_count_together(nominal, missed):
    nominal.frames(missed)
    nominal.frames(FrameStatus.DEGRADED)
    assert nominal.mode == "NOMINAL"
    (transition,) = nominal.frames(FrameStatus.DEGRADED)
    failed = ", of which 1 FAILED: lab8 is unknown" if missed == FAILED else ""
    assert transition.mode is HealthMode.DEGRADED
    assert transition.cause == (
        f"1 of the last 10 frames missed the deadline{failed}; "
        "2 of the last 10 frames were left to the smaller model"
    )


def test_a_better_mode_must_hold_before_it_is_entered(nominal):
    nominal.wait(600)
    assert nominal.mode == "UNSAFE"
    assert nominal.frames(OK, 20, every_ms=50) == []
    (transition,) = nominal.frames(OK, 1, every_ms=50)
    assert (transition.previous, transition.mode) == (HealthMode.UNSAFE, HealthMode.NOMINAL)


def test_a_relapse_starts_the_wait_anew(nominal):
    nominal.wait(600)
    nominal.frames(OK, 15, every_ms=60)
    nominal.wait(600)
    assert nominal.frames(OK, 16, every_ms=60) == []
    assert nominal.mode == "UNSAFE"


def test_a_mode_that_was_better_for_an_instant_alone_is_not_entered(nominal):
    """Out of UNSAFE, mostly degraded and in the last moment nominal: it is DEGRADED."""
    nominal.wait(600)
    nominal.frames(LATE, 10, every_ms=60)
    transitions = nominal.frames(OK, 8, every_ms=60)
    assert [t.mode.name for t in transitions] == ["DEGRADED"]
    assert "missed the deadline" in transitions[0].cause


def test_a_worse_mode_is_entered_at_once_also_while_recovering(nominal):
    nominal.frames(LATE, 5)
    nominal.frames(OK, 15)
    assert nominal.wait(501).mode is HealthMode.UNSAFE


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("openvino stands in", ": openvino stands in"),
        (f"{CROWDED.decode()}; openvino stands in", ": openvino stands in"),
        (CROWDED.decode(), " were left to the smaller model"),
    ],
)
def test_why_frames_are_degraded_is_told_and_no_crowd(nominal, reason, told):
    for _ in range(3):
        nominal.ms += 33
        nominal.health.frame(FrameStatus.DEGRADED, nominal.ms * MS, reason)
    nominal.health.update([], nominal.ms * MS)
    assert nominal.health.cause == "3 of the last 10 frames" + told
