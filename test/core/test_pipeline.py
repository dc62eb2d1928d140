"""A frame through inference and postprocessing, with a clock and a backend of the test's own."""

from collections import Counter

import numpy as np
import pytest
from fake_clock import FakeClock
from made_detections import detected

from perception_nodes.core.decode import AbsurdOutput, DecodeSettings, LevelsDecoder
from perception_nodes.core.frame import (
    CROWDED,
    Detections,
    FrameFlag,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    ImageView,
    RecordKind,
    latency_ms,
    stage_durations_ms,
)
from perception_nodes.core.inference import BackendError, BackendLost, Candidate, HeadTensors
from perception_nodes.core.pipeline import TRIED_EVERY, Pipeline, detect_together
from perception_nodes.core.prediction import WINDOW, CostPrediction
from perception_nodes.core.statistics import summarize
from perception_nodes.core.step_up import FIRST_HOLD, REHEARSALS
from perception_nodes.preprocess.placement import Placement

MS = 1_000_000
WIDTH, HEIGHT, REG_MAX = 64, 64, 4
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


class FakeBackend:
    """A backend that takes a given time and answers with objects or an error."""

    def __init__(self, clock, duration_ms=6.0, objects=(), error=None, bad=None):
        self.clock, self.duration_ns = clock, round(duration_ms * MS)
        self.objects, self.error, self.bad = objects, error, bad
        self.calls = 0

    def infer(self, image):
        self.calls += 1
        self.clock.now_ns += self.duration_ns
        if self.error:
            raise self.error
        boxes = np.zeros((1, 4 * REG_MAX, 8, 8), np.float32)
        classes = np.full((1, 2, 8, 8), -20, np.float32)
        for row, column, label in self.objects:
            classes[0, label, row, column] = 3
            boxes[0, 1::REG_MAX, row, column] = 60  # every side one stride of 8 pixels
        if self.bad is not None:
            classes[0, 0, 0, 0] = self.bad
        return HeadTensors([boxes], [classes])


class Rig:
    def __init__(self, skip_late=True, expected_ms=0.0, fallback_ms=None, **backend):
        self.clock = FakeClock()
        self.backend = FakeBackend(self.clock, **backend)
        self.decoder = decoder = LevelsDecoder(WIDTH, HEIGHT, (8,), REG_MAX, DecodeSettings())
        self.models = models = [Candidate("toy", self.backend, decoder, round(expected_ms * MS))]
        if fallback_ms is not None:
            self.small = FakeBackend(self.clock, fallback_ms)
            models.append(Candidate("tiny", self.small, decoder, round(fallback_ms * MS)))
        self.pipeline = Pipeline(models, self.clock, skip_late)
        self.period_ns = 33 * MS

    def header(self, deadline_ms=10.0, source=(128, 128)):
        header = FrameHeader(sequence=7, stamp_ns=5)
        Placement.fit(source, (WIDTH, HEIGHT)).describe(header, copies=1)
        header.capture_ns, header.ingested_ns, header.preprocessed_ns = 1, 1 * MS, 2 * MS
        header.deadline_ns = round(deadline_ms * MS)
        header.incarnation, header.camera = 42, b"front"
        header.frame_id = b"camera"
        self.clock.now_ns = 2 * MS
        return header

    def run(self, header=None, publish_ms=0.5):
        header = header or self.header()
        record, detections = self.pipeline.detect(header, IMAGE)
        if detections is not None:
            self.clock.now_ns += round(publish_ms * MS)
            record = self.pipeline.published(record)
        if self.pipeline.rehearsal_due:
            self.pipeline.rehearse(header, IMAGE, header.ingested_ns + self.period_ns)
        return record, detections


def test_a_frame_in_time_is_ok_and_fully_stamped():
    record, detections = Rig(objects=[(2, 2, 1)]).run()
    assert record.status == FrameStatus.OK
    assert record.kind == RecordKind.OUTCOME
    assert record.detections == len(detections) == 1
    durations = stage_durations_ms(record)
    assert durations["inference"] == pytest.approx(6.0)
    assert durations["publish"] == pytest.approx(0.5)
    assert latency_ms(record) == pytest.approx(8.5, abs=1e-3)


def test_objects_that_there_is_no_room_for_are_told(monkeypatch):
    monkeypatch.setattr("perception_nodes.core.decode.MAX_DETECTIONS", 3)
    places = [(0, 0, 0), (0, 4, 0), (4, 0, 0)]
    record, _ = Rig(objects=places).run()
    assert (record.detections, record.reason) == (3, b"")
    for standing_in, reason in ((b"", b""), (b"openvino", b"; openvino"), (b"x" * 600, b"; xx")):
        rig = Rig(objects=[*places, (4, 4, 0)])
        rig.pipeline.replace(rig.models, standing_in.decode())
        record, _ = rig.run()
        assert record.detections == 3
        assert record.reason.startswith(CROWDED + reason)
        assert summarize([record])["crowded"] == 1


def test_published_at_the_deadline_is_ok_and_a_nanosecond_after_it_late():
    for extra_ns, status in [(0, FrameStatus.OK), (1, FrameStatus.LATE)]:
        rig = Rig()
        record, _ = rig.pipeline.detect(rig.header(), IMAGE)
        rig.clock.now_ns = record.deadline_ns + extra_ns
        assert rig.pipeline.published(record).status == status


def test_a_frame_past_its_deadline_never_reaches_the_backend():
    rig = Rig()
    record, detections = rig.run(rig.header(deadline_ms=2.0))
    assert detections is None
    assert record.status == FrameStatus.SKIPPED_LATE
    assert record.reason == b"past its deadline before inference; it came 1.0 ms after its capture"
    assert (record.inferred_ns, record.published_ns, rig.backend.calls) == (0, 0, 0)


def test_without_skipping_a_smaller_model_stands_in_too_and_runs_where_all_are_late():
    rig = Rig(skip_late=False, expected_ms=20.0, duration_ms=20.0, fallback_ms=3.0)
    assert {rig.run()[0].status for _ in range(100)} == {FrameStatus.DEGRADED}
    record, _ = rig.run(rig.header(deadline_ms=4.0))
    assert (record.status, record.model) == (FrameStatus.LATE, b"tiny")
    record, _ = rig.run(rig.header(deadline_ms=1.0))
    assert (record.status, record.model) == (FrameStatus.LATE, b"tiny")


@pytest.mark.parametrize("bad", [np.nan, 1e30])
def test_absurd_output_fails_the_frame_with_its_reason(bad):
    record, detections = Rig(bad=bad).run()
    assert detections is None
    assert record.status == FrameStatus.FAILED
    assert b"are not numbers below 1000" in record.reason


@pytest.mark.parametrize("reason", ["größer als möglich", "x" * 511, "🚗" * 140, "bad \udcff name"])
def test_any_text_of_an_error_fits_into_the_record(reason):
    record, _ = Rig(error=BackendError(reason)).run()
    assert record.status == FrameStatus.FAILED
    kept = record.reason.decode(errors="ignore")
    assert 0 < len(record.reason) < FrameRecord.reason.size
    assert reason.encode(errors="replace").decode().startswith(kept)


def test_an_error_is_one_line_of_what_a_terminal_only_shows():
    assert str(BackendError("no topic 'a:\n  \x1b[2Jb', größer")) == "no topic 'a: ?[2Jb', größer"


def test_an_object_in_the_grey_border_alone_is_none():
    rig = Rig(objects=[(0, 4, 0), (4, 4, 1)])
    # 128 x 32 source pixels fill the rows 24 to 40 of the input.
    record, detections = rig.run(rig.header(source=(128, 32)))
    assert detections.classes.tolist() == [1]
    assert record.detections == 1


def test_a_changed_lens_is_used_from_that_frame_on():
    rig = Rig(objects=[(2, 2, 1)])
    plain = rig.run()[1].boxes
    header = rig.header()
    header.flags = FrameFlag.RECTIFIED
    header.camera_matrix[:] = header.rectified_matrix[:] = (100.0, 100.0, 63.5, 63.5)
    header.distortion[0] = -0.2
    assert np.all(rig.run(header)[1].boxes[0, :2] > plain[0, :2])
    np.testing.assert_allclose(rig.run()[1].boxes, plain)


def test_a_frame_that_would_be_late_never_reaches_the_backend():
    rig = Rig(expected_ms=9.0)
    record, detections = rig.run()
    assert detections is None
    assert record.status == FrameStatus.SKIPPED_LATE
    assert record.reason == b"8.0 ms left, 9.0 ms needed; it came 1.0 ms after its capture"
    assert rig.backend.calls == 0


def test_a_smaller_model_stands_in_where_it_is_in_time():
    rig = Rig(expected_ms=9.0, fallback_ms=3.0)
    record, detections = rig.run()
    assert (record.status, record.model) == (FrameStatus.DEGRADED, b"tiny")
    assert detections is not None
    assert rig.small.calls == 1
    # With more time the best model runs again.
    models = [rig.run(rig.header(deadline_ms=20.0))[0].model for _ in range(FIRST_HOLD + 1)]
    assert models[-1] == b"toy"


def test_postprocessing_and_publishing_have_their_share():
    rig = Rig(expected_ms=6.0, fallback_ms=1.0)
    for _ in range(WINDOW):
        assert rig.run(publish_ms=1.9)[0].status == FrameStatus.OK
    assert rig.run(publish_ms=2.5)[0].status == FrameStatus.LATE
    assert rig.run(publish_ms=2.5)[0].status == FrameStatus.LATE  # p99 forgives one in a hundred
    assert rig.run()[0].status == FrameStatus.DEGRADED


def test_a_hiccup_is_forgotten():
    rig = Rig(expected_ms=6.0, fallback_ms=1.0)
    rig.backend.duration_ns = 50 * MS
    assert rig.run()[0].status == FrameStatus.LATE
    rig.backend.duration_ns = 6 * MS
    statuses = [rig.run()[0].status for _ in range(WINDOW + 1)]
    assert statuses[0] == FrameStatus.DEGRADED
    assert statuses[-1] == FrameStatus.OK


def test_a_frame_is_given_up_only_where_it_will_rather_be_late_than_not():
    rig = Rig(expected_ms=6.0)
    for _ in range(WINDOW):
        assert rig.run()[0].status == FrameStatus.OK
    rig.backend.duration_ns = 9 * MS
    for _ in range(WINDOW // 2):
        assert rig.run()[0].status == FrameStatus.LATE
    assert rig.run()[0].status == FrameStatus.SKIPPED_LATE


def test_a_machine_that_is_too_slow_still_sees_something_and_learns_when_it_is_not():
    rig = Rig(expected_ms=20.0, duration_ms=20.0)
    statuses = [rig.run()[0].status for _ in range(10 * TRIED_EVERY)]
    assert statuses.count(FrameStatus.LATE) == 10
    assert statuses.count(FrameStatus.SKIPPED_LATE) == 9 * 10
    rig.backend.duration_ns = 3 * MS
    assert {rig.run()[0].status for _ in range(TRIED_EVERY)} >= {FrameStatus.OK}
    assert rig.run()[0].status == FrameStatus.OK


def test_the_best_model_comes_back_when_it_is_in_time_again_and_no_frame_is_late_for_it():
    rig = Rig(expected_ms=20.0, duration_ms=20.0, fallback_ms=3.0)
    records = [rig.run()[0] for _ in range(200)]
    assert {record.status for record in records} == {FrameStatus.DEGRADED}
    assert records[-1].reason == b"8.0 ms left, toy needs 20.5"
    rig.backend.duration_ns = 5 * MS
    statuses = [rig.run()[0].status for _ in range(FIRST_HOLD + REHEARSALS)]
    assert statuses[-1] == FrameStatus.OK
    assert set(statuses) == {FrameStatus.OK, FrameStatus.DEGRADED}


def test_where_there_is_no_time_for_rehearsals_the_best_model_is_tried_on_ever_fewer_frames():
    rig = Rig(expected_ms=20.0, duration_ms=20.0, fallback_ms=3.0)
    rig.period_ns = 20 * MS
    statuses = [rig.run()[0].status for _ in range(2 * FIRST_HOLD << 6)]
    assert statuses.count(FrameStatus.LATE) == rig.backend.calls == 7
    rig.backend.duration_ns = 5 * MS
    statuses = [rig.run()[0].status for _ in range(2 * FIRST_HOLD << 6)]
    assert statuses[-1] == FrameStatus.OK


def test_a_frame_that_comes_late_gets_a_smaller_model_and_the_next_one_the_best_again():
    rig = Rig(expected_ms=6.0, fallback_ms=1.0)
    for _ in range(WINDOW):
        rig.run()
    record, _ = rig.run(rig.header(deadline_ms=6.0))
    assert (record.status, record.model) == (FrameStatus.DEGRADED, b"tiny")
    assert rig.run()[0].status == FrameStatus.OK


def test_a_rehearsal_that_fails_teaches_nothing():
    rig = Rig(expected_ms=20.0, duration_ms=20.0, fallback_ms=3.0)
    rig.run()
    rig.backend.error = BackendError("broken")
    statuses = [rig.run()[0].status for _ in range(4 * FIRST_HOLD)]
    assert statuses.count(FrameStatus.FAILED) == 2  # the trials after holds
    assert set(statuses) == {FrameStatus.DEGRADED, FrameStatus.FAILED}


@pytest.mark.parametrize(
    ("slow_share", "most_missed", "most_smaller"),
    [(0.27, 0.005, 1), (0.03, 0.005, 1), (0.0005, 0.001, 0.01)],
)
def test_a_model_that_is_often_slow_costs_few_frames(slow_share, most_missed, most_smaller):
    rig, random = Rig(expected_ms=5.0, fallback_ms=2.0), np.random.default_rng(1)
    counts = Counter()
    for is_slow in random.random(4_000) < slow_share:
        rig.backend.duration_ns = (9 if is_slow else 5) * MS
        counts[rig.run()[0].status] += 1
    assert counts[FrameStatus.OK] + counts[FrameStatus.DEGRADED] >= (1 - most_missed) * 4_000
    assert counts[FrameStatus.DEGRADED] <= most_smaller * 4_000


def test_late_detections_can_be_withheld():
    rig = Rig(duration_ms=20)
    for _ in range(2 * TRIED_EVERY):
        record, _ = rig.pipeline.detect(rig.header(deadline_ms=21.0), IMAGE)
        assert rig.pipeline.status_of(record) == FrameStatus.LATE
        assert rig.pipeline.withholds(record)
        rig.pipeline.withheld(record)
        rig.models[0].alone.expect(0)
    assert record.status == FrameStatus.SKIPPED_LATE  # LATE ones are published
    assert (record.published_ns, record.detections) == (0, 0)
    assert record.reason == b"withheld: it would have been published past its deadline"


def test_detections_that_publication_would_make_late_are_withheld_too_but_for_each_tenth():
    rig = Rig(skip_late=False, duration_ms=7.0)
    for _ in range(WINDOW):
        rig.run(publish_ms=1.5)
    tried = 0
    for _ in range(10 * TRIED_EVERY):
        record, _ = rig.pipeline.detect(rig.header(), IMAGE)  # 1 ms is left
        assert rig.pipeline.status_of(record) == FrameStatus.LATE
        if not rig.pipeline.withholds(record):
            tried += 1
            rig.clock.now_ns += round(1.5 * MS)
            assert rig.pipeline.published(record).status == FrameStatus.LATE
    assert tried == 10
    # In time again: by those that are tried, that is learned.
    statuses = []
    for _ in range(WINDOW * TRIED_EVERY):
        record, _ = rig.pipeline.detect(rig.header(), IMAGE)
        if not rig.pipeline.withholds(record):
            rig.clock.now_ns += MS // 2
            statuses.append(rig.pipeline.published(record).status)
    assert set(statuses) == {FrameStatus.OK} and len(statuses) > WINDOW


def test_models_that_stand_in_for_others_are_degraded_and_say_why():
    rig = Rig()
    rig.pipeline.replace(rig.models, "a stand-in, since ä" + 600 * "x")
    record, _ = rig.run()
    assert record.status == FrameStatus.DEGRADED and record.model == b"toy"
    assert record.reason.startswith("a stand-in, since ä".encode())
    assert len(record.reason) == FrameRecord.reason.size - 1
    rig.pipeline.replace([Candidate("better", FakeBackend(rig.clock), rig.decoder, 0)])
    record, _ = rig.run()
    assert (record.status, record.model, record.reason) == (FrameStatus.OK, b"better", b"")


def test_a_backend_that_is_lost_is_told_of():
    rig = Rig(error=BackendError("once"))
    rig.run()
    assert rig.pipeline.lost is None
    rig.pipeline.replace(rig.models, "a stand-in")
    rig.backend.error = BackendLost("the device is gone")
    record, _ = rig.run()
    assert (record.status, record.reason) == (FrameStatus.FAILED, b"the device is gone")
    assert rig.pipeline.lost is rig.backend.error


def test_frames_inferred_together_are_each_decoded_and_judged_on_their_own():
    rig = Rig(objects=[(2, 2, 1)])
    rig.backend.infer_batch = lambda images: [rig.backend.infer(image) for image in images]
    decoder = LevelsDecoder(WIDTH, HEIGHT, (8,), REG_MAX, DecodeSettings())
    models = [Candidate("toy", rig.backend, decoder, 0, rig.backend, [0])]
    first, second = (Pipeline(models, rig.clock, True) for _ in range(2))
    wide, small = rig.header(deadline_ms=20.0), rig.header(deadline_ms=13.0, source=(64, 64))
    found = detect_together([(first, wide, IMAGE), (second, small, IMAGE)])
    reports, boxes = [], []
    for pipeline, (record, detections) in zip((first, second), found, strict=True):
        reports.append(pipeline.published(record))
        boxes.append(detections.boxes[0].tolist())
    assert boxes == [pytest.approx([24, 24, 56, 56]), pytest.approx([12, 12, 28, 28])]
    assert [report.status for report in reports] == [FrameStatus.OK, FrameStatus.LATE]
    assert (reports[0].sequence, reports[0].stamp_ns, reports[0].incarnation) == (7, 5, 42)
    assert reports[0].inferred_ns == reports[1].inferred_ns
    assert [cost.p99_ns for cost in models[0].calls] == [0, 12 * MS]


class InPlace:
    """A backend for camera frames that answers with objects, a network's tensors, or an error."""

    def __init__(self, rig, answer):
        self.rig, self.answer = rig, answer

    def infer(self, frames):
        self.rig.clock.now_ns += 4 * MS
        if isinstance(self.answer, BackendError):
            raise self.answer
        if isinstance(self.answer, Exception):
            return [self.answer for _ in frames]
        return [(self.answer or self.rig.backend.infer(image), 1) for _, image in frames]


def run_in_place(answer=None, **rig):
    rig = Rig(**rig)
    rig.models[0].in_place = InPlace(rig, answer)
    image = ImageView.of_pixels(np.zeros((128, 128, 3), np.uint8))
    record, detections = rig.pipeline.detect(rig.header(), image)
    return rig, record, detections


def test_objects_that_a_backend_found_itself_are_taken_as_they_are():
    found = detected([[1, 2, 3, 4]], 0.5, 1)
    rig, record, detections = run_in_place(found)
    assert detections is found
    assert (record.detections, record.copies) == (1, 2)  # one was made on the way to the slot
    assert stage_durations_ms(rig.pipeline.published(record))["inference"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    "error", [FrameRejected("no pixels"), AbsurdOutput("nan"), BackendError("out of memory")]
)
def test_what_goes_wrong_in_place_fails_the_frame(error):
    rig, record, detections = run_in_place(error)
    assert (record.status, record.reason.decode()) == (FrameStatus.FAILED, str(error))
    assert detections is None and rig.pipeline.lost is None


def test_one_frame_of_several_that_cannot_be_read_does_not_fail_the_others():
    rig = Rig()
    found = Detections.none()
    rig.models[0].calls.append(CostPrediction(0))
    rig.models[0].in_place = InPlace(rig, None)
    rig.models[0].in_place.infer = lambda frames: [FrameRejected("no pixels"), (found, 0)]
    image = ImageView.of_pixels(np.zeros((128, 128, 3), np.uint8))
    frames = [(rig.pipeline, rig.header(), image), (rig.pipeline, rig.header(), image)]
    (bad, nothing), (good, detections) = detect_together(frames)
    assert (bad.status, bad.reason, nothing) == (FrameStatus.FAILED, b"no pixels", None)
    assert (good.model, detections) == (b"toy", found)


def test_a_stand_in_that_is_late_is_late_and_says_what_it_stands_in_for():
    rig = Rig(duration_ms=11.0)
    rig.pipeline.replace(rig.models, "a stand-in")
    record, _ = rig.run()
    assert (record.status, record.reason) == (FrameStatus.LATE, b"a stand-in")


def test_a_smaller_model_is_taken_for_the_sake_of_others():
    rig = Rig(expected_ms=6.0, fallback_ms=2.0)
    for finish_by_ms, model in [(8.0, b"toy"), (7.9, b"tiny"), (1.0, b"tiny")]:
        record, detections = rig.pipeline.detect(rig.header(), IMAGE, round(finish_by_ms * MS))
        assert (record.model, detections is not None) == (model, True), finish_by_ms
        rig.pipeline.published(record)


def test_publication_that_is_fast_again_is_known_from_one_frame():
    rig = Rig(duration_ms=7.0)
    for _ in range(WINDOW):
        rig.run(publish_ms=5.0)

    def published():
        record, detections = rig.pipeline.detect(rig.header(), IMAGE)
        if detections is None or rig.pipeline.withholds(record):
            return False
        rig.clock.now_ns += MS // 2
        return rig.pipeline.published(record).status == FrameStatus.OK

    assert all([published() for _ in range(3 * TRIED_EVERY)][TRIED_EVERY:])
