"""Video as a camera: every frame once, at its time, with the pixels that were put in."""

import socket
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from videos import (
    KEY_EVERY,
    ORIENTATIONS,
    bright_corner,
    hurt,
    packets,
    place,
    write_oriented,
    write_video,
)
from viewer import Viewer

from perception_nodes.cameras import camera_feed, video_source
from perception_nodes.cameras.camera_source import CameraEnded, CameraError
from perception_nodes.cameras.video_source import VideoSource
from perception_nodes.system.signals import ASKED_TO_END
from perception_nodes.video import demux

MS = 1_000_000
CHUNK_BYTES = 4096


def film(join, path, **settings):
    return Viewer(join, VideoSource(str(path), **settings))


def brightness(found):
    """Of each frame, as the number of the frame that it shows."""
    return [round(((seen.luma[:, 32:].mean() - 16) * 255 / 219 - 40) / 4) for seen in found]


def steps_ms(found):
    return np.diff([seen.stamp_ns for seen in found]) / MS


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_each_frame_of_a_file_comes_once_in_order_at_the_files_pace(join, tmp_path, codec):
    options = {"qmax": "2"} if codec == "mpeg4" else {}
    found = film(join, write_video(tmp_path / "video.mp4", 20, codec=codec, **options)).take(20)
    assert [seen.number for seen in found] == list(range(20))
    assert (np.diff([seen.luma[:, 32:].mean() for seen in found]) >= 1).all()
    assert {(seen.encoding, seen.luma.shape) for seen in found} == {("nv12", (48, 64))}
    assert np.abs(steps_ms(found) - 40).max() <= 1


@pytest.mark.parametrize("step_s", [-60, 60])
def test_a_files_pace_does_not_follow_a_wall_clock_that_is_set(join, tmp_path, monkeypatch, step_s):
    viewer = film(join, write_video(tmp_path / "video.mp4", 6, period_ms=100))

    def wall_clock_ns():
        return time.time_ns() + step_s * 10**9 * (len(viewer.found) >= 3)

    clocks = SimpleNamespace(time_ns=wall_clock_ns, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr(video_source, "time", clocks)
    wanted = [100, 100, 100 + step_s * 1000, 100, 100]
    assert steps_ms(viewer.take(6)) == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize("frames", [1, 5])
def test_a_looped_file_goes_on_with_new_numbers_and_stamps(join, tmp_path, frames):
    found = film(join, write_video(tmp_path / "video.mp4", frames), loop=True).take(12)
    assert [seen.number for seen in found] == list(range(12))
    # Also from the last picture to the first one: a camera has no two frames at once.
    assert steps_ms(found).min() >= 39


def test_a_file_with_a_gap_is_played_to_its_end(join, tmp_path, monkeypatch):
    monkeypatch.setattr(camera_feed, "SILENT_S", 0.3)
    viewer = film(join, write_video(tmp_path / "video.mp4", times_ms=[0, 100, 900, 1000], bf="0"))
    with pytest.raises(CameraEnded, match="has ended$"):
        viewer.take(5)
    assert np.abs(steps_ms(viewer.found) - [100, 800, 100]).max() <= 1


@pytest.mark.parametrize("share", [1, 0.2])
@pytest.mark.parametrize("damaged", [4, 16])
def test_a_damaged_file_is_played_once_and_what_is_lost_is_counted(join, tmp_path, damaged, share):
    """From the damage to the next key frame; without one the end tells of it."""
    path = hurt(write_video(tmp_path / "video.mp4", 18, g="6", bf="0"), damaged, share)
    viewer = film(join, path)
    with pytest.raises(CameraEnded, match="has ended$"):
        viewer.take(19)
    assert viewer.notices == [(2, "the file is damaged")] * (damaged == 16)
    whole = [*range(damaged), *range(6 if damaged == 4 else 18, 18)]
    assert [seen.number for seen in viewer.found] == brightness(viewer.found) == whole
    assert [seen.lost for seen in viewer.found if seen.lost] == [2] * (damaged == 4)


def test_a_jpeg_whose_note_of_the_camera_is_odd_is_whole(join, tmp_path):
    data = write_video(tmp_path / "video.avi", 6, codec="mjpeg", pixels="yuvj420p").read_bytes()
    odd = b"\xff\xd8" + b"\xff\xe1\x00\x03x"
    pictures = [part[: part.index(b"\xff\xd9") + 2] for part in data.split(b"\xff\xd8")[1:]]
    (tmp_path / "video.mjpeg").write_bytes(b"".join(odd + picture for picture in pictures))
    assert len(film(join, tmp_path / "video.mjpeg").take(6)) == 6


@pytest.mark.parametrize("loop", [False, True])
def test_a_file_whose_pictures_change_their_size_begins_anew_only_in_a_loop(join, tmp_path, loop):
    sizes = (64, 48), (96, 48)
    parts = [write_video(tmp_path / f"{size[0]}.ts", 5, size=size).read_bytes() for size in sizes]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    viewer = film(join, tmp_path / "both.ts", loop=loop)
    if loop:
        assert len(viewer.take(6)) >= 6
    else:
        with pytest.raises(CameraEnded, match="another size"):
            viewer.take(6)


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
@pytest.mark.parametrize("frames", [20, 40])
def test_what_a_truncated_file_lacks_at_its_end_is_counted(join, tmp_path, name, frames):
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = write_video(tmp_path / name, 40, period_ms=20, muxer=options, g="5", bf="0")
    data = path.read_bytes()
    path.write_bytes(data[: place(path, frames)[0]] if frames < 40 else data)
    viewer = film(join, path)
    with pytest.raises(CameraEnded, match="has ended$"):
        viewer.take(41)
    assert viewer.notices == [(20, "the file is cut off")] * (frames < 40)
    assert viewer.found[-1].number == frames - 1


@pytest.fixture
def site(tmp_path):
    """The URL of a web server for the test's folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_behind_http_is_played_at_its_pace_to_its_end(join, tmp_path, site):
    write_video(tmp_path / "video.mp4", 20, muxer={"movflags": "faststart"})
    viewer = film(join, f"{site}/video.mp4")
    with pytest.raises(CameraEnded, match=r"video\.mp4 has ended$"):
        viewer.take(21)
    assert [seen.number for seen in viewer.found] == list(range(20))
    assert np.abs(steps_ms(viewer.found) - 40).max() <= 1


def test_a_file_whose_server_breaks_off_may_come_back(join, tmp_path):
    path = write_video(tmp_path / "video.mp4", 40, muxer={"movflags": "faststart"})
    data = path.read_bytes()

    class Breaking(SimpleHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: place(path, 20)[0]])

    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        viewer = film(join, f"http://127.0.0.1:{server.server_port}/video.mp4")
        viewer.until(lambda: sum("is gone" in line for line in viewer.log) > 1)
        viewer.feed.close()
        server.shutdown()


def test_hls_is_refused_since_it_delays_pictures(tmp_path, site):
    write_video(tmp_path / "video.m3u8", 20, g="10")
    with pytest.raises(CameraError, match=r"m3u8: HLS delays pictures by seconds"):
        VideoSource(f"{site}/video.m3u8").open()


@pytest.fixture
def serve():
    """Sends a file's bytes to whom connects to the URL that it gives."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(300)

    def send(data):
        with suppress(OSError), listener.accept()[0] as client:  # until the other end closes it
            for begin in range(0, len(data), CHUNK_BYTES):
                client.sendall(data[begin : begin + CHUNK_BYTES])
                time.sleep(0.01)  # a reader on a busy machine takes some frames, too

    def start(path):
        sender = threading.Thread(target=send, args=(path.read_bytes(),), daemon=True)
        sender.start()
        senders.append(sender)
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    senders = []
    yield start
    for sender in senders:
        sender.join()
    listener.close()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("video.h264", {"g": "5", "bf": "0"}),
        ("video.mjpeg", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    ],
)
def test_a_stream_without_times_is_dated_by_its_arrival(
    serve, join, tmp_path, monkeypatch, name, options
):
    """FFmpeg gives the frames of some no time, and those of others one of 25 a second."""
    path = write_video(tmp_path / name, 50, **options)
    path.write_bytes(60 * path.read_bytes())  # much of it goes by before the format is known
    seconds = count(10**9)  # one passes from each packet to the next
    monkeypatch.setattr(demux, "time", SimpleNamespace(time_ns=lambda: next(seconds) * 1000 * MS))
    viewer = film(join, serve(path))
    viewer.take(5)
    assert viewer.log[0].endswith("stamps are of arrival")
    assert (steps_ms(viewer.found) == 1000 * np.diff([seen.number for seen in viewer.found])).all()


def test_a_stream_that_gives_no_picture_is_opened_again_and_can_be_closed(join, monkeypatch):
    """As behind a lost key frame, where the next one is far."""
    monkeypatch.setattr(video_source, "SILENT_S", 1.0)
    monkeypatch.setattr(video_source, "NOTICE_S", 0.1)
    key, *others = packets("h264")[:KEY_EVERY]
    connections = []

    def send():
        while True:
            with suppress(OSError), listener.accept()[0] as client:
                connections.append(client)
                client.sendall(key + others[0])
                while True:
                    client.sendall(b"".join(others))
                    time.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=send, daemon=True).start()
        viewer = film(join, f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        viewer.until(
            lambda: len(connections) > 1 and sum("is gone" in one for one in viewer.log), 300
        )
        began_s = time.monotonic()
        viewer.feed.close()
        assert time.monotonic() - began_s < 5.0
    told = [notice for lost, notice in viewer.notices if lost]
    assert told and "no picture for 1 s" in viewer.notices[-1][1]


def test_a_host_that_does_not_answer_keeps_no_process_from_ending(monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        source = VideoSource(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/camera")
        threading.Timer(0.2, ASKED_TO_END.set).start()
        try:
            with pytest.raises(CameraError, match="is not open yet"):
                source.open()
        finally:
            ASKED_TO_END.clear()


def test_what_was_lost_before_a_stream_broke_off_is_reported(join, tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", 1)

    class Broken(demux.VideoInput):
        def __init__(self, *_, **__):
            super().__init__(str(path))

        def live_pictures(self, closed):
            lost = demux.VideoPicture(None, cause=demux.MISSING)
            for picture in (next(self.pictures()), lost, lost):
                yield demux.LivePictures([picture], time.time_ns(), None, False)

    monkeypatch.setattr(video_source, "VideoInput", Broken)
    viewer = film(join, "tcp://camera")
    assert [(seen.number, seen.lost) for seen in viewer.take(2)] == [(0, 0), (3, 2)]
    assert viewer.notices[:2] == [(2, demux.MISSING), (0, "tcp://camera has ended")]
    assert any(line.endswith(f"lost 2 frames: {demux.MISSING}") for line in viewer.log)


@pytest.mark.parametrize(("matrix", "corner"), ORIENTATIONS.items())
def test_a_video_that_states_how_it_was_held_is_upright(join, tmp_path, matrix, corner):
    seen = film(join, write_oriented(tmp_path / "video.mp4", matrix)).take(1)[0]
    assert seen.luma.shape == ((48, 64) if matrix[0] else (64, 48))
    assert bright_corner(seen.luma) == corner
