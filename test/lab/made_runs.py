"""Made-up runs, for tests of what is said of a run."""

from perception_nodes.core.frame import PUBLISHED, FrameRecord, FrameStatus
from perception_nodes.faults.scenario import Scenario
from perception_nodes.lab.run import Run
from perception_nodes.report.recording import ReportedFrame

MS, SECOND = 1_000_000, 1_000_000_000


def scenario(**values):
    base = {"name": "t", "title": "t", "drive": "synthetic:64x32@10*10", "expect": {"lost": "-"}}
    return Scenario.model_validate({**base, **values})


def report(stamp_ns, status=FrameStatus.OK, took_ms=9.0, at_ns=None, **values):
    """The report of a frame: when it was published after its stamp, and when the report arrived."""
    record = FrameRecord(stamp_ns=stamp_ns, status=status, capture_ns=stamp_ns + 1, **values)
    if status in PUBLISHED:
        record.published_ns = record.capture_ns + round(took_ms * MS)
    arrived_ns = stamp_ns + round(took_ms * MS)
    return ReportedFrame.of_record(record, arrived_ns if at_ns is None else at_ns)


def in_time(stamps, latency_ms=8.0):
    """A run in which detections of all frames arrive, and are reported as in time."""
    run = Run(sent=list(stamps))
    run.reports = [report(stamp) for stamp in run.sent]
    run.detections = [(stamp + round(latency_ms * MS), stamp) for stamp in run.sent]
    return run
