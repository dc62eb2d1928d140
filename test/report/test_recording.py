"""Recordings are read by the definitions that they hold."""

import errno

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from perception_nodes.core.frame import FrameRecord
from perception_nodes.core.health import HealthMode
from perception_nodes.drives import schemas
from perception_nodes.drives.schemas import FRAME_REPORT, HEALTH
from perception_nodes.replay.outputs import MergedRecording
from perception_nodes.report import recording as recorded
from perception_nodes.transport.cdr_writer import write_frame_report


def old_text(type_name):
    """The definition of a message before fields were added."""
    added = {f" {name}" for name in schemas.ADDED}
    lines = schemas.schema_text(type_name).splitlines()
    return "\n".join(line for line in lines if not any(map(line.endswith, added)))


OLD_REPORT, OLD_HEALTH = old_text(FRAME_REPORT), old_text(HEALTH)


def old_messages():
    """A report and a health message by the old definitions, serialized."""
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(OLD_REPORT, FRAME_REPORT))
    store.register(get_types_from_msg(OLD_HEALTH, HEALTH))
    types = store.types
    time = types["builtin_interfaces/msg/Time"](3, 5)
    header = types["std_msgs/msg/Header"](time, "cam")
    numbers = [1920, 1080, 1, 2, *range(10, 17)]
    report = types[FRAME_REPORT](header, "front", 7, 1, False, "late", "open-n", *numbers)
    health = types[HEALTH](time, 3, 0, "no detections", *range(9), [], [])
    return [
        (
            recorded.FRAME_REPORT_TOPIC,
            FRAME_REPORT,
            9,
            bytes(store.serialize_cdr(report, FRAME_REPORT)),
            OLD_REPORT,
        ),
        (recorded.HEALTH_TOPIC, HEALTH, 9, bytes(store.serialize_cdr(health, HEALTH)), OLD_HEALTH),
    ]


def check(path):
    recording = recorded.read_recording(path)
    old, new = recording.reports
    assert (old.camera, old.sequence, old.status, old.model) == ("front", 7, 1, "open-n")
    assert (old.stamp_ns, old.frame_id, old.published_ns) == (3 * 10**9 + 5, "cam", 16)
    assert (old.incarnation, old.report_number, old.lost_after_ns) == (0, 0, 0)
    assert new == recorded.ReportedFrame.of_record(NEW, 10)
    assert [change.mode for change in recording.health] == [HealthMode.UNSAFE]


NEW = FrameRecord(sequence=8, incarnation=2**63, report_number=4, lost_after_ns=10**9)
NEW.source_width, NEW.source_height = 640, 360
NEW.add_look((10, 20), (416, 256), 2.1)


def test_an_older_recording_is_read_by_its_own_definitions(tmp_path):
    with recorded.Recorder(tmp_path / "a.mcap") as recorder:
        for message in old_messages():
            recorder.write(*message)
        recorder.write(recorded.FRAME_REPORT_TOPIC, FRAME_REPORT, 10, write_frame_report(NEW))
    check(tmp_path / "a.mcap")


def test_a_merged_recording_keeps_the_definitions_of_both(tmp_path):
    with recorded.Recorder(tmp_path / "old.mcap") as recorder:
        for message in old_messages():
            recorder.write(*message)
    with MergedRecording(tmp_path / "both.mcap", tmp_path / "old.mcap") as recorder:
        recorder.write(recorded.FRAME_REPORT_TOPIC, FRAME_REPORT, 10, write_frame_report(NEW))
    check(tmp_path / "both.mcap")


NESTED = OLD_REPORT.replace("int32 sec", "string sec")


@pytest.mark.parametrize(
    "text",
    ["uint8", "string camera", "Header header", "Nothing of ours", "FrameReport again", NESTED],
)
def test_a_definition_that_is_none_is_refused(tmp_path, text):
    with recorded.Recorder(tmp_path / "a.mcap") as recorder:
        report = write_frame_report(FrameRecord())
        recorder.write(recorded.FRAME_REPORT_TOPIC, FRAME_REPORT, 1, report, text)
    with pytest.raises(recorded.RecordingError, match="FrameReport"):
        recorded.read_recording(tmp_path / "a.mcap")


def test_the_error_says_that_it_is_the_definition():
    with pytest.raises(schemas.DefinitionError, match="cannot be read"):
        schemas.typestore_of(FRAME_REPORT, "uint8")


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    recorder = recorded.Recorder(tmp_path / "full.mcap")

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recorder._writer, "finish", fail)
    with pytest.raises(OSError, match="No space"), recorder:
        pass
    assert list(tmp_path.iterdir()) == []
