"""Traces as Chrome's Trace Event Format defines them."""

import json
from collections import Counter
from contextlib import closing
from itertools import pairwise

import pytest

from perception_nodes.cli.trace import trace_command
from perception_nodes.core.frame import STAMPS, FrameFlag, FrameRecord, FrameStatus, RecordKind
from perception_nodes.drives.schemas import FRAME_REPORT, TRACKS
from perception_nodes.graph.settings import SettingsError
from perception_nodes.report.frame_trace import read_traced, trace_of
from perception_nodes.report.recording import (
    FRAME_REPORT_TOPIC,
    TRACKS_TOPIC,
    Recorder,
    RecordingError,
)
from perception_nodes.tracking.tracker import Tracker
from perception_nodes.transport.cdr_writer import write_frame_report, write_tracks
from perception_nodes.transport.journal import Journal

MS = 1_000_000
START_NS = 5_000 * MS
PASSED = {FrameStatus.OK: 6, FrameStatus.LATE: 6}
PASSED |= {FrameStatus.SKIPPED_LATE: 3, FrameStatus.FAILED: 2}


def frame(number, status=FrameStatus.OK, camera=b"front", stamps_ms=(0, 1, 2, 6, 6.5, 7)):
    begin_ns = START_NS + 33 * MS * number
    record = FrameRecord(sequence=number, status=status, camera=camera, detections=3)
    record.stamp_ns, record.deadline_ns = 10**18 + begin_ns, begin_ns + 10 * MS
    record.reason = b"" if status == FrameStatus.OK else b"<b>why</b>"
    for name, at_ms in list(zip(STAMPS, stamps_ms, strict=True))[: PASSED[status]]:
        setattr(record, name, begin_ns + round(at_ms * MS))
    return record


class Read:
    """A parsed trace: slices by process and lane, instants, counters."""

    def __init__(self, text):
        events = json.loads(text)["traceEvents"]
        names = [e for e in events if e["ph"] == "M"]
        processes = {e["pid"]: e["args"]["name"] for e in names if e["name"] == "process_name"}
        lanes = {e["tid"]: e["args"]["name"] for e in names if e["name"] == "thread_name"}
        self.slices, self.instants, self.counts, ends = [], [], {}, {}
        for event in sorted(events, key=lambda event: event.get("ts", 0)):
            lane, name = (processes[event["pid"]], lanes.get(event.get("tid"))), event["name"]
            args, at_ns = event["args"], 1000 * event.get("ts", 0)
            if event["ph"] == "X":
                assert at_ns >= ends.get(lane, 0), "slices of one lane overlap"
                ends[lane] = at_ns + 1000 * event["dur"]
                arrows = event["bind_id"], event["flow_in"], event["flow_out"]
                self.slices.append((lane, name, at_ns, ends[lane], args, arrows))
            elif event["ph"] == "i":
                self.instants.append((lane, name, at_ns, args))
            elif event["ph"] == "C":
                ((unit, value),) = args.items()
                self.counts.setdefault(f"{name} {unit}", []).append((at_ns, value))


def test_second_looks_follow_the_postprocessing_of_the_whole_frame():
    one = frame(0, stamps_ms=(0, 1, 2, 4, 9, 9.5))
    one.source_width, one.source_height = 640, 480
    for region, cost_ms in (((8, 4), 2.0), ((96, 40), 2.5)):
        one.add_look(region, (64, 32), cost_ms)
    slices = {(s[1], s[4].get("x_offset"), s[2], s[3]) for s in Read(trace_of([one], {})).slices}
    ends = [START_NS + round(ms * MS) for ms in (4, 4.5, 6.5, 9, 9.5)]
    names = [("postprocess", None), ("second look", 8), ("second look", 96), ("publish", None)]
    assert {(*name, *span) for name, span in zip(names, pairwise(ends), strict=True)} <= slices


def test_a_frame_goes_from_capture_to_publication_and_its_tracks():
    one = frame(0)
    read = Read(trace_of([one], {("front", 0, one.stamp_ns): (one.stamp_ns + 8 * MS, 5)}))
    times = [(lane[0], name, begin, end) for lane, name, begin, end, *_ in read.slices]
    found = [(lane, name, a - START_NS, b - START_NS) for lane, name, a, b in times]
    assert found == [
        ("camera", "ingest", 0, 1 * MS),
        ("preprocess_node", "preprocess", 1 * MS, 2 * MS),
        ("detector_node", "inference", 2 * MS, 6 * MS),
        ("detector_node", "postprocess", 6 * MS, 6.5 * MS),
        ("detector_node", "publish", 6.5 * MS, 7 * MS),
        ("tracker_node", "track", 7 * MS, 8 * MS),
    ]
    assert [arrows for *_, arrows in read.slices] == [(1, number > 0, True) for number in range(6)]
    assert read.slices[2][4]["detections"] == 3
    assert read.counts["front: budget left when published ms"] == [(START_NS + 7 * MS, 3.0)]
    assert read.counts["front: in flight frames"] == [(START_NS + MS, 1), (START_NS + 7 * MS, 0)]
    assert not read.instants


def test_a_frame_whose_records_were_lost_ends_when_it_was_missed():
    lost = frame(1, FrameStatus.FAILED)
    lost.capture_ns, at_ns = 0, lost.ingested_ns
    read = Read(trace_of([lost, frame(0)], {}))
    assert [(name, when) for _, name, when, _ in read.instants] == [("FAILED", at_ns)]
    assert min(begin for _, _, begin, *_ in read.slices) == START_NS


def test_tracks_end_when_they_were_recorded_for_whatever_time_they_are(tmp_path):
    recorded, frames = tmp_path / "r.mcap", [frame(number) for number in range(3)]
    frames[2].flags = FrameFlag.CLOCK_SUSPECT
    frames[2].stamp_ns = 0
    with Recorder(recorded) as recorder:
        for one in frames:
            at_ns = START_NS + 10**18 + 33 * MS * one.sequence + 9 * MS
            ahead = Tracker(1).at(one.stamp_ns + 300 * MS)
            recorder.write(TRACKS_TOPIC, TRACKS, at_ns, write_tracks(one, "front", ahead, []))
            recorder.write(FRAME_REPORT_TOPIC, FRAME_REPORT, at_ns, write_frame_report(one))
    slices = [one for one in Read(trace_of(*read_traced(recorded))).slices if one[1] == "track"]
    ends = [(begin - START_NS, end - START_NS) for _, _, begin, end, *_ in slices]
    assert ends == [(7 * MS, 9 * MS), (40 * MS, 42 * MS)]  # none where the clock is not known


def test_tracks_of_a_replay_whose_log_times_are_of_its_drive_are_left_out():
    one = frame(0)
    tracks = {("front", 0, one.stamp_ns): (one.stamp_ns + MS, 5)}
    assert "track" not in [name for _, name, *_ in Read(trace_of([one], tracks)).slices]


def test_what_was_not_published_in_time_says_so_where_it_ended():
    read = Read(trace_of([frame(n, status) for n, status in enumerate(PASSED)], {}))
    assert [(lane[0], name) for lane, name, *_ in read.instants] == [
        ("detector_node", "LATE"),
        ("preprocess_node", "SKIPPED_LATE"),
        ("camera", "FAILED"),
    ]
    assert {notes["reason"] for *_, notes in read.instants} == {"<b>why</b>"}
    assert read.counts["front: in flight frames"][-1][1] == 0


def test_a_process_does_one_thing_at_a_time():
    """The second frame waits for the first one's inference."""
    slow = (0, 1, 2, 50, 51, 52)
    late = frame(0, FrameStatus.LATE, stamps_ms=slow)
    read = Read(trace_of([late, frame(1, stamps_ms=slow)], {}))
    assert [s for s in read.slices if s[1] == "inference"][1][2] == START_NS + 52 * MS


def test_cameras_have_lanes_of_their_own():
    read = Read(trace_of([frame(0), frame(0, camera=b"rear")], {}))
    lanes = Counter(lane for lane, *_ in read.slices)
    assert lanes["detector_node", "front"] == lanes["detector_node", "rear"] == 3


def record_frames(path, frames):
    with Recorder(path) as recorder:
        for one in frames:
            recorder.write(FRAME_REPORT_TOPIC, FRAME_REPORT, one.stamp_ns, write_frame_report(one))
    return path


@pytest.mark.parametrize(
    ("frames", "words"), [([], "no frame reports"), ([frame(0, stamps_ms=(5,) * 6)], "lockstep")]
)
def test_a_recording_without_durations_is_refused(tmp_path, frames, words):
    with pytest.raises(RecordingError, match=words):
        read_traced(record_frames(tmp_path / "r.mcap", frames))


def test_a_running_graph_is_traced_from_its_journals(tmp_path):
    with closing(Journal("traced", "detector")) as journal:
        for number in range(3):
            for kind in (RecordKind.ENTERED, RecordKind.OUTCOME):
                record = frame(number)
                record.kind = kind
                journal.append(record)
        trace_command(None, "traced", tmp_path / "t.json")
    slices = Read((tmp_path / "t.json").read_text()).slices
    # The newest record may still be being written.
    assert {facts["frame"] for *_, facts, _ in slices} >= {0, 1}
    assert {lane[1] for lane, *_ in slices} == {"traced"}
    with pytest.raises(SettingsError, match="'traced'"):
        trace_command(None, "traced", tmp_path / "t.json")
