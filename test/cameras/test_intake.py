"""Which of a camera's numbered frames are new, which are missing, and what is reported of them."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

from perception_nodes.cameras import channel
from perception_nodes.cameras.awaited import channel_trouble, rivals
from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.cameras.frame_numbers import FrameNumbers
from perception_nodes.cameras.intake import LOST, LOST_ON_THE_WAY, Intake
from perception_nodes.core.budget import Budget
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.frame import MAX_GAP, FrameHeader, ImageView, RecordKind
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.transport.memory import TransportError


@pytest.mark.parametrize(
    ("sent", "missing"),
    [
        ([(1, 100)], [[]]),  # the camera was running before us
        ([(1, 3, 3), (2, 100, 2), (2, 102, 1), (3, 1, 5)], [[0, 1, 2], [98, 99], [101], [0]]),
        ([(1, 5), (2, 50), (1, 8), (2, 51)], [[], [], [6, 7], []]),
        ([(1, 5), (1, 0)], [[], []]),  # the numbers begin anew
        ([(1, 2, 0, 0), (1, 4, 1, 0), (2, 3, 0, 1), (3, 0, 0, 1)], [[0, 1], [3], [1, 2], []]),
    ],
)
def test_numbers_that_a_source_leaves_out_or_lost_itself_are_missing(sent, missing):
    numbers = FrameNumbers()
    assert [[*numbers.missing_before(*one)] for one in sent] == missing


def test_what_a_predecessor_took_is_not_new_and_what_it_missed_is_missing():
    """Also of the camera before; one that was restarted numbers anew."""
    numbers = FrameNumbers()
    numbers.take_over({7: 90, 1: 5})
    sent = [(1, 5), (1, 8), (1, 3), (7, 90), (7, 92)]
    missing = [None, range(6, 8), range(0), None, range(91, 92)]
    assert [numbers.missing_before(*one) for one in sent] == missing


def test_numbers_that_begin_anew_or_stand_still_are_new_after_a_takeover():
    numbers = FrameNumbers()
    numbers.take_over({1: 10_000, 2: 0})
    assert [[*numbers.missing_before(1, number)] for number in (0, 1)] == [[], []]
    standing = [numbers.missing_before(2, 0) for _ in range(100)]
    assert 0 < standing.count(None) < 20


def intake(reasons, video=None, slots=None, told=None):
    """One whose reports of frames that ended here are added to a list, as are changes to `told`."""

    def send(record):
        if record.kind == RecordKind.OUTCOME:
            reasons.append(record.reason.decode())

    calls = dict.fromkeys(("take", "enter", "end"), lambda *_: None)
    lease = SimpleNamespace(**calls, taken=dict, note=SimpleNamespace(source=0))
    ingest = Ingest(Preprocessor(64, 64, undistort=False), "front", Budget(), SystemClock())
    records, shape = SimpleNamespace(send=send), (64, 64, 3)
    return Intake(ingest, slots, shape, video, records, lease, (told or []).append)


def notice(source, number, lost):
    """A sample without a frame, whose sender and endpoint have the same number."""
    header, payload = CameraHeader(number=number, lost=lost), np.zeros(50, np.uint8)
    header.note("no signal", payload)
    return SimpleNamespace(header=header, payload=payload, source=source, node=source)


def test_a_change_of_the_images_is_told_once():
    pixels, sent, told = np.zeros(64 * 64 * 3, np.uint8), [], [""]
    slots = SimpleNamespace(
        loan=lambda: SimpleNamespace(payload=pixels, header=FrameHeader()), send=sent.append
    )
    taking = intake([], slots=slots, told=told)
    shown = [(32, 24, "bgr8", "a"), (32, 24, "rgb8", "a"), (16, 24, "rgb8", "a")]
    shown.append((16, 24, "rgb8", "b"))
    for width, height, encoding, frame_id in shown:
        data = memoryview(bytes(3 * width * height))
        image = ImageView(0, frame_id, width, height, encoding, 3 * width, data)
        for _ in range(3):
            taking.take(image, time.monotonic_ns(), 0, superseded=False)
    assert len(sent) == 12
    assert told[1:] == [
        "the camera's images were 32x24 bgr8 of frame_id 'a', now 32x24 rgb8 of frame_id 'a'",
        "the camera's images were 32x24 rgb8 of frame_id 'a', now 16x24 rgb8 of frame_id 'a'",
        "the camera's images were 16x24 rgb8 of frame_id 'a', now 16x24 rgb8 of frame_id 'b'",
    ]


@pytest.mark.parametrize("gap", [3, MAX_GAP, MAX_GAP + 1, 42_000, 2**64 - 100])
def test_a_long_gap_has_one_report(gap):
    """The camera went on while nobody took its frames."""
    reasons = []
    taking = intake(reasons)
    assert taking.is_new(1, 10, 0)
    assert reasons == []
    assert taking.is_new(1, 11 + gap, 0)
    if gap <= MAX_GAP:
        assert len(reasons) == gap
    else:
        assert reasons == [f"one report for {gap} frames that were lost in a row"]


@pytest.mark.parametrize(("lost", "reports"), [(0, 0), (1, 1), (3, 3)])
def test_a_notice_tells_why_no_frame_comes_and_ends_the_lost_frames(lost, reports):
    reasons = []
    taking = intake(reasons)
    assert taking.is_new(1, 10, 0)
    taking.take_sample(notice(1, 11 + lost, lost), 0, superseded=False)
    assert reasons == [LOST] * (reports - 1) + [f"{LOST}: no signal"] * bool(reports)
    assert "no frame from the camera 'front': no signal" in str(
        channel_trouble("front", "shm", 1, taking.notice)
    )
    assert taking.is_new(1, 11 + lost, 0)
    assert len(reasons) == reports


def test_the_first_frames_of_a_camera_that_has_begun_meanwhile_are_accounted_for():
    """Those of one that was there before us are not."""
    reasons, last = [], f"{LOST}: no signal"
    taking = intake(reasons)
    taking.earlier = {7}
    for source in (7, 8):
        taking.take_sample(notice(source, 4, lost=1), 0, superseded=False)
    assert reasons == [last, *[LOST_ON_THE_WAY] * 3, last]


def test_a_lost_frame_is_told_with_the_stamps_around_it():
    sent = []
    taking = intake(SimpleNamespace(append=lambda _: None))
    taking._records.send = sent.append
    assert taking.is_new(1, 10, 0, stamp_ns=100)
    assert taking.is_new(1, 12, 0, lost=1, stamp_ns=166)
    lost = sent[-1]
    assert (lost.lost_after_ns, lost.lost_before_ns) == (100, 166)


def test_frames_of_two_producers_that_alternate_are_reported_by_name(join):
    reader_end = join("reader")
    reader, taking = channel.camera_reader(reader_end, "front"), intake([])
    writers = [channel.camera_writer(join(name), "front", 6) for name in ("camera_front", "stray")]

    def take(*senders):
        for sender in senders:
            sample = writers[sender].loan()
            sample.header.describe(1, "mono8", 2, 1, 0, 2)  # its step is not enough
            writers[sender].send(sample)
            received = reader.receive()
            taking.take_sample(received, 0, superseded=True)
            received.release()
        changed_to, taking.changed_to = taking.changed_to, []
        return rivals("front", changed_to, channel.camera_names(reader_end, "front"))

    assert take(0, 0, 0) is None
    assert take(1, 1) is None, "another camera in its place"
    assert re.search(r"_front \(process \d+\), stray \(process \d+\); end", str(take(0, 1, 0)))


def test_video_waits_for_a_key_frame_wherever_packets_may_be_missing():
    """Behind a gap, from another publisher, and where another node has taken them meanwhile."""
    waits = []
    taking = intake([], SimpleNamespace(interrupt=waits.append))

    def interrupted(source, number):
        waits.clear()
        assert taking.is_new(source, number, 0)
        return bool(waits)

    named = [(1, 10), (1, 11), (1, 13), (3, 0), (3, 1)]
    assert [interrupted(*one) for one in named] == [True, False, True, True, False]
    taking.take_over(died=False)
    assert [interrupted(3, number) for number in (2, 3)] == [True, False]


def test_a_superseded_frame_whose_report_cannot_be_sent_gets_no_second_outcome():
    sent = []

    def no_room(reason):
        sent.append(reason)
        raise TransportError("no free slot in shared memory")

    taking = intake(SimpleNamespace(append=no_room))
    image = ImageView(1, "", 1, 1, "mono8", 1, memoryview(b"\0"))
    with pytest.raises(TransportError):
        taking.take(image, 0, 0, superseded=True)
    assert sent == ["a newer frame was waiting before preprocessing"]
