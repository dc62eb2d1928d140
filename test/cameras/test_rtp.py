"""A stream by its SDP file: lost packets, and the stamps of a sender that reports its clock."""

import socket
import threading
import time
from contextlib import suppress
from itertools import pairwise

import av
import numpy as np
import pytest
from viewer import Viewer

from perception_nodes.cameras.video_source import VideoSource
from perception_nodes.video.ffmpeg import write_nv12

RATE_HZ, KEY_EVERY = 50, 10
SHIFT_S = 0.2
SENDER_REPORT = 200
ENCODERS = {
    "h264": ("libx264", {"tune": "zerolatency"}),
    "h264-with-B-frames": ("libx264", {"bf": "2"}),
    "h265": ("libx265", {"x265-params": "log-level=none:crf=8:bframes=0:keyint=10"}),
    "h265-with-B-frames": ("libx265", {"x265-params": "log-level=none:crf=8:bframes=2:keyint=10"}),
}


def two_ports():
    """Two free ports, of which the first is even, as sockets."""
    while True:
        first, second = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        first.bind(("127.0.0.1", 0))
        port = first.getsockname()[1]
        with suppress(OSError):
            if port % 2 == 0:
                second.bind(("127.0.0.1", port + 1))
                return first, second
        first.close()
        second.close()


class Sender:
    """Encodes pictures and sends them; packets that a rule picks are lost on the way.

    Its reports of the time are early by `SHIFT_S`.

    Attributes:
        index_of: the number of each picture by the bytes of its luma, as a decoder makes them.
        lost: number of packets that were lost.
    """

    def __init__(self, codec, file, loses=lambda number: False):
        """Write the SDP file, and begin."""
        self._inner, ends = two_ports(), two_ports()
        self._port = ends[0].getsockname()[1]
        for one in ends:
            one.close()
        file.write_text(
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=camera\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {self._port} RTP/AVP 96\na=rtpmap:96 {codec[:4].upper()}/90000\n"
        )
        self._codec, self._loses = codec, loses
        self.index_of, self.lost = {}, 0
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._encode, daemon=True)]
        for index in range(2):
            self._threads.append(threading.Thread(target=self._relay, args=(index,), daemon=True))
        for thread in self._threads:
            thread.start()

    def close(self):
        """End."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _encode(self):
        encoder, options = ENCODERS[self._codec]
        decoder = av.CodecContext.create("hevc" if "265" in self._codec else "h264", "r")
        noise = np.random.default_rng(0).integers(0, 12, (120, 160, 3), np.uint8)
        url = f"rtp://127.0.0.1:{self._inner[0].getsockname()[1]}?pkt_size=400"
        with av.open(url, "w", format="rtp") as container:
            options = {"preset": "ultrafast", **options}
            stream = container.add_stream(encoder, rate=RATE_HZ, options=options)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            stream.codec_context.gop_size = KEY_EVERY
            shown, due_s = 0, time.monotonic()
            for index in range(1 << 20):
                level = np.uint8(20 + 5 * (index % 40))
                picture = np.roll(noise, (index // 40, 5 * index), (0, 1)) + level
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")):
                    for frame in decoder.decode(av.Packet(bytes(packet))):
                        nv12 = np.empty((180, 160), np.uint8)
                        write_nv12(frame, nv12)
                        self.index_of[nv12[:120].tobytes()] = shown
                        shown += 1
                    container.mux(packet)
                due_s = max(due_s + 1 / RATE_HZ, time.monotonic())
                if self._stopped.wait(due_s - time.monotonic()):
                    return

    def _relay(self, index):
        number = 0
        with self._inner[index] as inner, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            inner.settimeout(0.1)
            while not self._stopped.is_set():
                try:
                    data = bytearray(inner.recv(65536))
                except TimeoutError:
                    continue
                if index == 0:
                    number += 1
                    if self._loses(number):
                        self.lost += 1
                        continue
                elif data[1] == SENDER_REPORT:
                    sent = int.from_bytes(data[8:16], "big") - int(SHIFT_S * (1 << 32))
                    data[8:16] = sent.to_bytes(8, "big")
                out.sendto(data, ("127.0.0.1", self._port + index))


@pytest.fixture
def view(join, closed, tmp_path):
    def start(codec, **settings):
        sender = closed(Sender(codec, tmp_path / "camera.sdp", **settings))
        viewer = Viewer(join, VideoSource(str(tmp_path / "camera.sdp")))
        closed(viewer.feed)
        return sender, viewer

    return start


@pytest.mark.parametrize("codec", ["h264", "h264-with-B-frames"])
def test_frames_have_the_stamps_of_a_sender_that_reports_its_clock(view, codec):
    _, viewer = view(codec)
    ages_s = []

    def is_seen():
        if viewer.found:
            ages_s.append(time.time() - viewer.found[-1].stamp_ns / 1e9)
        return len(ages_s) >= 40 and min(ages_s[-20:]) >= SHIFT_S - 0.01

    viewer.until(is_seen)  # who joins after its first report waits for the next one
    assert all(later.stamp_ns > seen.stamp_ns for seen, later in pairwise(viewer.found))


@pytest.mark.parametrize("codec", ENCODERS)
def test_over_udp_each_picture_is_the_sources_and_lost_ones_are_counted(view, codec):
    lossy = {int(one) for one in 200 + np.random.default_rng(5).choice(600, 10, replace=False)}
    sender, viewer = view(codec, loses=lossy.__contains__)
    viewer.until(lambda: sender.lost == len(lossy) and len(viewer.found) > 60, 90.0)
    enough = len(viewer.found) + 2 * KEY_EVERY
    viewer.until(lambda: len(viewer.found) > enough)
    shown = [sender.index_of[seen.luma.tobytes()] for seen in viewer.found]
    for (seen, index), (later, later_index) in pairwise(zip(viewer.found, shown, strict=True)):
        assert later.number - seen.number == later.lost + 1 == later_index - index
    assert sum(seen.lost for seen in viewer.found[1:]) >= 3
