"""Video as a camera: every frame once, at its time, with the pixels that were put in."""

import socket
import threading
import time
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turned_video import TURNS, bright_edge, write_turned

from perception_nodes.cameras import camera_feed as feed_module
from perception_nodes.cameras import video_source as video_module
from perception_nodes.cameras.camera_feed import CameraFeed
from perception_nodes.cameras.camera_source import CameraEnded, CameraError, CameraGone
from perception_nodes.cameras.channel import camera_reader, view_camera_frame
from perception_nodes.cameras.video_source import VideoSettings, VideoSource
from perception_nodes.core.frame import ImageView
from perception_nodes.video.ffmpeg import write_nv12
from perception_nodes.video.packet_decoder import VideoDecoder
from perception_nodes.video.times import FileTimes, LossCounter, StreamClock

MS = 1_000_000


def write_video(
    path,
    frames,
    rate=50,
    size=(64, 48),
    codec="libx264",
    pixels="yuv420p",
    times=None,
    **options,
):
    """A video whose frames are grey, each 4 brighter than the one before; times are in frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for index in range(frames):
            grey = np.full((size[1], size[0], 3), 40 + 4 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def played(join, settings, frames, timeout_s=20.0, found=None):
    """Feed frames and read them: number, lost, view and luma of each."""
    reader = camera_reader(join("reader"), "front")
    feed = CameraFeed(join("camera"), "front", VideoSource(settings), "optical", lambda line: None)
    feed.open()
    feed.start()
    found = [] if found is None else found
    until_s = time.monotonic() + timeout_s
    try:
        while len(found) < frames and time.monotonic() < until_s:
            feed.step(20.0)
            while (sample := reader.receive()) is not None:
                view = view_camera_frame(sample.header, sample.payload)
                luma = np.frombuffer(view.data, np.uint8)[: view.width * view.height]
                found.append((sample.header.number, sample.header.lost, view, float(luma.mean())))
                sample.release()
    finally:
        feed.close()
    return found


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_each_frame_of_a_file_comes_once_in_order(join, tmp_path, codec):
    path = write_video(tmp_path / "video.mp4", 20, rate=10, codec=codec)
    found = played(join, VideoSettings(path), 20)
    assert [number for number, *_ in found] == list(range(20))
    assert {(view.encoding, view.width, view.height) for _, _, view, _ in found} == {
        ("nv12", 64, 48)
    }
    brightness = np.array([luma for *_, luma in found])
    assert (np.diff(brightness) >= 1).all()


def test_frames_come_at_the_files_pace(join, tmp_path):
    path = write_video(tmp_path / "video.mp4", 6, rate=10)
    stamps = np.array([view.stamp_ns for _, _, view, _ in played(join, VideoSettings(path), 6)])
    assert np.abs(np.diff(stamps) - 100 * MS).max() <= 1 * MS


@pytest.mark.parametrize("step_s", [-60, 60])
def test_a_files_pace_does_not_follow_a_wall_clock_that_is_set(join, tmp_path, monkeypatch, step_s):
    found = []

    def wall_clock_ns():
        return time.time_ns() + step_s * 10**9 * (len(found) >= 3)

    clocks = SimpleNamespace(time_ns=wall_clock_ns, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr(video_module, "time", clocks)
    path = write_video(tmp_path / "video.mp4", 6, rate=10)
    played(join, VideoSettings(path), 6, timeout_s=3.0, found=found)
    steps_s = np.diff([view.stamp_ns for _, _, view, _ in found]) / 1e9
    assert steps_s == pytest.approx([0.1, 0.1, 0.1 + step_s, 0.1, 0.1], abs=0.002)


@pytest.mark.parametrize("frames", [1, 5])
def test_a_looped_file_goes_on_with_new_numbers_and_stamps(join, tmp_path, frames):
    path = write_video(tmp_path / "video.mp4", frames, rate=25)
    found = played(join, VideoSettings(path, loop=True), 12)
    assert [number for number, *_ in found] == list(range(12))
    steps_ns = np.diff([view.stamp_ns for _, _, view, _ in found])
    # Also from the last picture to the first one: a camera has no two frames at once.
    assert steps_ns.min() >= 39 * MS


def test_a_file_with_a_gap_is_played_to_its_end(join, tmp_path, monkeypatch):
    monkeypatch.setattr(feed_module, "SILENT_S", 0.3)
    path = write_video(tmp_path / "video.mp4", 4, rate=10, times=[0, 1, 9, 10], bf="0")
    found = []
    with pytest.raises(CameraEnded, match="has ended$"):
        played(join, VideoSettings(path), 5, found=found)
    steps_ns = np.diff([view.stamp_ns for _, _, view, _ in found])
    assert np.abs(steps_ns - np.array([1, 8, 1]) * 100 * MS).max() <= 1 * MS


@pytest.mark.parametrize("share", [1, 0.2])
@pytest.mark.parametrize("hurt", [4, 16])
def test_a_damaged_file_is_played_once_and_what_is_lost_is_counted(join, tmp_path, hurt, share):
    """From the damage to the next key frame; without one the end tells of it."""
    path = tmp_path / "video.mp4"
    write_video(path, 18, rate=10, g="6", bf="0")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][hurt]
    data = bytearray(path.read_bytes())
    size = round(share * packet.size)
    data[packet.pos + packet.size - size : packet.pos + packet.size] = bytes(size)
    path.write_bytes(data)
    found, end = [], "the last 2 frames are lost: the file is damaged"
    with pytest.raises(CameraEnded, match="has ended$" if hurt == 4 else end):
        played(join, VideoSettings(str(path)), 19, found=found)
    next_key = 6 if hurt == 4 else 18
    assert [number for number, *_ in found] == [*range(hurt), *range(next_key, 18)]
    assert [lost for _, lost, *_ in found if lost] == [2] * (hurt == 4)
    assert [luma for *_, luma in found] == pytest.approx(
        [16 + (40 + 4 * number) * 219 / 255 for number, *_ in found], abs=3
    )


def test_a_damaged_file_goes_on_at_a_key_frame_that_others_refer_over(join, tmp_path):
    """Behind it come pictures that are drawn on ones before it: these are lost, too."""
    path = tmp_path / "video.mp4"
    options = {"x264-params": "open-gop=1:keyint=10:bframes=2:scenecut=0"}
    write_video(path, 40, rate=50, **options)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][14]
    data = bytearray(path.read_bytes())
    half = packet.size // 2
    data[packet.pos + packet.size - half : packet.pos + packet.size] = bytes(half)
    path.write_bytes(data)
    found = []
    with pytest.raises(CameraEnded, match="has ended$"):
        played(join, VideoSettings(str(path)), 41, found=found)
    assert 28 <= len(found) < 40
    assert len(found) + sum(lost for _, lost, *_ in found) == 40
    brightness = {number: luma for number, _, _, luma in found}
    assert max(brightness) == 39
    wanted = {number: 16 + (40 + 4 * number) * 219 / 255 for number in brightness}
    assert brightness == pytest.approx(wanted, abs=3)


def test_a_jpeg_whose_note_of_the_camera_is_odd_is_whole(join, tmp_path):
    file = write_video(tmp_path / "video.avi", 6, codec="mjpeg", pixels="yuvj420p")
    data = Path(file).read_bytes()
    odd = b"\xff\xd8" + b"\xff\xe1\x00\x03x"
    pictures = [part[: part.index(b"\xff\xd9") + 2] for part in data.split(b"\xff\xd8")[1:]]
    (tmp_path / "video.mjpeg").write_bytes(b"".join(odd + picture for picture in pictures))
    assert len(played(join, VideoSettings(str(tmp_path / "video.mjpeg")), 6)) == 6


@pytest.mark.parametrize("loop", [False, True])
def test_a_file_whose_pictures_change_their_size_begins_anew_only_in_a_loop(join, tmp_path, loop):
    joined = b""
    for size in ((64, 48), (96, 48)):
        joined += Path(write_video(tmp_path / "one.ts", 5, size=size)).read_bytes()
    (tmp_path / "both.ts").write_bytes(joined)
    settings = VideoSettings(str(tmp_path / "both.ts"), loop)
    if loop:
        assert len(played(join, settings, 6)) == 6
    else:
        with pytest.raises(CameraEnded, match="another size"):
            played(join, settings, 6)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "rgb24", "gray"])
@pytest.mark.parametrize("size", [(64, 48), (66, 50)])
def test_nv12_is_what_ffmpeg_makes_of_a_frame(pixels, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
    out = np.zeros((size[1] * 3 // 2, size[0]), np.uint8)
    write_nv12(frame, out)
    expected = frame.reformat(format="yuv420p").reformat(format="nv12").to_ndarray()
    np.testing.assert_array_equal(out, expected)


LUMA_OF_RED_AND_BLUE = {
    1: (0.2126, 0.0722),
    5: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""The matrices of BT.709, BT.601, SMPTE 240M and BT.2020, by FFmpeg's number."""


@pytest.mark.parametrize("matrix", LUMA_OF_RED_AND_BLUE)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 180, 20)])
def test_colours_of_either_matrix_are_those_of_nv12(matrix, full_range, rgb):
    """The pictures are made, and the NV12 is read, by the formulas of the standards."""
    spans = (255, 255, 255) if full_range else (219, 224, 224)
    frame = av.VideoFrame(64, 48, "yuv420p")
    values = ycbcr(rgb, *LUMA_OF_RED_AND_BLUE[matrix])
    offsets = (0 if full_range else 16, 128, 128)
    for plane, value, span, offset in zip(frame.planes, values, spans, offsets, strict=True):
        plane.update(bytes([min(round(offset + span * value), 255)]) * plane.buffer_size)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qp": "1", "tune": "zerolatency"}
    frame.colorspace = encoder.colorspace = matrix
    frame.color_range = encoder.color_range = 1 + full_range
    data = b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode()]))
    view = VideoDecoder().decode(ImageView(0, "", 64, 48, "h264", 0, memoryview(data)))
    pixels = np.frombuffer(view.data, np.uint8)
    chroma = pixels[64 * 48 :].reshape(-1, 2)
    found = [(pixels[: 64 * 48].mean() - 16) / 219, *(chroma.mean(0) - 128) / 224]
    expected = ycbcr(rgb, *LUMA_OF_RED_AND_BLUE[5])
    np.testing.assert_allclose(found, expected, atol=3 / 255)


def ycbcr(rgb, red, blue):
    """Y in 0 to 1, and Cb and Cr in -0.5 to 0.5, where luma has these parts of red and blue."""
    r, g, b = np.array(rgb) / 255
    y = red * r + (1 - red - blue) * g + blue * b
    return y, (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)


def test_what_is_no_video_is_refused(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(CameraError, match=r"text\.mp4 cannot be opened"):
        VideoSource(VideoSettings(str(path))).open()


def test_a_server_that_is_not_there_is_gone_not_wrong():
    with pytest.raises(CameraGone, match="rtsp://127.0.0.1:1/none cannot be opened"):
        VideoSource(VideoSettings("rtsp://127.0.0.1:1/none")).open()


@given(
    st.lists(st.integers(0, 50 * MS), min_size=2, max_size=60),
    st.integers(-(10**12), 10**12),
)
def test_stamps_keep_the_streams_spacing_but_for_a_smaller_delay(delays_ns, origin_ns):
    """A frame is never stamped later than it arrived, and jitter alone never reaches a stamp."""
    clock, least_ns = StreamClock(), None
    for index, delay_ns in enumerate(delays_ns):
        presented_ns = index * 33 * MS
        arrived_ns = 10**18 + presented_ns + delay_ns
        stamp_ns = clock.stamp_ns(presented_ns + origin_ns, arrived_ns)
        least_ns = delay_ns if least_ns is None else min(least_ns, delay_ns)
        assert stamp_ns == 10**18 + presented_ns + least_ns
        assert stamp_ns <= arrived_ns


def test_frames_of_no_time_are_dated_by_their_arrival():
    clock = StreamClock()
    assert [clock.stamp_ns(None, at_ns) for at_ns in (5, 7, 6)] == [5, 7, 6]


@pytest.mark.parametrize("step_s", [6, 25])
def test_our_clock_may_be_set_forward(step_s):
    clock = StreamClock()
    for index in range(100):
        arrived_ns = 10**18 + index * 40 * MS + (index >= 50) * step_s * 1000 * MS
        assert clock.stamp_ns(index * 40 * MS, arrived_ns) == arrived_ns


@pytest.mark.parametrize("held_up_ms", [700, 3000])
def test_what_a_network_holds_up_is_as_old_as_it_is(held_up_ms):
    """Its frames come at once when the network goes on, at ten times their rate."""
    clock = StreamClock()
    for index in range(200):
        presented_ns = index * 40 * MS
        since_ns = presented_ns - 100 * 40 * MS
        delay_ns = max(held_up_ms * MS - since_ns * 9 // 10, 0) if since_ns >= 0 else 0
        stamp_ns = clock.stamp_ns(presented_ns, 10**18 + presented_ns + delay_ns)
        assert stamp_ns == 10**18 + presented_ns


def test_a_file_without_times_or_with_such_that_go_back_goes_on_at_its_rate():
    video = SimpleNamespace(time_base=Fraction(1, 1000))
    for presented, wanted in (
        ([None, None, None], [0, 100, 200]),
        ([7000, 7040, 7500], [0, 40, 500]),
        ([7000, None, 7150], [0, 100, 150]),
        ([7000, 7040, 0, 40, 7300], [0, 40, 140, 240, 300]),
    ):
        times = FileTimes(video, 10.0)
        assert [times.next_ns(pts) for pts in presented] == [at_ms * MS for at_ms in wanted]


@pytest.fixture
def serve():
    """Sends a file's bytes to whom connects to the URL that it gives."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def send(data):
        with listener.accept()[0] as client:
            client.sendall(data)

    def start(path):
        sender = threading.Thread(target=send, args=(Path(path).read_bytes(),), daemon=True)
        sender.start()
        senders.append(sender)
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    senders = []
    yield start
    for sender in senders:
        sender.join()
    listener.close()


def live_frames(url, monkeypatch):
    """What a stream gives where a second passes from each packet to the next."""
    seconds = count(10**9)
    clock = SimpleNamespace(time_ns=lambda: next(seconds) * 1000 * MS)
    monkeypatch.setattr(video_module, "time", clock)
    source = VideoSource(VideoSettings(url))
    opened = source.open()
    found = list(source._live(source._video))
    source.close()
    return opened, found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("video.h264", {"g": "5", "bf": "0"}),
        ("video.mjpeg", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    ],
)
def test_a_stream_without_times_is_dated_by_its_arrival(
    serve, tmp_path, monkeypatch, name, options
):
    """FFmpeg gives the frames of some no time, and those of others one of 25 a second."""
    path = Path(write_video(tmp_path / name, 50, **options))
    path.write_bytes(20 * path.read_bytes())  # much of it goes by before the format is known
    opened, found = live_frames(serve(path), monkeypatch)
    assert opened.description.endswith("stamps are of arrival")
    steps = np.diff([one.stamp_ns for one in found]) // (1000 * MS)
    assert len(found) > 20
    assert steps.tolist() == [1 + one.lost for one in found[1:]]


@pytest.mark.parametrize(("degrees", "bright"), TURNS.items())
def test_a_video_that_says_how_it_was_held_is_upright(join, tmp_path, degrees, bright):
    path = write_turned(tmp_path / "video.mp4", degrees)
    _, _, view, _ = played(join, VideoSettings(path), 1)[0]
    assert (view.width, view.height) == ((48, 64) if degrees % 180 else (64, 48))
    luma = np.frombuffer(view.data, np.uint8)[: 64 * 48].reshape(view.height, view.width)
    assert bright_edge(luma) == bright


@pytest.mark.parametrize("jitter_ms", [0, 3])
@given(lost=st.sets(st.integers(6, 39)), broken=st.sets(st.integers(6, 39)))
def test_frames_that_did_not_arrive_show_in_the_times_of_the_others(jitter_ms, lost, broken):
    losses, jitter = LossCounter(), np.random.default_rng(0).uniform(-jitter_ms, jitter_ms, 41)
    counted, last, previous = 0, -1, 0
    for index in range(41):
        if index in lost:
            continue
        losses.follow(index * 40 * MS + round(jitter[index] * MS), "broken" * (index in broken))
        same_gap_twice, previous = index - last == previous > 1, index - last
        last = index
        counted += losses.take()[0]
        if same_gap_twice:  # that is taken for another rate
            return
    assert counted == len(lost | broken)


def test_a_camera_of_no_steady_rate_loses_nothing_by_its_times_alone():
    losses, at_ns = LossCounter(), 0
    for gap_ms in (40, 40, 80, 40, 120, 40, 40, 200, 40, 40):
        at_ns += gap_ms * MS
        losses.follow(at_ns, "")
        assert losses.take() == (0, "")


def test_what_was_lost_before_a_stream_broke_off_is_told_when_it_is_back(monkeypatch):
    source = VideoSource(VideoSettings("rtsp://camera"))

    def live(self, video):
        self._losses.add(7, "packets are missing")
        yield from ()

    monkeypatch.setattr(VideoSource, "_live", live)
    source._decode(None)
    with pytest.raises(CameraGone, match="has ended"):
        source._decoded.take(0.0)
    assert source._losses.take() == (7, "packets are missing")


@pytest.mark.parametrize("jump_s", [-3600, -6, -0.5, 6, 3600])
def test_a_stream_that_sets_its_clock_has_lost_nothing_and_is_dated_anew(jump_s):
    losses, clock = LossCounter(), StreamClock()
    for index in range(40):
        arrived_ns = 10**18 + index * 40 * MS
        presented_ns = index * 40 * MS + (index >= 20) * round(jump_s * 1000) * MS
        losses.follow(presented_ns, "")
        assert losses.take() == (0, "")
        assert clock.stamp_ns(presented_ns, arrived_ns) == arrived_ns
    losses.follow(presented_ns + 120 * MS, "")
    assert losses.take()[0] == 2
