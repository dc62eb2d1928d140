"""Drives of several cameras through scheduler, pipelines and ledgers."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from fake_clock import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.core.frame import (
    Detections,
    FrameHeader,
    FrameStatus,
    RecordKind,
    record_of_header,
)
from perception_nodes.core.inference import BackendError, Candidate, HeadTensors
from perception_nodes.core.pipeline import TRIED_EVERY, Pipeline, detect_together
from perception_nodes.core.records import Takeover
from perception_nodes.core.scheduler import CREDIT, Scheduler
from perception_nodes.watchdog.ledger import Ledger

DETECTOR = 99
MS = 1_000_000
IMAGE = np.zeros((8, 8, 3), np.uint8)
SERVED = (FrameStatus.OK, FrameStatus.LATE, FrameStatus.DEGRADED)


class NoDecoder:
    def decode(self, boxes, classes):
        return Detections.none()


class FakeBackend:
    """A backend with given durations for one image and for several."""

    def __init__(self, clock, costs_ns):
        self.clock, self.costs_ns, self.error = clock, costs_ns, None

    def infer(self, image):
        return self.infer_batch([image])[0]

    def infer_batch(self, images):
        self.clock.now_ns += self.costs_ns[len(images) - 1]
        if self.error:
            raise self.error
        return [HeadTensors([], [])] * len(images)


@dataclass
class Drive:
    """Frames of several cameras through scheduler, pipelines and ledgers, as on the vehicle."""

    arrivals: list[tuple[int, int]]
    costs_ns: list[int]
    life_ns: int
    cameras: int
    small_ns: int | None = None
    skip_late: bool = True
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def run(self):
        """Reports of each camera's frames, in their order."""
        clock = self.clock = FakeClock()
        costs = self.costs_ns
        backend = FakeBackend(clock, costs)
        best = Candidate("best", backend, NoDecoder(), costs[0], backend, costs[1:])
        models = self.models = [best]
        if self.small_ns is not None:
            small = FakeBackend(clock, [self.small_ns])
            models.append(Candidate("small", small, NoDecoder(), self.small_ns))
        self.pipelines = [Pipeline(models, clock, self.skip_late) for _ in range(self.cameras)]
        self.scheduler = Scheduler(self.cameras)
        self.ledgers = [Ledger(10**12) for _ in range(self.cameras)]
        self.reports = [[] for _ in range(self.cameras)]
        for ledger in self.ledgers:
            ledger.take([Takeover(process=DETECTOR, joined_ns=1, sent_ns=1)])
        self.pending = [None] * self.cameras
        self.sequences = [0] * self.cameras
        coming = sorted(self.arrivals)
        while coming or any(self.pending):
            while coming and coming[0][0] <= clock.now_ns:
                self.arrive(*coming.pop(0))
            turn = self.scheduler.turn(clock.now_ns, self.pipelines[0].costs())
            if turn.cameras:
                self.infer(turn)
                continue
            assert coming or turn.wait_until_ns > clock.now_ns, "a frame waits for ever"
            wakes = [turn.wait_until_ns] if turn.wait_until_ns else []
            clock.now_ns = min([*wakes, *(at for at, _ in coming[:1])])
        for camera, ledger in enumerate(self.ledgers):
            assert ledger.balanced
            assert (ledger.frames_in, ledger.in_flight) == (self.sequences[camera], 0)
        return self.reports

    def arrive(self, at_ns, camera):
        header = FrameHeader(sequence=self.sequences[camera], incarnation=1 + camera)
        header.capture_ns = header.ingested_ns = header.preprocessed_ns = at_ns + 1
        header.deadline_ns = at_ns + self.life_ns
        self.sequences[camera] += 1
        record = record_of_header(header)
        record.kind = RecordKind.ENTERED
        self.tell(camera, record)
        self.pending[camera] = header
        self.scheduler.arrived(camera, at_ns, header.deadline_ns)

    def infer(self, turn):
        waiting = self.scheduler.waiting
        if len(turn.cameras) == 1:
            (camera,) = turn.cameras
            found = [self.pipelines[camera].detect(self.pending[camera], IMAGE, turn.finish_by_ns)]
            self.models[0].inferred_alone(waiting)
        else:
            frames = [(self.pipelines[c], self.pending[c], IMAGE) for c in turn.cameras]
            found = detect_together(frames)
        for camera, (record, detections) in zip(turn.cameras, found, strict=True):
            if detections is not None:
                record = self.pipelines[camera].published(record)
            self.scheduler.done(camera, served=record.status != FrameStatus.SKIPPED_LATE)
            if self.pipelines[camera].rehearsal_due:
                free_until_ns = self.scheduler.free_until_ns(self.clock.now_ns)
                self.pipelines[camera].rehearse(self.pending[camera], IMAGE, free_until_ns)
            self.pending[camera] = None
            self.tell(camera, record)
            if detections is not None:
                self.calls.append(turn.cameras)

    def tell(self, camera, record):
        record.sent_ns = self.clock.now_ns
        record.process = DETECTOR if record.kind == RecordKind.OUTCOME else record.incarnation
        self.reports[camera] += self.ledgers[camera].take([record])


def statuses(reports):
    return [FrameStatus(report.status) for report in reports]


def cameras_at(period_ns, phases_ns, frames):
    return [
        (number * period_ns + phase_ns, camera)
        for camera, phase_ns in enumerate(phases_ns)
        for number in range(frames)
    ]


@st.composite
def any_drives(draw):
    """Bursts, pauses, any number of cameras, any costs: nothing is periodic."""
    cameras = draw(st.integers(2, 4))
    arrivals = []
    for camera in range(cameras):
        gaps = draw(st.lists(st.integers(1, 60 * MS), min_size=1, max_size=60))
        arrivals += [(at, camera) for at in itertools.accumulate(gaps)]
    single = draw(st.integers(MS // 2, 30 * MS))
    extra = draw(st.lists(st.integers(0, 12 * MS), max_size=cameras - 1))
    return Drive(
        arrivals,
        list(itertools.accumulate([single, *extra])),
        draw(st.integers(MS, 40 * MS)),
        cameras,
        draw(st.one_of(st.none(), st.integers(MS // 4, single))),
        draw(st.booleans()),
    )


class TestDrives:
    @given(any_drives())
    @settings(max_examples=300)
    def test_every_frame_has_one_status_and_no_camera_starves(self, drive):
        for camera, reports in enumerate(drive.run()):
            assert len(reports) == drive.sequences[camera]
            assert len({report.sequence for report in reports}) == len(reports)
            decided = [status for status in statuses(reports) if status != FrameStatus.SUPERSEDED]
            runs = itertools.groupby(decided, key=lambda status: status in SERVED)
            longest = max((len(list(run)) for served, run in runs if not served), default=0)
            assert longest < TRIED_EVERY
            for report in reports:
                in_time = report.published_ns <= report.deadline_ns
                assert (report.status in (FrameStatus.OK, FrameStatus.DEGRADED)) == (
                    in_time and report.published_ns > 0
                )

    @given(
        st.integers(2, 4),
        st.integers(1 * MS, 8 * MS),
        st.lists(st.integers(0, 33 * MS), min_size=4, max_size=4),
    )
    @settings(max_examples=100)
    def test_with_time_enough_for_all_each_frame_is_in_time(self, cameras, cost_ns, phases_ns):
        """The frames of all cameras fit into a frame's deadline, and into a period."""
        arrivals = cameras_at(33 * MS, phases_ns[:cameras], frames=40)
        costs = [cost_ns, round(1.8 * cost_ns), round(2.6 * cost_ns), round(3.4 * cost_ns)]
        for reports in Drive(arrivals, costs, cameras * cost_ns, cameras).run():
            assert set(statuses(reports)) == {FrameStatus.OK}

    @given(
        st.integers(2, 4),
        st.integers(34, 90),
        st.lists(st.integers(0, 33 * MS), min_size=4, max_size=4),
        st.integers(0, 2 * MS),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=100)
    def test_too_little_time_is_shared(self, cameras, percent, phases_ns, jitter_ns, random):
        """No camera gets less than its share of the calls that fit into a period."""
        period_ns = 33 * MS
        arrivals = [
            (at_ns + random.randint(0, jitter_ns), camera)
            for at_ns, camera in cameras_at(period_ns, phases_ns[:cameras], frames=120)
        ]
        drive = Drive(arrivals, [period_ns * percent // 100], period_ns, cameras)
        ok = [statuses(reports).count(FrameStatus.OK) for reports in drive.run()]
        assert min(ok) > 0.75 * 120 * min(1, int(100 / percent) / cameras), ok

    def test_cameras_in_step_take_turns(self):
        """Each period has time for two of the three."""
        drive = Drive(cameras_at(33 * MS, [0, 50_000, 20_000], 120), [15 * MS], 33 * MS, 3)
        for reports in drive.run():
            assert 79 <= statuses(reports).count(FrameStatus.OK) <= 81

    def test_one_that_was_gone_does_not_keep_the_others_waiting(self):
        """Two of them need more time than there is; one comes seconds later than the other."""
        arrivals = cameras_at(33 * MS, [0, 0], 120)
        arrivals = [(at, camera) for at, camera in arrivals if camera == 0 or at > 2000 * MS]
        first = statuses(Drive(arrivals, [20 * MS], 33 * MS, 2).run()[0])
        runs = itertools.groupby(first, key=lambda status: status == FrameStatus.OK)
        assert max(len(list(run)) for ok, run in runs if not ok) <= CREDIT + 2

    def test_a_camera_that_stops_costs_the_others_nothing(self):
        arrivals = cameras_at(33 * MS, [0, 16 * MS], 60)
        arrivals = [(at, camera) for at, camera in arrivals if camera == 0 or at < 900 * MS]
        first, second = Drive(arrivals, [14 * MS], 30 * MS, 2).run()
        assert statuses(first) == [FrameStatus.OK] * 60
        assert set(statuses(second)) == {FrameStatus.OK}

    def test_one_call_for_all_serves_cameras_that_single_calls_could_not(self):
        arrivals = cameras_at(33 * MS, [0, 0, 0, 0], 60)
        alone = Drive(arrivals, [6 * MS], 10 * MS, 4).run()
        assert sum(statuses(r).count(FrameStatus.OK) for r in alone) == 60
        drive = Drive(arrivals, [6 * MS, 7 * MS, 8 * MS, 9 * MS], 10 * MS, 4)
        assert {s for reports in drive.run() for s in statuses(reports)} == {FrameStatus.OK}
        assert {len(cameras) for cameras in drive.calls} == {4}

    def test_a_smaller_model_serves_all_in_time(self):
        drive = Drive(cameras_at(33 * MS, [0, 0], 120), [8 * MS], 11 * MS, 2, small_ns=2 * MS)
        first, second = map(statuses, drive.run())
        assert set(first) == {FrameStatus.OK}
        assert set(second) == {FrameStatus.DEGRADED}

    def test_a_call_that_fails_fails_all_of_its_frames(self, monkeypatch):
        drive = Drive(cameras_at(33 * MS, [0, 0], 30), [6 * MS, 7 * MS], 10 * MS, 2)
        infer_batch, calls = FakeBackend.infer_batch, []

        def once(backend, images):
            calls.append(len(images))
            backend.error = BackendError("out of memory") if len(calls) == 7 else None
            return infer_batch(backend, images)

        monkeypatch.setattr(FakeBackend, "infer_batch", once)
        for reports in drive.run():
            assert statuses(reports).count(FrameStatus.FAILED) == 1
            assert statuses(reports).count(FrameStatus.OK) == 29
            assert {r.reason for r in reports} == {b"", b"out of memory"}

    def test_what_calls_cost_is_kept_up_to_date(self, monkeypatch):
        """A call for two frames that turns out slower than two single calls is not repeated."""
        drive = Drive(cameras_at(33 * MS, [0, 0], 60), [4 * MS, 5 * MS], 12 * MS, 2)
        infer_batch = FakeBackend.infer_batch

        def slower(backend, images):
            backend.clock.now_ns += (len(images) - 1) * 4 * MS
            return infer_batch(backend, images)

        monkeypatch.setattr(FakeBackend, "infer_batch", slower)
        for reports in drive.run():
            assert set(statuses(reports)) == {FrameStatus.OK}
        assert sum(len(cameras) == 2 for cameras in drive.calls) < 10
