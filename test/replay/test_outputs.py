"""What a run leaves behind."""

import json
import re
from contextlib import suppress

import av
import cv2
import numpy as np
import pytest
from drives import COMPRESSED, IMAGE, PERIOD_NS, START_NS, write_ros2
from mcap.reader import make_reader
from rosbags.rosbag2 import Reader

from perception_nodes.core.frame import STAMPS, Detections, FrameRecord, FrameStatus
from perception_nodes.drives import schemas
from perception_nodes.drives.bag import open_drive
from perception_nodes.replay.outputs import finish
from perception_nodes.report import recording
from perception_nodes.report.drive_report import nothing_found, verdict
from perception_nodes.transport.cdr_writer import write_detection_array, write_frame_report

FRAMES = 30
LATE, SKIPPED, UNSENT, LOST = 7, 8, 20, 21
BOX = (8.0, 6.0, 40.0, 30.0)
MS = 1_000_000


def health_message(stamp_ns, mode, previous, cause):
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    store = schemas.typestore()
    stamp = store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    names = store.types[schemas.HEALTH].__dataclass_fields__
    values = dict.fromkeys([name for name in names if not name.startswith("__")], 0)
    values |= {"stamp": stamp, "mode": mode, "previous_mode": previous, "cause": cause}
    lists = ("silent_processes", "faults", "model_names", "model_shares", "changed_parameters")
    values |= {name: np.empty(0, np.float32) if "shares" in name else [] for name in lists}
    return bytes(store.serialize_cdr(store.types[schemas.HEALTH](**values), schemas.HEALTH))


def record_run(path):
    """A recording of all frames but two: one was not sent, one got lost on its way."""
    sent = []
    with recording.Recorder(path) as recorder:
        for i, mode in enumerate((3, 0, 0)):
            stamp_ns = START_NS + i * MS
            data = health_message(stamp_ns, mode, 3, "detections arrive in time")
            recorder.write(recording.HEALTH_TOPIC, schemas.HEALTH, stamp_ns, data)
        for index in range(FRAMES):
            stamp_ns = START_NS + index * 33 * MS
            if index == UNSENT:
                continue
            sent.append((index, stamp_ns))
            if index == LOST:
                continue
            record = FrameRecord(sequence=index, stamp_ns=stamp_ns, frame_id=b"camera")
            reached = 3 if index == SKIPPED else 6
            for i, name in enumerate(STAMPS[:reached]):
                setattr(record, name, 10**12 + stamp_ns - START_NS + (i + (index == LATE)) * MS)
            record.capture_ns = 10**12 + stamp_ns - START_NS
            statuses = {LATE: FrameStatus.LATE, SKIPPED: FrameStatus.SKIPPED_LATE}
            record.status = statuses.get(index, 0)
            if reached == 6:
                record.detections = 1
                scores, classes = np.array([0.75], np.float32), np.array([0])
                found = Detections(np.array([BOX], np.float32), scores, classes)
                data = write_detection_array(stamp_ns, b"camera", found, (b"car",))
                what = recording.DETECTIONS_TOPIC, schemas.DETECTIONS
                recorder.write(*what, stamp_ns + 5 * MS, data)
            report = write_frame_report(record)
            what = recording.FRAME_REPORT_TOPIC, schemas.FRAME_REPORT
            recorder.write(*what, stamp_ns + 6 * MS, report)
    return sent


@pytest.fixture(scope="module", params=[IMAGE, COMPRESSED], ids=["raw", "compressed"])
def run(request, tmp_path_factory):
    """A finished run: its folder and its summary."""
    folder = tmp_path_factory.mktemp("run")
    sent = record_run(folder / "recording.mcap")
    context = {"bag": "<bag>", "deadline_ms": 5.5, "warnings": ["a warning"]}
    with open_drive(write_ros2(folder / "bag", {"/camera/image": request.param}, FRAMES)) as drive:
        summary = finish(folder / "out", folder / "recording.mcap", drive, sent, context)
    return folder / "out", summary


def test_nothing_but_the_files_promised_is_left(run):
    files = "annotated.mp4 detections.mcap overview.png report.html summary.json timing.csv"
    assert sorted(file.name for file in run[0].iterdir()) == files.split()


def test_summary(run):
    out, summary = run
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["frames_sent"] == FRAMES - 1
    assert summary["frames_in"] == FRAMES - 2 == sum(summary["status"].values())
    assert summary["status"]["LATE"] == summary["status"]["SKIPPED_LATE"] == 1
    assert summary["unaccounted"] == {"frames without a report": 1}
    assert summary["detections"] == FRAMES - 3
    assert summary["latency_ms"]["p50"] == 5
    assert summary["warnings"] == ["a warning"]
    assert [change["mode"] for change in summary["health"]] == ["UNSAFE", "NOMINAL"]


def test_video_shows_every_frame_sent(run):
    with av.open(str(run[0] / "annotated.mp4")) as video:
        (stream,) = video.streams
        # What browsers play.
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = list(video.decode(stream))
    # As the drive was recorded; one was not sent.
    assert [round(frame.time * 1e9) for frame in frames] == [
        index * PERIOD_NS for index in range(FRAMES) if index != UNSENT
    ]
    pictures = [frame.to_ndarray(format="bgr24") for frame in frames]
    data = (run[0] / "annotated.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "it plays while it is being loaded"
    # A late frame has an orange edge: much red, little blue.
    blue, _, red = pictures[LATE][4, 100:200].mean(axis=0)
    assert red > blue + 100


def test_mcap_is_read_by_mcap_and_by_rosbags(run):
    file = run[0] / "detections.mcap"
    with file.open("rb") as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == "ros2"
        found = {}
        times = []
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            assert (schema.encoding, channel.message_encoding) == ("ros2msg", "cdr")
            found.setdefault(schema.name, []).append(message.data)
            times.append(message.log_time)
    assert times == sorted(times)
    counts = {name: len(messages) for name, messages in found.items()}
    assert counts == {
        schemas.HEALTH: 3,
        schemas.DETECTIONS: FRAMES - 3,
        schemas.FRAME_REPORT: FRAMES - 2,
        schemas.COMPRESSED_IMAGE: 2 * (FRAMES - 1),  # as it was, and with boxes
        schemas.ANNOTATIONS: FRAMES - 3,
    }
    with Reader(file) as reader:
        assert sum(1 for _ in reader.messages()) == sum(counts.values())

    read = schemas.typestore().deserialize_cdr
    picture = read(found[schemas.COMPRESSED_IMAGE][0], schemas.COMPRESSED_IMAGE)
    height, width = cv2.imdecode(picture.data, cv2.IMREAD_COLOR).shape[:2]
    annotations = read(found[schemas.ANNOTATIONS][0], schemas.ANNOTATIONS)
    # Drawn with the picture whose stamp they carry, in that picture's pixels.
    assert annotations.points[0].timestamp == picture.header.stamp
    corner = annotations.points[0].points[2]
    assert (corner.x, corner.y) == pytest.approx((BOX[2] * width / 64, BOX[3] * height / 48))
    assert annotations.texts[0].text == "car 0.75"


def test_report_needs_nothing_else(run):
    text = (run[0] / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", text.split("</script>")[-1])
    assert not re.search(r"""<(script|img|iframe)[^>]*\ssrc\s*=\s*["']?\s*(https?:)?//""", text)
    assert not re.search(r"<link|@import", text.split("<script>")[0])
    assert "&lt;bag&gt;" in text
    assert "<bag>" not in text
    assert text.count("data:image/jpeg;base64,") >= 6


def test_a_run_without_frames_is_reported_too(tmp_path):
    with recording.Recorder(tmp_path / "empty.mcap"):
        pass
    with open_drive(write_ros2(tmp_path / "bag", {"/camera/image": IMAGE}, 3)) as drive:
        summary = finish(tmp_path / "out", tmp_path / "empty.mcap", drive, [(0, 7)], {})
    assert summary["frames_in"] == 0
    assert summary["unaccounted"] == {"frames without a report": 1}
    assert "No frame arrived" in (tmp_path / "out/report.html").read_text()


def test_verdict_in_words(run):
    tone, sentence = verdict(run[1])
    assert tone == "bad"
    assert sentence.startswith(f"{FRAMES - 4} of {FRAMES - 2} frames (92.9%)")
    assert sentence.endswith(
        "1 late, 1 skipped as already late. Not all is accounted for (frames without a report: 1). "
        f"Found: {run[1]['detections']} objects."
    )


GOLDEN = {"changes": [], "kinds": {}, "frames_changed": 0, "expected_objects": 0}
NOTHING = "o object was found in any of 10 frames"


@pytest.mark.parametrize("timing", [{"over_deadline": 0}, {"miss_rate": 0.0}])
@pytest.mark.parametrize(
    ("more", "tone", "words"),
    [
        ({}, "bad", f"{NOTHING}.*suspicious"),
        ({"backend": "null"}, "bad", f"{NOTHING}.*detects nothing"),
        ({"golden": {**GOLDEN, "expected_objects": 1}}, "bad", "o object was found"),
        ({"golden": GOLDEN}, "good", "^(?!.*o object was found)"),
        ({"detections": 3}, "good", "3 objects"),
        ({"detections": 3, "lost_in_bag": 70}, "bad", "70 recorded ones are lost"),
    ],
)
def test_a_run_that_found_nothing_says_so_first(timing, more, tone, words):
    status = dict.fromkeys(FrameStatus.__members__, 0) | {"OK": 10}
    facts = {"frames_in": 10, "detections": 0, "lost_in_bag": 0, "backend": "openvino"}
    found = verdict({**facts, "status": status, **timing, **more})
    assert found[0] == tone and re.search(words, found[1])


@pytest.mark.parametrize(
    ("missed", "timing"), [("FAILED", {"over_deadline": 0}), ("SKIPPED_LATE", {"miss_rate": 1.0})]
)
def test_where_no_frame_left_nothing_was_found(missed, timing):
    status = dict.fromkeys(FrameStatus.__members__, 0) | {missed: 20}
    facts = {"frames_in": 20, "detections": 0, "lost_in_bag": 0, "status": status, **timing}
    nothing = "o object was found: no frame left as detections"
    assert nothing in nothing_found(facts)
    tone, sentence = verdict(facts)
    assert tone == "bad" and nothing in sentence
    assert not nothing_found({**facts, "golden": {"expected_objects": 0}})


def test_recording_appears_when_complete(tmp_path):
    path = tmp_path / "some/recording.mcap"
    recorder = recording.Recorder(path)
    assert not path.exists()
    recorder.close()
    recorder.close()
    assert path.exists()
    with pytest.raises(KeyError), recording.Recorder(tmp_path / "failed.mcap"):
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ["some"]


@pytest.mark.parametrize("content", [None, b"\x89MCAP0\r\n"])
def test_unreadable_recording(tmp_path, content):
    if content is not None:
        (tmp_path / "r.mcap").write_bytes(content)
    with pytest.raises(recording.RecordingError, match=r"r\.mcap cannot be read"):
        recording.read_recording(tmp_path / "r.mcap")


def test_a_damaged_recording_is_refused_or_read_whole(tmp_path):
    record_run(tmp_path / "r.mcap")
    file = tmp_path / "r.mcap"
    whole, data = list(recording.read_messages(file)), file.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for case in range(300):
        hurt = bytearray(data)
        if case % 3:
            for _ in range(case % 3):
                hurt[rng.integers(len(hurt))] ^= 1 << rng.integers(8)
        else:
            del hurt[rng.integers(len(hurt)) :]
        (tmp_path / "hurt.mcap").write_bytes(hurt)
        try:
            found = list(recording.read_messages(tmp_path / "hurt.mcap"))
        except recording.RecordingError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert [message.data for message in found] == [message.data for message in whole]
        with suppress(recording.RecordingError):
            recording.read_recording(tmp_path / "hurt.mcap")
    assert refused > 100


def test_recording_with_a_message_that_is_not_as_it_says(tmp_path):
    with recording.Recorder(tmp_path / "old.mcap") as recorder:
        recorder.write(recording.HEALTH_TOPIC, schemas.HEALTH, 1, b"\x00\x01\x00\x00" + bytes(8))
    with pytest.raises(
        recording.RecordingError, match="damaged: a message of perception_interfaces"
    ):
        recording.read_recording(tmp_path / "old.mcap")
