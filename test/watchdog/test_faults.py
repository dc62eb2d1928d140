"""Each fault, driven by facts and a clock of the test's own."""

import pytest

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import FrameFlag, FrameRecord, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.drives.synthetic_storage import PICTURES
from perception_nodes.watchdog.faults import (
    ClockJump,
    ExpectedRate,
    FaultLimits,
    FrameRateLoss,
    FrozenPicture,
    LatencyDrift,
    MemoryGrowth,
    NoFrame,
    NothingFound,
    ObjectsVanished,
    SlowNetwork,
    SlowTransport,
    StageOverrun,
    WrongStamp,
)

MS = 1_000_000
HOUR_NS = 3600 * 10**9
LIMITS = FaultLimits(
    no_frame_ms=100, frozen_frames=3, window_frames=10, memory_window_s=60, memory_growth_mb=64
)


def test_a_camera_is_gone_after_the_limit_and_back_with_its_next_frame():
    camera = NoFrame(LIMITS)
    assert camera.update(10_000 * MS) is None, "before the first frame it is the start"
    camera.frame(10_000 * MS)
    assert camera.update(10_100 * MS) is None
    fault = camera.update(10_101 * MS)
    assert (fault.mode, fault.text) == (HealthMode.UNSAFE, "no frame from the camera for 100 ms")
    camera.frame(10_102 * MS)
    assert camera.update(10_103 * MS) is None


def test_the_same_picture_again_and_again_is_frozen():
    frozen = FrozenPicture(LIMITS)
    faults = [frozen.update(picture) for picture in (7, 7, 8, 8, 0, 8, 9)]
    assert [fault is not None for fault in faults] == [False] * 5 + [True, False]
    assert faults[5].text == "the camera has sent the same picture 3 times"


def test_a_few_pictures_in_turn_are_frozen_too():
    frozen = FrozenPicture(LIMITS)
    faults = [frozen.update(picture) for picture in (1, 2, 3, 2, 3, 2, 3, 4, 5)]
    assert [fault is not None for fault in faults] == [False] * 4 + [True] * 3 + [False] * 2
    assert faults[6].text == "the camera repeats the same 2 pictures, 5 times"
    assert not any([frozen.update(100 + n % 17) for n in range(200)]), "a longer loop"
    # A slow machine skips frames of a generated drive.
    assert not any([frozen.update(1 + n % PICTURES) for n in range(200) if n % PICTURES % 4])


def reported(status, way_ms, flags=0):
    """The report of a frame that came so long after its capture."""
    times_ns = {"ingested_ns": 10**12 + way_ms * MS, "capture_ns": 10**12}
    return FrameRecord(status=status, flags=flags, **times_ns)


def test_frames_that_come_too_late_to_be_in_time_name_the_transport_and_the_remedy():
    transport, skipped = SlowTransport(10.0, LIMITS), FrameStatus.SKIPPED_LATE
    assert not any([transport.update(reported(skipped, 30)) for _ in range(5)])
    fault = transport.update(reported(skipped, 28))
    assert fault.mode is HealthMode.DEGRADED
    assert fault.text.startswith("transport took 30 ms of the 10 ms that a frame has; ")
    assert "/config/fastdds.xml" in fault.text
    assert fault.text.endswith("or allow more with deadline_ms:=40")
    for _ in range(4):
        fault = transport.update(reported(FrameStatus.LATE, 30))
    assert fault.mode is HealthMode.UNSAFE
    answered = [transport.update(reported(FrameStatus.OK, 30)) for _ in range(10)]
    assert answered[-1] is None, "where there is time enough"


@pytest.mark.parametrize(
    "report",
    [reported(FrameStatus.LATE, 4), reported(FrameStatus.LATE, 30, FrameFlag.CLOCK_SUSPECT)],
    ids=["the graph itself was late", "an age that nobody knows"],
)
def test_what_is_late_for_another_reason_does_not_name_the_transport(report):
    transport = SlowTransport(10.0, LIMITS)
    assert not any([transport.update(report) for _ in range(20)])


def test_a_network_that_is_too_slow_is_told_with_the_remedy():
    """A frame in ten is inferred, late; the others are skipped, or left to a smaller network."""
    network, late = SlowNetwork(Budget(), LIMITS), reported(FrameStatus.LATE, 1)
    skipped = reported(FrameStatus.SKIPPED_LATE, 1)
    superseded = reported(FrameStatus.SUPERSEDED, 1)
    late.preprocessed_ns, late.inferred_ns = 10**12, 10**12 + 29 * MS
    frames = [skipped] * 3 + [superseded] * 6 + [late]
    assert [bool(network.update(one)) for one in frames] == [False] * 9 + [True]
    fault = network.update(frames[0])
    assert fault.text.startswith("inference takes 29 ms, a frame has 10; ")
    assert fault.text.endswith("or allow more with deadline_ms:=60")
    assert not [network.update(reported(FrameStatus.DEGRADED, 1)) for _ in range(10)][-1]


def test_less_than_the_expected_rate_is_told_for_as_long_as_it_lasts():
    rate, now_ns = ExpectedRate(FaultLimits(expected_rate_hz=30.0)), HOUR_NS
    texts = []
    for period_ms in [33] * 60 + [100] * 3000 + [33] * 60:
        now_ns += period_ms * MS
        fault = rate.update(now_ns)
        texts.append(fault and fault.text)
    assert not any(texts[:60])
    assert all(texts[75:3060]), "after 1.5 s"
    assert texts[3059] == "10.0 frames a second, expected are 30"
    assert texts[-1] is None
    learns = ExpectedRate(FaultLimits())
    assert not any([learns.update(HOUR_NS + number * 10**9) for number in range(9)])


def test_objects_that_vanish_are_told_once_that_lasts_longer_than_ever():
    vanished, now_ns = ObjectsVanished(FaultLimits(empty_frames=20)), HOUR_NS

    def show(objects, frames, period_ms=50):
        nonlocal now_ns
        found = []
        for _ in range(frames):
            now_ns += period_ms * MS
            found.append(vanished.update(objects, now_ns))
        return found

    assert not any(show(0, 500)), "there were none"
    assert not any(show(3, 19) + show(0, 200) + show(1, 1))
    assert not any(show(0, 600)), "ten seconds without any are known"
    fault = show(0, 1)[0]
    text = "no object for 30 s, after there were some in 20 frames, never 10.0 s apart"
    assert (fault.mode, fault.text) == (HealthMode.DEGRADED, text)
    assert not any(show(1, 1) + show(0, 1700))
    assert show(0, 110)[-1]
    assert not any(show(1, 30) + show(0, 50, period_ms=5000)), "nothing was looked at"


def test_a_camera_without_noise_may_repeat_itself():
    frozen = FrozenPicture(FaultLimits(frozen_frames=0))
    assert [frozen.update(7) for _ in range(9)] == [None] * 9


def test_stamps_must_go_on():
    stamp = WrongStamp()
    assert stamp.update(5 * MS) is None
    assert stamp.update(0) is None
    assert stamp.update(5 * MS).text == "a frame's stamp is that of the frame before"
    assert stamp.update(3 * MS).text == "a frame's stamp goes back by 2.0 ms"
    assert stamp.update(4 * MS) is None


@pytest.mark.parametrize(("jump_ms", "found"), [(10, False), (-49, False), (50, True), (-80, True)])
def test_a_wall_clock_that_is_set_is_seen_once(jump_ms, found):
    clock = ClockJump(LIMITS)
    assert clock.update(0, 10**18) is None
    assert clock.update(10 * MS, 10**18 + 10 * MS) is None
    fault = clock.update(20 * MS, 10**18 + (20 + jump_ms) * MS)
    assert (fault is not None) == found
    assert fault is None or f"{jump_ms:+d} ms" in fault.text
    assert clock.update(30 * MS, 10**18 + (30 + jump_ms) * MS) is None


HALF = "25.0 frames a second instead of 50.0"


@pytest.mark.parametrize(
    ("periods_ms", "found"),
    [
        ([20] * 20 + [40] * 10 + [20] * 10, {19: None, 29: HALF, -1: None}),
        ([20] * 20 + [2000] + [20] * 20, {}),  # gone
        ([0.02] * 4 + [20] * 40, {}),  # waited at the start
        # A graph learns of what the camera sent before: many frames some microseconds apart.
        ([20] * 4 + [0.015] * 999 + [5] + [20] * 36, {}),
        ([40, 20, 20] * 20, {-1: "37.5 frames a second instead of 50.0"}),  # dropped
        ([20] * 20 + [120_000] + [40] * 20, {-1: HALF}),
        (
            [20] * 20 + [40] * 1600 + [80] * 10,
            {40: HALF, 1530: None, 1619: None, -1: "12.5 frames a second instead of 25.0"},
        ),
        # A graph learns of what the camera sent before: many frames some microseconds apart.
        ([20] * 4 + [0.015] * 999 + [20] * 36, {}),
        # After a restart, those that had waited come 2 ms apart.
        *(([2] * waited + [33] * 100, {}) for waited in range(11)),
    ],
)
def test_a_frame_rate_is_compared_with_the_usual_one(periods_ms, found):
    """`found` has texts of faults by the frame; without any there is none for any frame."""
    rate, now_ns, texts = FrameRateLoss(LIMITS), HOUR_NS, []
    for period_ms in periods_ms:
        now_ns += round(period_ms * MS)
        fault = rate.update(now_ns)
        texts.append(fault and fault.text)
    assert {frame: texts[frame] for frame in found} == found
    assert found or not any(texts)


def test_a_stage_may_overrun_now_and_then():
    stage = StageOverrun("inference", 6.0, LIMITS)
    assert stage.update(9.0) is None
    fault = stage.update(7.0)
    assert fault.name == "inference overrun"
    assert fault.text == ("inference exceeded its 6.0 ms in 2 of the last 2 frames, up to 9.0 ms")
    assert [stage.update(5.0) for _ in range(10)][-1] is None


def test_latency_is_compared_with_that_after_the_start():
    drift = LatencyDrift(LIMITS)
    assert not any([drift.update(50.0) for _ in range(10)]), "warming up"
    assert not any([drift.update(6.0) for _ in range(10)])
    assert not any([drift.update(8.9) for _ in range(10)])
    fault = [drift.update(9.5) for _ in range(10)][-1]
    assert fault.text == "latency is 9.5 ms, it was 6.0 ms after the start"
    assert [drift.update(6.0) for _ in range(10)][-1] is None


@pytest.mark.parametrize(
    ("megabytes_at", "found"),
    [
        (lambda second: 300, False),
        (lambda second: 300 if second < 10 else 900, False),
        (lambda second: 300 + second, False),
        (lambda second: 300 + 2 * second, True),
    ],
    ids=["steady", "loaded once", "slow", "leak"],
)
def test_memory_that_grows_through_the_whole_window_is_a_leak(megabytes_at, found):
    memory = MemoryGrowth("detector 7", LIMITS)
    faults = [memory.update(megabytes_at(s) * 1_000_000, s * 10**9) for s in range(120)]
    assert any(faults) == found
    if found:
        assert next(filter(None, faults)).text.startswith("detector 7 has grown by 120 MB in 60 s")


def test_a_model_that_never_finds_anything_is_suspicious_until_it_does():
    nothing = NothingFound(FaultLimits(empty_frames=5))
    assert [nothing.update(0) for _ in range(4)] == [None] * 4
    fault = nothing.update(0)
    assert (fault.mode, fault.name) == (HealthMode.NOMINAL, "nothing found")
    assert fault.text.startswith("no object in the 5 frames since the watchdog started, which is")
    assert nothing.update(1) is None
    assert [nothing.update(0) for _ in range(9)] == [None] * 9
