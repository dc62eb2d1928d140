"""GStreamer's pipelines as cameras, for real: pixels, stamps, ends, errors."""

import sys
import time
from contextlib import closing

import numpy as np
import pytest

from perception_nodes.cameras.camera_source import CameraEnded, CameraError, CameraGone
from perception_nodes.cameras.channel import camera_reader, camera_writer, view_camera_frame
from perception_nodes.cameras.gstreamer_source import ENCODINGS, REMEDY, GStreamerSource
from perception_nodes.core.frame import FrameHeader
from perception_nodes.preprocess.cpu import Preprocessor


def lack():
    try:
        import gi

        gi.require_version("GstVideo", "1.0")
    except (ImportError, ValueError) as error:
        return f"{error}: make camera-packages stream-test"
    return ""


LACK = lack()
needs_gstreamer = pytest.mark.skipif(bool(LACK), reason=LACK)
pytestmark = pytest.mark.stream


@pytest.fixture
def shot(join):
    """Opens a pipeline and takes frames: what it said, number of lost ones and view of each."""
    sources = []

    def take(pipeline, frames, patience_s=20.0, stall_s=0.0, loop=False):
        source = GStreamerSource(pipeline, loop)
        sources.append(source)
        found, opened = [], source.open()
        endpoint = join(f"camera{len(sources)}")
        reader = camera_reader(join(f"reader{len(sources)}"), "front")
        writer = camera_writer(endpoint, "front", opened.size_bytes, opened.loaned)
        source.start(writer)
        give_up_s = time.monotonic() + patience_s
        while len(found) < frames:
            if len(found) == 5:
                time.sleep(stall_s)
            assert time.monotonic() < give_up_s
            if (frame := source.capture(100.0)) is None:
                continue
            writer.send(frame.sample)
            sample = reader.receive()
            found.append((frame.lost, time.time_ns(), copied(sample)))
            sample.release()
        return opened, found

    yield take
    for source in sources:
        source.close()


def missing(found, rate_hz):
    """How many frames are missing before each, by the stamps."""
    stamps = np.array([stamp_ns for _, _, (stamp_ns, _) in found])
    return list(np.round(np.diff(stamps) / 1e9 * rate_hz).astype(int) - 1)


def lost(found):
    return [lost for lost, *_ in found[1:]]


def copied(sample):
    """The frame as BGR and its header's stamp."""
    view = view_camera_frame(sample.header, sample.payload)
    picture = np.zeros((view.height, view.width, 3), np.uint8)
    Preprocessor(view.width, view.height, False).write(view, picture, FrameHeader())
    return view.stamp_ns, picture


@needs_gstreamer
@pytest.mark.parametrize("size", [(320, 240), (322, 242)])
@pytest.mark.parametrize("name", ENCODINGS)
def test_pixels_are_those_of_the_pipeline(name, size, shot):
    """Colours, their order, and the padding of rows show in the bars."""
    width, height = size
    opened, found = shot(
        f"videotestsrc pattern=smpte100 ! video/x-raw,format={name},width={width},height={height}",
        1,
    )
    assert f", {name} {width}x{height} at " in opened.description
    picture = found[0][2][1]
    # The bars of SMPTE: white, yellow, cyan, green, magenta, red, blue.
    bars = [(1, 1, 1), (0, 1, 1), (1, 1, 0), (0, 1, 0), (1, 0, 1), (0, 0, 1), (1, 0, 0)]
    for place, bar in enumerate(bars):
        x = round((place + 0.5) * width / 7)
        seen = picture[10 : height // 2, x - 4 : x + 4].reshape(-1, 3)
        blue, green, red = (255 * one for one in bar)
        if name == "GRAY8":
            blue = green = red = 16 + 219 / 255 * (0.114 * blue + 0.587 * green + 0.299 * red)
        assert np.abs(seen - np.array([blue, green, red])).max() < 20, (bar, seen[0])


@needs_gstreamer
@pytest.mark.parametrize(
    ("colorimetry", "states"),
    [("bt601", ""), ("bt709", "BT.709"), ("1:4:0:0", "full range"), ("1:3:0:0", "BT.709 in full")],
)
def test_colours_other_than_those_that_are_read_are_noted(colorimetry, states, shot):
    caps = f"video/x-raw,format=NV12,width=64,height=48,colorimetry={colorimetry}"
    opened, _ = shot(f"videotestsrc ! {caps}", 1)
    assert ("it states" in opened.description) == bool(states)
    assert states in opened.description


@needs_gstreamer
def test_a_live_pipeline_is_dated_by_its_clock(shot):
    _, found = shot("videotestsrc is-live=true ! video/x-raw,framerate=50/1,format=NV12", 25)
    stamps, arrivals = np.array([(stamp, arrived) for _, arrived, (stamp, _) in found]).T
    steps = np.diff(stamps) / 20e6
    assert np.abs(steps - np.round(steps)).max() < 0.1
    assert lost(found) == missing(found, 50)
    assert np.abs(arrivals - stamps).max() < 500e6


@needs_gstreamer
def test_a_pipeline_that_is_not_live_keeps_its_pace(shot):
    begin_s = time.monotonic()
    _, found = shot("videotestsrc ! video/x-raw,framerate=20/1,format=GRAY8,width=64,height=48", 20)
    assert time.monotonic() - begin_s > 0.7
    assert sum(lost for lost, *_ in found) == 0


GREY = "video/x-raw,framerate=100/1,format=GRAY8,width=64,height=48"


@needs_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "stall_s", "least"),
    [
        (f"videotestsrc is-live=true ! {GREY} ! identity drop-probability=0.3", 0.0, 1),
        # A decoder numbers nothing: what we take too late is counted by us.
        (f"videotestsrc is-live=true ! {GREY} ! jpegenc ! jpegdec ! videoconvert", 0.5, 20),
        # Positions in bytes are no numbers of frames.
        (
            "filesrc location={} ! rawvideoparse format=gray8 width=64 height=48 framerate=100/1",
            0,
            0,
        ),
    ],
)
def test_frames_that_are_not_delivered_or_taken_too_late_are_lost(
    shot, tmp_path, pipeline, stall_s, least
):
    video = tmp_path / "video.raw"
    video.write_bytes(bytes(300 * 64 * 48))
    _, found = shot(pipeline.format(video), 40, stall_s=stall_s)
    assert lost(found) == missing(found, 100) and sum(lost(found)) >= least


@needs_gstreamer
def test_messages_do_not_pile_up_and_the_first_error_is_the_cause_of_the_end(join):
    from gi.repository import GLib, Gst

    source = GStreamerSource("videotestsrc ! video/x-raw,framerate=100/1")
    opened, bus = source.open(), source._pipeline.get_bus()
    source.start(camera_writer(join("camera"), "front", opened.size_bytes, opened.loaned))
    with closing(source):
        for text in ("the lens cap is on", "streaming stopped"):
            error = GLib.Error.new_literal(Gst.CoreError.quark(), text, Gst.CoreError.FAILED)
            bus.post(Gst.Message.new_error(None, error, "in detail"))
            for _ in range(100):
                bus.post(Gst.Message.new_application(None, Gst.Structure.new_empty("level")))
        give_up_s = time.monotonic() + 20.0
        while bus.have_pending():
            assert time.monotonic() < give_up_s
            source.capture(100.0)
        source._pipeline.send_event(Gst.Event.new_eos())
        with pytest.raises(CameraGone, match="has ended: the lens cap is on"):
            while time.monotonic() < give_up_s:
                source.capture(100.0)


@needs_gstreamer
@pytest.mark.parametrize(
    ("options", "loop", "kind"),
    [("", False, CameraEnded), ("", True, CameraGone), ("is-live=true", False, CameraGone)],
)
def test_a_clip_has_an_end_and_all_else_may_come_back(shot, options, loop, kind):
    pipeline = f"videotestsrc num-buffers=3 {options} ! video/x-raw,framerate=100/1"
    with pytest.raises(CameraError, match="has ended") as raised:
        shot(pipeline, 5, loop=loop)
    assert type(raised.value) is kind


@needs_gstreamer
@pytest.mark.parametrize("caps", ["framerate=50/1,width=64", "framerate=100/1,width=48"])
def test_a_change_of_rate_is_none_of_size(shot, caps):
    first = (
        "videotestsrc num-buffers=5 ! video/x-raw,format=I420,height=48,framerate=100/1,width=64"
    )
    second = f"videotestsrc num-buffers=10 ! video/x-raw,format=I420,height=48,{caps}"
    end = CameraEnded if "width=64" in caps else CameraGone
    with pytest.raises(end, match="has ended" if end is CameraEnded else "another size or format"):
        shot(f"{first} ! c. {second} ! c. concat name=c", 16)


@needs_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "kind", "text"),
    [
        ("nosuchelement", CameraError, 'is no pipeline: .*"nosuchelement"'),
        ("filesrc location=/none ! decodebin", CameraGone, "does not start: .*none"),
        ("audiotestsrc", CameraError, "is no pipeline: .*could not link"),
        (
            "videotestsrc ! jpegenc ! jpegdec ! video/x-raw,format=NV12",
            CameraError,
            "could not link .*; put `! videoconvert` behind jpegdec",
        ),
        (
            "fakesrc sizetype=2 sizemax=9216 ! rawvideoparse format=y444 width=64 height=48",
            CameraGone,
            "not-negotiated .*; put `! videoconvert` behind rawvideoparse., or `! decodebin",
        ),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_named(pipeline, kind, text):
    with closing(GStreamerSource(pipeline)) as source, pytest.raises(kind, match=text):
        source.open()


def test_without_gstreamer_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(CameraError, match="gst: needs GStreamer and PyGObject") as raised:
        GStreamerSource("videotestsrc").open()
    assert REMEDY in str(raised.value)
