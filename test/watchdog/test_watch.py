"""The faults together, fed with records and reports as the watchdog does."""

import pytest

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import FrameFlag, FrameRecord
from perception_nodes.core.health import HealthMode
from perception_nodes.core.records import InputState, Takeover, WatchdogGone
from perception_nodes.watchdog.faults import FaultLimits
from perception_nodes.watchdog.ledger import Ledger
from perception_nodes.watchdog.watch import Watch

MS = 1_000_000
WALL = 1_700_000_000_000 * MS


LOST = "3 records were lost on the way to the watchdog"


class Run:
    """A watch under a clock that stands at `ms`."""

    def __init__(self):
        self.ms, self.number = 1_000, 0
        self.watch = Watch(Budget(), FaultLimits(window_frames=10))
        self.ledger = Ledger(10**9)

    def tick(self, ms=10, late_ms=0, clock_set_ms=0):
        self.ms += ms + late_ms
        now_ns = self.ms * MS
        real_ns = WALL + (self.ms + clock_set_ms) * MS
        on_time = self.watch.tick(now_ns - late_ms * MS, now_ns, real_ns, self.ledger)
        self.watch.camera(now_ns)
        return on_time

    def send(self, kind=FrameRecord, lost=0, **values):
        record = kind(process=7, record=self.number + lost)
        if kind is FrameRecord:
            record.incarnation, record.sequence = 7, self.number
            record.ingested_ns = self.ms * MS
        for name, value in values.items():
            setattr(record, name, value)
        record.sent_ns = self.ms * MS
        self.number += lost + 1
        self.ledger.take([record])
        self.watch.record(record)

    @property
    def fault(self):
        """The only one."""
        (only,) = self.watch.present()
        return only

    @property
    def names(self):
        return [fault.name for fault in self.watch.present()]


@pytest.fixture
def run():
    started = Run()
    started.tick()
    return started


def test_what_keeps_frames_from_coming_is_told_until_one_comes(run):
    run.send(InputState, trouble=b"nobody publishes on /cam")
    assert (run.fault.text, run.fault.mode) == ("nobody publishes on /cam", HealthMode.UNSAFE)
    run.send()
    assert run.names == []


def test_what_costs_some_frames_is_told_until_it_is_over(run):
    run.send()
    run.send(InputState, trouble=b"9 of 10 are lost")
    run.send()
    assert (run.fault.text, run.fault.mode) == ("9 of 10 are lost", HealthMode.DEGRADED)
    run.send(InputState)
    assert run.names == []


def test_what_is_lost_of_a_slow_camera_is_no_outage(run):
    for _ in range(2):
        run.send()
        run.send(InputState, trouble=b"1 of 2 is lost")
        run.tick(250)
        run.send(InputState, trouble=b"1 of 1 is lost")
        assert run.fault.mode == HealthMode.DEGRADED, "the next one may come in time"
    run.tick(60)
    run.send(InputState, trouble=b"1 of 1 is lost")
    assert {fault.mode for fault in run.watch.present()} == {HealthMode.UNSAFE}


def test_a_repeated_stamp_is_told_but_none_of_a_frame_that_a_successor_enters_again(run):
    for _ in range(2):
        run.send(stamp_ns=5, sequence=3)
    assert run.names == []
    run.send(stamp_ns=5)
    assert run.names == ["stamp"]


@pytest.mark.parametrize(
    ("kind", "values", "text", "mode"),
    [
        (Takeover, {"lost": 3}, LOST, HealthMode.DEGRADED),
        (
            Takeover,
            {"predecessor": 6, "reason": b"detector 6 died"},
            "detector 6 died",
            HealthMode.DEGRADED,
        ),
        (WatchdogGone, {"cause": b"it hung"}, "the watchdog was gone: it hung", HealthMode.UNSAFE),
    ],
    ids=["lost records", "takeover", "watchdog"],
)
def test_what_a_record_tells_is_told_for_a_second(run, kind, values, text, mode):
    run.send(Takeover)
    assert run.names == [], "the first start is no takeover"
    run.send(kind, **values)
    run.tick(0)
    assert (run.fault.text, run.fault.mode) == (text, mode)
    assert run.ledger.records_lost == values.get("lost", 0)
    assert run.watch.takeovers == ("predecessor" in values)
    run.tick(1001)
    assert run.names == []


def test_a_camera_that_stops_is_told(run):
    run.send()
    run.tick(301)
    assert run.names == ["no frame"]
    run.watch.camera(run.ms * MS, silent={7})
    # It may not be the camera.
    assert run.fault.text == "no frame for 300 ms: preprocess 7 is silent"


def test_an_outcome_after_the_report_is_told(run):
    run.ledger.repeated_outcomes = 2
    run.tick()
    assert run.fault.text == "2 frames that were reported as lost have had an outcome afterwards"


def test_a_camera_whose_clock_is_not_ours_is_told_for_as_long_as_it_is(run):
    for _ in range(60):
        run.tick(33)
        run.send(stamp_ns=WALL + run.ms * MS, flags=FrameFlag.CLOCK_SUSPECT)
        assert run.names == ["camera clock"]
    for _ in range(32):
        run.tick(33)
        run.send(stamp_ns=WALL + run.ms * MS)
    assert run.names == []


def report(run, **values):
    run.watch.report(FrameRecord(flags=FrameFlag.CLOCK_SUSPECT, **values))


def test_a_camera_without_stamps_is_told(run):
    report(run, published_ns=run.ms * MS)
    assert (run.fault.name, run.fault.mode) == ("camera clock", HealthMode.DEGRADED)
    assert run.fault.text.startswith("frames have no stamp: let the driver set header.stamp")
    run.tick(1001)
    assert run.names == []


def test_a_frame_that_could_not_be_read_tells_nothing_of_the_camera_clock(run):
    run.send(flags=FrameFlag.CLOCK_SUSPECT)
    report(run)
    run.watch.report(FrameRecord(published_ns=run.ms * MS))  # simulated time begins at 0
    assert run.names == []


def test_what_is_wrong_with_the_watchdog_or_its_clocks_is_told(run):
    assert not run.tick(10, late_ms=30)
    assert run.names == ["starved"]
    assert run.watch.starved == 1
    run.ledger.frames_in += 1
    run.tick(10, clock_set_ms=200)
    assert run.names == ["starved", "clock", "accounting"]


def test_the_reports_tell_of_stages_latency_and_frozen_pictures(run):
    seen = {"capture_ns": 1, "ingested_ns": 9 * MS, "preprocessed_ns": 9 * MS + 1, "picture": 3}
    for _ in range(5):
        run.watch.report(FrameRecord(**seen))
    assert run.names == ["frozen picture", "ingest overrun"]


@pytest.mark.parametrize("is_look", [True, False])
def test_second_looks_are_no_overrun_and_no_drift(run, is_look):
    for number in range(1000):
        more_ns = 5 * MS * (number >= 500)
        record = FrameRecord(capture_ns=1, inferred_ns=2 * MS, detections=1)
        record.postprocessed_ns = record.published_ns = 2 * MS + 1 + more_ns
        if is_look and more_ns:
            record.add_look((0, 0), (1, 1), more_ns / MS)
        run.watch.report(record)
    names = ["postprocess overrun", "latency drift"]
    assert not {*names} & {*run.names} if is_look else {*names} <= {*run.names}


def test_memory_of_a_process_that_is_gone_is_forgotten(run):
    for second in range(70):
        sizes = {("detector", 7): second * 4_000_000, ("detector", 8): 4_000_000}
        run.watch.memory(sizes, second * 10**9)
    assert run.fault.text.startswith("detector 7 has grown")
    run.watch.memory({("detector", 8): 4_000_000}, 70 * 10**9)
    assert run.names == []


def test_faults_keep_their_names_whichever_processes_there_are(run):
    run.watch.memory({("detector", 7): 1}, 0)
    names = set(run.watch.statuses())
    run.watch.memory({("detector", 4711): 1}, 10**9)
    assert set(run.watch.statuses()) == names
    run.watch.memory({}, 2 * 10**9)
    assert set(run.watch.statuses()) == names
    assert "detector memory" in names
