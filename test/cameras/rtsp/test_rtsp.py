"""RTSP cameras against GStreamer's server: lost packets, and a server that goes and comes back.

Each frame of the video tells by its brightness which one it is, so that what was lost is known
without any numbers of the stream.
"""

import subprocess
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from observe import free_port
from relay import LossyRelay
from viewer import Viewer

from perception_nodes.cameras import camera_feed
from perception_nodes.cameras.video_source import VideoSource
from perception_nodes.video.ffmpeg import write_nv12

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
SERVER = Path(__file__).with_name("server.py")
RATE_HZ, KEY_EVERY, LEVELS = 50, 10, 40
ENCODERS = {
    "h264": ("libx264", {"tune": "zerolatency"}),
    "h264-with-B-frames": ("libx264", {"bf": "2"}),
    "h265": ("libx265", {"x265-params": "log-level=none:bframes=0:keyint=10"}),
    "h265-with-B-frames": ("libx265", {"x265-params": "log-level=none:bframes=2:keyint=10"}),
    "mjpeg": ("mjpeg", {"huffman": "default", "q": "3"}),
}


def missing() -> str:
    """What is not there of what the server needs; empty if all is."""
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0');"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "assert Gst.ElementFactory.find('matroskademux') and Gst.ElementFactory.find('rtph264pay')"
    )
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-I", "-c", probe], capture_output=True, timeout=60)
    except FileNotFoundError:
        return f"no {SYSTEM_PYTHON}"
    return f"no {PACKAGES}: make camera-packages" if done.returncode else ""


LACK = missing()
pytestmark = [pytest.mark.stream, pytest.mark.skipif(bool(LACK), reason=LACK)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Twenty seconds in each codec; the brightness of frame i is that of i modulo LEVELS."""
    folder = tmp_path_factory.mktemp("videos")
    for codec, (encoder, options) in ENCODERS.items():
        with av.open(str(folder / f"{codec}.mkv"), "w") as container:
            options = {"preset": "ultrafast", **options} if codec != "mjpeg" else options
            stream = container.add_stream(encoder, rate=RATE_HZ, options=options)
            pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.width, stream.height, stream.pix_fmt = 160, 120, pixels
            stream.codec_context.gop_size = KEY_EVERY
            noise = np.random.default_rng(0).integers(0, 12, (120, 160, 3), np.uint8)
            for index in range(20 * RATE_HZ):
                picture = np.roll(noise, 5 * index, axis=1) + np.uint8(20 + 5 * (index % LEVELS))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
    return folder


class Server:
    """The server as a process, always on the same port."""

    def __init__(self, video, codec):
        self._command = [video, codec.split("-")[0]]
        self.port = free_port()
        self.start()

    def start(self):
        command = [SYSTEM_PYTHON, "-I", SERVER, self.port, *self._command]
        self._process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n"

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def serve(videos, closed):
    return lambda codec: closed(Server(videos / f"{codec}.mkv", codec))


def shown(seen):
    """Index of a frame modulo LEVELS, by its brightness; limited range has 219 levels for 255."""
    return round(((seen.luma.mean() - 16) * 255 / 219 - 25.5) / 5)


@pytest.fixture
def view(join, closed, monkeypatch):
    monkeypatch.setattr(camera_feed, "REOPEN_S", 0.1)

    def start(port, transport="tcp"):
        source = VideoSource(f"rtsp://127.0.0.1:{port}/camera", transport=transport)
        viewer = Viewer(join, source)
        closed(viewer.feed)
        return viewer

    return start


def check_numbers(found):
    """Between two frames as many are missing by their pictures as by their numbers."""
    for seen, later in pairwise(found):
        assert later.number - seen.number == later.lost + 1
        assert (shown(later) - shown(seen)) % LEVELS == (later.number - seen.number) % LEVELS
        assert later.stamp_ns > seen.stamp_ns


@pytest.mark.parametrize(
    ("codec", "transport"), [*((codec, "tcp") for codec in ENCODERS), ("h264", "udp")]
)
def test_each_frame_comes_in_order(codec, transport, serve, view):
    viewer = view(serve(codec).port, transport)
    viewer.until(lambda: len(viewer.found) >= 100)
    check_numbers(viewer.found)
    assert not any("missing" in line or "damaged" in line for line in viewer.log)
    # A viewer without a processor for a while misses some, which it counts.
    numbers, stamps = np.array([(seen.number, seen.stamp_ns) for seen in viewer.found[50:]]).T
    assert np.abs(np.diff(stamps) / 1e9 - np.diff(numbers) / RATE_HZ).max() < 0.002


def luma_of(video):
    """The luma of each picture of a file, as bytes."""
    found = []
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            nv12 = np.empty((180, 160), np.uint8)
            write_nv12(frame, nv12)
            found.append(nv12[:120].tobytes())
    return found


@pytest.mark.parametrize("codec", ENCODERS)
def test_where_packets_are_lost_each_picture_is_the_sources_and_the_rest_is_counted(
    codec, videos, serve, view
):
    lossy = {int(number) for number in 60 + np.random.default_rng(3).choice(400, 12, replace=False)}
    relay = LossyRelay(serve(codec).port, lossy.__contains__)
    viewer = view(relay.port)
    viewer.until(lambda: relay.lost == len(lossy) and len(viewer.found) > 100, 60.0)
    enough = len(viewer.found) + 2 * KEY_EVERY
    viewer.until(lambda: len(viewer.found) > enough)
    relay.close()
    source = luma_of(videos / f"{codec}.mkv")
    first = source.index(viewer.found[0].luma.tobytes()) - viewer.found[0].number
    for seen in viewer.found:
        assert source[first + seen.number] == seen.luma.tobytes(), seen.number
    for seen, later in pairwise(viewer.found):
        assert later.number - seen.number == later.lost + 1
    assert 4 <= sum(seen.lost for seen in viewer.found[1:]) <= 2 * KEY_EVERY * len(lossy)
    assert any("lost" in line and "missing" in line for line in viewer.log)


def test_a_server_that_goes_away_is_logged_and_opened_again(serve, view):
    server = serve("h264")
    viewer = view(server.port)
    viewer.until(lambda: len(viewer.found) >= 20)
    server.close()
    viewer.until(lambda: any("is gone" in line for line in viewer.log))
    before = len(viewer.found)
    server.start()
    viewer.until(lambda: len(viewer.found) >= before + 20)
    for seen, later in pairwise(viewer.found):
        assert later.number - seen.number == later.lost + 1
    assert sum("rtsp://" in line and "is gone" in line for line in viewer.log) == 1
    assert "is gone" not in viewer.log[-1]
