"""The benchmark without ROS: its account, its adapters, its processes and its page."""

import errno
import json
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from peers import adapters, compare, report, streaming
from peers.account import Heard, account, median
from peers.camera import stamped
from peers.compare import main
from peers.frames import prepare
from peers.measure import Log, Round, Witness, as_json
from peers.subscriber import Reports, objects_in, stamp_of

from perception_nodes.core.frame import Detections
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.report.recording import FrameDetections, RecordingError
from perception_nodes.transport.cdr_writer import write_detection_array

MS = 1_000_000
PATHS = [str(Path(__file__).parents[place]) for place in (2, 1)]
"""Where the modules of a process of its own are."""
HOSTILE = "<script>alert(1)</script>"
MINE = {
    "title": HOSTILE,
    "licence": "",
    "command": "exec {python} mine.py {weights} {deadline_ms}",
    "image_topic": "/image",
    "result": {"topic": "/found", "type": "vision_msgs/msg/Detection2DArray"},
    "values": {"weights": "a b.pt"},
}


def heard(*latencies_ms, told=()):
    """Frames 40 ms apart from 1 s on; None for one without an answer."""
    stamps = [1000 * MS + 40 * MS * place for place in range(len(latencies_ms))]
    answers = [
        (stamp, stamp + round(ms * MS), 2)
        for stamp, ms in zip(stamps, latencies_ms, strict=True)
        if ms is not None
    ]
    sent = [(stamp, stamp) for stamp in stamps]
    return Heard(sent, answers, [sent[one] for one in told])


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (heard(), dict(sent=0, answered=0, silent=0, objects=None)),
        (heard(5, 10, 11), dict(sent=3, answered=3, in_time=2, late=1, told=0, silent=0)),
        (heard(5, None, None, told=[1]), dict(answered=1, in_time=1, told=1, silent=1)),
        # Of two frames that were lost, one report is of one, whose stamp it does not know.
        (heard(5, None, None) + Heard(told=[(1001 * MS, 2000 * MS)]), dict(told=1, silent=1)),
        # A report that can be of several frames leaves to others those that only they can be of.
        (
            heard(None, None) + Heard(told=[(999 * MS, 1080 * MS), (960 * MS, 1000 * MS)]),
            dict(told=2, silent=0),
        ),
        # A frame that is answered was not missed, whatever is said of it.
        (heard(5, 30, told=[1]), dict(in_time=1, late=1, told=0, silent=0)),
        (
            heard(5) + Heard(answers=[(1000 * MS, 1020 * MS, 4)]),
            dict(answered=1, again=1, objects=3),
        ),
        (heard(5) + Heard(answers=[(7, 8, 2)]), dict(answered=1, unknown=1, again=0)),
    ],
)
def test_each_frame_has_one_fate(frames, expected):
    found = account(frames, 10)
    assert {key: found[key] for key in expected} == expected
    assert found["sent"] == sum(found[key] for key in ("in_time", "late", "told", "silent"))


def test_a_frame_without_an_answer_is_slower_than_all_others():
    found = account(heard(*[4.0] * 98, 8.0, None), 10)
    assert found["latency_ms"]["p50"] == 4.0 and found["latency_ms"]["max"] is None
    assert found["answered_ms"]["max"] == 8.0
    assert found["within"]["5"] == 0.98 and found["within"]["200"] == 0.99
    assert account(heard(), 10)["within"]["5"] is None


def test_the_first_of_two_answers_counts_and_the_time_chooses_the_frames():
    twice = heard(5, 6) + Heard(answers=[(1000 * MS, 1030 * MS, 2)])
    assert twice.latencies_ms() == [5, 6]
    assert twice.between(1040 * MS, 2000 * MS).latencies_ms() == [6]
    assert twice.first_answer_ns(1001 * MS) == 1046 * MS
    assert twice.first_answer_ns(2000 * MS) is None


def test_an_answer_to_no_frame_is_known_by_its_arrival():
    frames = heard(5, None) + Heard(answers=[(0, 1010 * MS, 1), (0, 1050 * MS, 1), (0, 9, 1)])
    assert account(frames.between(1000 * MS, 1040 * MS), 10)["unknown"] == 1
    assert account(frames.between(1000 * MS, 1080 * MS), 10)["unknown"] == 2
    # The answer to a frame that is not judged is none to a strange one.
    assert account(frames.between(1001 * MS, 1040 * MS), 10)["unknown"] == 1


def test_a_report_is_of_the_frames_that_are_judged():
    frames = Heard(told=[(1, 5), (4, 30), (12, 40), (20, 20)])
    assert frames.between(5, 20).told == [(5, 5), (5, 19), (12, 19)]


def test_processor_time_is_told_by_answered_frames():
    judged = heard(5, 6, None) + Heard(answers=[(1000 * MS, 1030 * MS, 2), (7, 8, 2)])
    found = as_json([Round(judged=judged, over_s=1.0, computed_s=0.5)])
    assert found["processor_ms_per_answer"] == 250


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([3, 1, 2], 2),
        ([4, 1], 2.5),
        ([1, None], None),
        ([1, None, None], None),
        ([None, 1, 2], 2),
    ],
)
def test_what_never_came_is_larger_than_all_others(values, expected):
    assert median(values) == expected


@pytest.mark.parametrize("frame_id", [b"", b"cam", b"camera/front"])
@pytest.mark.parametrize("count", [0, 3])
def test_stamp_and_objects_are_read_from_any_stamped_message(frame_id, count):
    boxes = np.zeros((count, 4), np.float32)
    found = Detections(boxes, np.ones(count, np.float32), np.zeros(count, np.int32))
    message = write_detection_array(5, frame_id, found, (b"car",))
    again = stamped(bytes(message), 12_000_000_034)
    assert stamp_of(again) == 12_000_000_034
    assert objects_in(again) == count
    assert again[12:] == bytes(message)[12:]


def test_a_big_endian_message_keeps_its_order():
    message = stamped(b"\0\0\0\0" + bytes(8) + struct.pack(">I4xI", 1, 7), 3_000_000_004)
    assert stamp_of(message) == 3_000_000_004 and objects_in(message) == 7
    assert objects_in(message[:14]) == 0


def test_lines_of_others_are_left_out():
    witness = Witness()
    read, write = os.pipe()
    with open(write, "wb") as lines:
        lines.write(b"listening\nsent 1 2\n\nsent of a library\nanswer 1 5 3\ntold 4 6\nanswer 1\n")
    witness.follow(open(read, "rb"))
    assert witness.wait(lambda: bool(witness.heard.told), 60)
    assert witness.is_listening
    assert witness.copy() == Heard([(1, 2)], [(1, 5, 3)], [(4, 6)])


def test_a_report_names_a_frame_or_the_stamps_around_it_and_counts_once():
    def message(status, stamp, number=0, after=0, before=0):
        times = [SimpleNamespace(sec=one, nanosec=0) for one in (stamp, after, before)]
        return SimpleNamespace(
            status=status,
            number=number,
            header=SimpleNamespace(stamp=times[0]),
            after=times[1],
            before=times[2],
        )

    second = 10**9
    reports = Reports("status", ["1", "5"], ["after", "before"], "number")
    assert reports.told(message(0, 2, 1), 0) is None
    assert reports.told(message(1, 2, 2), 0) == (2 * second, 2 * second)
    assert reports.told(message(1, 2, 2), 0) is None  # sent again
    assert reports.told(message(1, 3, 2), 0) == (3 * second, 3 * second)  # counted anew
    lost = message(5, 0, 3, after=4, before=6)
    assert reports.told(lost, 0) == (4 * second + 1, 6 * second - 1)
    assert reports.told(lost, 0) is None
    assert reports.told(message(5, 0, 4, after=4), 9 * second) == (4 * second + 1, 9 * second - 1)
    for _ in range(2):  # without a number nobody knows whether it is the same one
        assert reports.told(message(1, 5), 0) == (5 * second, 5 * second)
    assert Reports("status", ["5"]).told(lost, 0) == (0, 0)


def test_a_log_is_that_of_its_own_round(tmp_path):
    (tmp_path / "log").write_text("ready\n")
    with (tmp_path / "log").open("ab") as file:
        log = Log(file)
        assert log.text() == "" and log.last_line() == "it said nothing"
        subprocess.run(["echo", "\x1b[31malas\x1b[0m\n"], stdout=file, check=True)
        assert log.last_line() == "alas" and "ready" not in log.text()


def test_a_check_that_does_not_end_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "CHECK_TIMEOUT_S", 1)
    pipe, began = tmp_path / "pipe", tmp_path / "began"
    os.mkfifo(pipe)
    peer = adapters.Peer("mine", adapters.Adapter.model_validate(MINE))
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        while not began.exists():  # a busy machine may not begin within a second
            succeeded, said = peer.output(f"(sleep 600 & touch {began}; wait) > {pipe}")
            assert not succeeded and "no end after" in said
        assert select.select([reader], [], [], 60)[0], "something still has the pipe open"


def test_the_adapters_here_can_be_filled_in():
    known = adapters.read([adapters.OWN])
    assert {"ours", "predict", "yolo_ros", "autoware", "isaac"} <= {*known}
    for peer in adapters.chosen(known, [], [], [], []):
        words = peer.command(width=640, height=480, deadline_ms=10.0)
        assert peer.adapter.image_topic in words[-1] or peer.name == "isaac"
        assert "{" not in words[-1].replace("${PYTHONPATH", "")
        for check in peer.adapter.checks:
            peer.filled(check.run)


def test_a_setting_is_quoted_and_words_are_added(tmp_path):
    mine = {"mine": adapters.Adapter.model_validate(MINE)}
    setup = tmp_path / "set up.bash"
    (peer,) = adapters.chosen(
        mine, [], ["mine.weights=c d.pt"], ["mine=a:=1", "mine=b:=2"], [setup]
    )
    words = peer.command(deadline_ms=10)
    assert words[0] == "env" and "PYTHONPATH" in words
    assert words[-1] == f"source '{setup}' && exec python3 mine.py 'c d.pt' 10 a:=1 b:=2"
    assert "does not exist" in peer.missing()[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"comand": "x"}, "mine: comand: it is unknown"),
        ({"result": {"topic": "/a", "type": "Detection"}}, "result.type"),
        ({"command": None}, "command"),
        (
            {
                "reports": dict(
                    topic="/r", type="a/msg/R", field="status", missed=[1], lost=["after"]
                )
            },
            "reports.lost: .*two fields are wanted, or none; there are 1",
        ),
    ],
)
def test_a_wrong_adapter_is_named(tmp_path, change, problem):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"mine": MINE | change}))
    with pytest.raises(adapters.AdapterError, match=problem):
        adapters.read([file])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nobody"], "peer 'nobody' is unknown"),
        (["--set", "predict.weight=a"], "predict has predict.weights"),
        (["--set", "nobody.weights=a"], "peer 'nobody' is unknown"),
        (["--more", "ours"], "PEER=WORDS is wanted"),
        (["--adapters", "not there.yaml"], "not there.yaml cannot be read"),
    ],
)
def test_a_wrong_choice_is_named(words, problem, capsys):
    assert main([*words, "--list"]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "is_told"), [(errno.ENOSPC, True), (errno.EACCES, True), (errno.EMFILE, False)]
)
def test_place_is_asked_for_where_it_lacks(number, is_told, monkeypatch, capsys):
    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(compare, "read", fail)
    assert main(["--list"]) == 2
    said = capsys.readouterr().err
    assert os.strerror(number) in said and ("free the place" in said) == is_told


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_the_end_of_the_terminal_ends_it_in_order(number, monkeypatch):
    monkeypatch.setattr(compare, "read", lambda _: signal.raise_signal(number))
    before = signal.signal(number, lambda *_: None)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["--list"])
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number


def test_a_drive_that_does_not_fit_is_cut_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("peers.frames.MOST_BYTES", 64 * 48 * 3 * 3)  # and what is around the pixels
    about, _ = prepare(Path("synthetic:64x48@30*5"), "", tmp_path)
    assert about["frames"] == 2
    assert "only the first 2 frames (0.0 s) are played" in about["warnings"][-1]


def test_frames_are_written_for_the_camera(tmp_path):
    about, _ = prepare(Path("synthetic:64x48@30*5"), "", tmp_path)
    assert (about["width"], about["height"], about["frames"]) == (64, 48, 5)
    assert about["hz"] == pytest.approx(30, abs=0.1) and not about["warnings"]
    places = json.loads((tmp_path / "about.json").read_text())["places"]
    begin, end = places[-1]
    assert len(places) == 5 and end == (tmp_path / "frames.bin").stat().st_size
    message = (tmp_path / "frames.bin").read_bytes()[begin:end]
    assert stamp_of(stamped(message, 123)) == 123


FAMILY = """
import sys, time
sys.path[:0] = sys.argv[1:]
from peers.processes import Family, Meter, all_processes
with Family() as family, open("log", "wb") as log:
    # What has lost its parent and its session belongs to it too, and gets no signal of a terminal.
    words = "(trap '' INT; setsid sleep 600 & ) ; trap '' INT; echo on; while :; do :; done"
    process = family.start(["bash", "-c", words], {}, log, log)
    while len(family.of(process)) < 2:
        time.sleep(0.01)
    meter = Meter(family, process)
    while meter.computed_s < 0.05:
        meter.look()
    pids = [one.pid for one in family.of(process)]
    assert meter.memory_mb() > 0.1
    victim, line = meter.victim("while")
    assert victim.pid == process.pid and meter.victim("no such process") is None
    victim.kill()
assert len(pids) >= 2 and not {*pids} & {*all_processes()}, pids
"""


def test_nothing_that_was_started_is_left(tmp_path):
    subprocess.run([sys.executable, "-c", FAMILY, *PATHS], cwd=tmp_path, check=True, timeout=500)


CAMERA = """
import sys, time
file = sys.argv[sys.argv.index("--topic") + 1]
while True:
    now = time.time_ns()
    open(file, "w").write(str(now))
    print("sent", now, now, flush=True)
    time.sleep(0.02)
"""
DETECTOR = """
import sys, time
print("ready", flush=True)
last = ""
while True:
    frame = open(sys.argv[1]).read()
    if frame not in ("", last):
        open(sys.argv[2], "a").write(frame + "\\n")
    last = frame
    time.sleep(0.001)
"""
SUBSCRIBER = """
import sys, time
file = open(sys.argv[sys.argv.index("--result") + 1])
print("listening", flush=True)
while True:
    line = file.readline()
    if line.endswith("\\n"):
        print("answer", line.strip(), time.time_ns(), 1, flush=True)
    else:
        time.sleep(0.001)
"""
WHOLE = """
import os, sys
from pathlib import Path
here = Path.cwd()
sys.path[:0] = sys.argv[1:]
from peers import adapters, measure, processes
adapters.HERE = here / "tools"
measure.LAST_ANSWERS_S, processes.STOP_TIMEOUT_S, measure.READY_S = 0.2, 0.2, 300
adapter = adapters.Adapter(
    title="", licence="", ros="this", start_s=300, kill="detector.py",
    command="while :; do {python} {here}/detector.py {image_topic} {result_topic}; done",
    image_topic=str(here / "frame"), result={"topic": str(here / "answers"), "type": "a/msg/A"},
)
setup = measure.Setup(here, 64, 48, 50.0, 0.0, 0.5, 300.0, 10.0, 0, here, 1)
said = []
found = measure.measure(adapters.Peer("fake", adapter), setup, 0, said.append)
assert found.start_s > 0 and found.memory_mb > 1 and found.over_s >= 0.5
assert "detector.py" in found.killed and found.recovery_s > 0
begins = [line.partition(",")[0] for line in said]
assert {"starts", "is measured", "was killed", "answers again"} <= {*begins}, begins
(here / "answers").write_text("")
silent = adapter.model_copy(update={"command": "echo alas; exit 3"})
try:
    measure.measure(adapters.Peer("mute", silent), setup, 1, said.append)
except measure.PeerFailure as failure:
    assert "status 3 before its first answer: alas" in str(failure), failure
else:
    raise AssertionError("it cannot have answered")
assert len(processes.descendants({os.getpid()}, processes.all_processes())) == 1
"""


def test_a_detector_is_started_judged_killed_and_ended(tmp_path):
    """The whole way, with files in place of topics."""
    (tmp_path / "tools").mkdir()
    for name, text in (("camera", CAMERA), ("detector", DETECTOR), ("subscriber", SUBSCRIBER)):
        (tmp_path / f"tools/{name}.py").write_text(text)
    (tmp_path / "answers").touch()
    subprocess.run([sys.executable, "-c", WHOLE, *PATHS], cwd=tmp_path, check=True, timeout=500)


def result(judged=False, **peers):
    """A result in which each peer answers after a number of milliseconds."""
    measured = {
        name: {
            "title": name if name == adapters.OURS else HOSTILE,
            "version": HOSTILE,
            "licence": HOSTILE,
            "note": HOSTILE,
            "command": HOSTILE,
            "account": account(heard(ms, ms, None), 10),
            "after_kill": account(heard(ms), 10),
            "latencies_ms": [ms, ms, None],
            "start_s": [2.0],
            "recovery_s": [None],
            "killed": [HOSTILE],
            "processors": 0.5,
            "idle_processors": 0.0,
            "processor_ms_per_answer": 3.0,
            "memory_mb": 100.0,
            "stale_ms": {"p50": ms, "p99": None},
            "streaming": {"map50": ms / 100} if judged else None,
        }
        for name, ms in peers.items()
    }
    return {
        "made": "now",
        "machine": HOSTILE,
        "setup": {"drive": HOSTILE, "deadline_ms": 10},
        "warnings": [HOSTILE],
        "peers": measured,
        "not_run": {"isaac": {"title": "Isaac", "why": HOSTILE, "remedy": "buy a card"}},
    }


def test_the_page_says_where_a_peer_is_better_and_what_did_not_run():
    found = result(ours=8.0, quick=4.0, slow=40.0)
    assert report.strangers(found["peers"]) == []
    found["peers"]["slow"]["account"]["unknown"] = 3
    assert "3 results with the stamp of no frame" in report.strangers(found["peers"])[0]
    (sentence,) = report.better_than_ours(found["peers"])
    assert "latency of the answered, p50, ms (4.0, ours 8.0)" in sentence
    assert "memory" not in sentence
    page = report.render(found)
    assert "Where a peer is better" in page and "buy a card" in page
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "3 detectors measured, 1 not. In some figures we are behind 1 peer." in page


def test_accuracy_that_is_not_known_is_neither_better_nor_worse():
    found = result(judged=True, ours=8.0, quick=4.0, slow=40.0)
    assert "streaming accuracy" not in report.better_than_ours(found["peers"])[0]
    assert (
        "streaming accuracy, AP50 (0.400, ours 0.080)"
        in (report.better_than_ours(found["peers"])[1])
    )
    found["peers"]["slow"]["streaming"] = None
    assert len(report.better_than_ours(found["peers"])) == 1
    assert report.rows(found["peers"])[0][1][2] == ("not known", False)


def car(place):
    """The objects of a frame: a car that is somewhere else in each."""
    box = np.array([[10.0 + 30 * place, 10, 40 + 30 * place, 40]], np.float32)
    return FrameDetections(("car",), np.ones(1, np.float32), box)


def test_streaming_accuracy_is_of_what_is_held():
    frames = heard(*[1.0] * 8, None, None)
    stamps = [stamp_ns for stamp_ns, _ in frames.sent]
    assert frames.held_ns(stamps) == [None, *stamps[:7], stamps[7], stamps[7]]
    strange = Heard(answers=[(7 * 10**9, 10**9, 0)])  # of no frame, and of the future
    assert (frames + strange).held_ns(stamps) == frames.held_ns(stamps)
    one = np.zeros(1, np.int64), np.zeros(1, bool)
    labels = {
        n: LabelledImage(Path(f"{n}.png"), car(n).boxes / [400, 50, 400, 50], *one)
        for n in range(10)
    }
    truth = LabelledSet(
        "cars", ("vehicle",), tuple(labels.values()), counts_as={"vehicle": ("car", "bus")}
    )
    own = streaming.accuracy([(n, car(n)) for n in range(10)], labels, truth, (400, 50))
    assert own["map50"] == pytest.approx(1.0, abs=0.01) and own["instants"] == 10
    late = [(0, None), *((n, car(n - 1)) for n in range(1, 10))]
    assert streaming.accuracy(late, labels, truth, (400, 50))["map50"] == 0
    half = [(n, car(n) if n < 5 else None) for n in range(10)]
    assert 0.4 < streaming.accuracy(half, labels, truth, (400, 50))["map50"] < 0.6
    number = FrameDetections(("2",), np.ones(1, np.float32), car(0).boxes)
    numbers = streaming.accuracy([(0, number), (1, None)], labels, truth, (400, 50))
    assert numbers["map50"] is None and "none of its classes (2) is one" in numbers["not_known"]
    # Who holds nothing is judged.
    assert streaming.accuracy([(0, None)], labels, truth, (400, 50))["map50"] == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"boxes": "none"}, "not those of the source image"),
        ({"type": "yolo_msgs/msg/DetectionArray"}, "it sends yolo_msgs/msg/DetectionArray"),
    ],
)
def test_boxes_that_cannot_be_compared_are_not_judged(change, why):
    adapter = adapters.Adapter.model_validate(MINE | {"result": MINE["result"] | change})
    unread = adapter.result.unread
    assert why in unread and bool(why) == bool(unread)
    one = LabelledSet("cars", ("vehicle",), ())
    setup = SimpleNamespace(hz=30.0, width=64, height=48)
    rounds = [Round(unread=unread)]
    found = compare._streaming(rounds, setup, 1, {}, one)
    assert found["map50"] is None and found.get("not_known", "") == unread
    assert compare._streaming(rounds, setup, 1, {}, None) is None
    lines = report.not_judged({"mine": {"title": "Mine", "streaming": found}})
    assert lines == [
        f"The streaming accuracy of Mine is not known: {why}." for why in [unread] if why
    ]


def test_kept_results_are_read_but_one_that_was_cut_off(tmp_path):
    found = Detections(car(1).boxes, np.ones(1, np.float32), np.zeros(1, np.int32))
    message = bytes(write_detection_array(5, b"cam", found, (b"car",)))
    whole = struct.pack("<I", len(message)) + message
    for cut in (3, len(whole) - 1):
        (tmp_path / "kept").write_bytes(whole + whole[:cut])
        assert streaming.read_kept(tmp_path / "kept")[5].boxes == pytest.approx(car(1).boxes)
    (tmp_path / "kept").write_bytes(struct.pack("<I", len(message) - 5) + message[:-5])
    with pytest.raises(RecordingError):
        streaming.read_kept(tmp_path / "kept")


@pytest.mark.parametrize(
    ("peers", "tone", "words"),
    [
        ({}, "fair", "no detector measured, 1 not: there is nothing to compare with."),
        ({"ours": 5.0}, "fair", "1 detector measured, 1 not: there is nothing to compare with."),
        ({"ours": 5.0, "a": 5.01}, "good", "We are behind no peer in any figure."),
    ],
)
def test_the_verdict_claims_no_more_than_was_measured(peers, tone, words):
    found = result(**peers)
    assert report.verdict(found)[0] == tone and words in report.verdict(found)[1]
    assert words in report.render(found)
