"""What a missed frame is put down to."""

import pytest

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import STAMPS, FrameRecord, FrameStatus
from perception_nodes.core.missed import Missed, blamed_stage
from perception_nodes.report.recording import ReportedFrame

BUDGET = Budget()


def frame(status, *took_ms, reason=b""):
    """A frame that took so long in its first stages, and did not reach the others."""
    record = FrameRecord(status=status, reason=reason)
    at_ms = 1000.0
    for name, ms in zip(STAMPS, (0.0, *took_ms), strict=False):
        at_ms += ms
        setattr(record, name, round(at_ms * 1e6))
    return ReportedFrame.of_record(record, 0)


@pytest.mark.parametrize(
    ("status", "took_ms", "stage"),
    [
        (FrameStatus.LATE, (1, 0.5, 12, 0.4, 0.4), "inference"),
        (FrameStatus.LATE, (9, 0.5, 5, 0.4, 0.4), "ingest"),
        (FrameStatus.LATE, (1.5, 1, 6, 0.5, 1), "publish"),  # none exceeded its budget
        (FrameStatus.SKIPPED_LATE, (1, 4), "preprocess"),
        (FrameStatus.SKIPPED_LATE, (1, 0.5), "inference"),
        (FrameStatus.SUPERSEDED, (4,), "preprocess"),
        (FrameStatus.FAILED, (9, 0.5), "inference"),
        (FrameStatus.FAILED, (), "ingest"),
    ],
)
def test_a_slow_frame_is_put_down_to_what_took_too_long_any_other_to_what_it_did_not_end(
    status, took_ms, stage
):
    assert blamed_stage(frame(status, *took_ms), BUDGET) == stage


def test_causes_differ_by_words_and_stage_not_by_numbers_and_the_worst_has_no_result():
    late = frame(FrameStatus.LATE, 1, 0.5, 90, 0.4, 0.4)
    skipped = [frame(FrameStatus.SKIPPED_LATE, 1, 4, reason=b"%d ms left" % n) for n in (1, 2)]
    missed = Missed.of([late, *skipped, frame(FrameStatus.OK, 1, 1, 1, 1, 1)], 10.0)
    assert missed.count == 3
    assert [(*cause, count) for cause, count in missed.causes] == [
        (FrameStatus.SKIPPED_LATE, "preprocess", "2 ms left", 2),
        (FrameStatus.LATE, "inference", "published after the deadline", 1),
    ]
    assert missed.worst in skipped
    assert [ms for _, ms, _ in missed.stages] == [1.0, 4.0, None, None, None]
    assert Missed.of([], 10.0).worst is None
