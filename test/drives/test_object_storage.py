"""Drives at URLs are those at paths; an mcap is read by ranges, from a real server."""

import asyncio
import random
import signal
import subprocess
import sys
from threading import Semaphore, Thread

import pytest
from drives import (
    CAMERA,
    IMAGE,
    PERIOD_NS,
    START_NS,
    serialized,
    write_mcap,
    write_messages,
    write_ros1,
    write_ros2,
)
from mcap.writer import CompressionType
from rosbags.rosbag2 import CompressionMode

from perception_nodes.drives import byte_source
from perception_nodes.drives.bag import BagError, image_topics, open_drive
from perception_nodes.drives.byte_source import FileBytes, ObjectBytes
from perception_nodes.system import object_path
from perception_nodes.system.object_path import path_of

pytest.importorskip("obstore")
web = pytest.importorskip("aiohttp.web")
FRAMES = 20
NONE = CompressionType.NONE


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Requests that are small beside these drives, and a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(byte_source, "BLOCK_BYTES", 90_000)
    monkeypatch.setattr(byte_source, "SMALL_BYTES", 256)
    monkeypatch.setattr(object_path, "BLOCK_BYTES", 90_000)


def content(path, topic=""):
    with open_drive(path, topic) as drive:
        frames = list(drive.frames())
        named = [line.replace("file://", "") for line in drive.warnings]
        return frames, named, drive.lost, drive.duration_ns


def damaged(file):
    data = bytearray(write_mcap(file, range(FRAMES)).read_bytes())
    data[100_000:100_100] = bytes(100)
    del data[-30:]
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_ros2(folder / "drive"),
        lambda folder: write_ros2(folder / "drive", storage="sqlite3"),
        lambda folder: write_ros2(folder / "drive", compress=CompressionMode.FILE),
        lambda folder: write_ros1(folder / "drive.bag"),
        lambda folder: write_mcap(folder / "drive.mcap", range(FRAMES)),
        lambda folder: damaged(folder / "drive.mcap"),
    ],
    ids=["mcap", "sqlite3", "compressed", "ros1", "file", "damaged"],
)
def test_a_drive_at_a_url_is_the_drive_at_its_path(tmp_path, write):
    path = write(tmp_path)
    assert content(path.as_uri()) == content(path)
    assert image_topics(path.as_uri()) == image_topics(path)


def test_what_cannot_be_used_is_named(tmp_path):
    (tmp_path / "drive.mcap").write_bytes(b"no mcap at all")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/list.txt").write_text("notes")
    for name, said in (
        ("none.mcap", "none.mcap does not exist"),
        ("notes", r"no \.mcap or \.db3 file is in it"),
        ("notes/list.txt", r"its suffix is none of \.mcap, \.db3, \.bag"),
        ("drive.mcap", "not one message of it can be read"),
    ):
        with pytest.raises(BagError, match=said):
            open_drive((tmp_path / name).as_uri())


def test_any_ranges_are_the_bytes_of_the_file(tmp_path):
    chance = random.Random(1)
    file = tmp_path / "bytes"
    file.write_bytes(chance.randbytes(5000))
    expected, read = FileBytes(file), ObjectBytes(path_of(file.as_uri()))
    for _ in range(30):
        ranges = [(at, at + chance.randrange(1, 700)) for at in chance.sample(range(5000), 9)]
        read.expect((at, min(end, read.size)) for at, end in ranges)
        for at, end in sorted(ranges) + chance.sample(ranges, 5):
            cut = chance.randrange(at, end)
            for start, count in ((at, end - at), (cut, end - cut), (cut, 3), (cut, 9999), (cut, 0)):
                assert read.read(start, count) == expected.read(start, count)
    read.close()
    expected.close()


class Server:
    """A web server of a folder's files; it counts, breaks some answers off, and leaves some out."""

    def __init__(self, folder):
        self.folder, self.bytes, self.requests, self.cut = folder, 0, 0, set()
        self.answers_from, self.left_out = 0, Semaphore(0)
        self.loop, self.url = asyncio.new_event_loop(), ""

    async def answer(self, request):
        if request.method == "HEAD":
            return web.FileResponse(self.folder / request.path[1:])
        size = request.http_range.stop - request.http_range.start
        self.requests, self.bytes = self.requests + 1, self.bytes + size
        if request.http_range.start < self.answers_from:
            self.left_out.release()
            await asyncio.Event().wait()
        if self.requests not in self.cut:
            return web.FileResponse(self.folder / request.path[1:])
        response = web.StreamResponse(status=206)
        response.content_length = size
        await response.prepare(request)
        await response.write(bytes(size // 2))
        request.transport.close()
        return response

    async def start(self):
        runner = web.ServerRunner(web.Server(self.answer, handler_cancellation=True))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    server.loop.run_until_complete(server.start())
    thread = Thread(target=server.loop.run_forever)
    thread.start()
    yield server
    server.loop.call_soon_threadsafe(server.loop.stop)
    thread.join()


@pytest.mark.parametrize("cut", [set(), {2, 5, 6}])
def test_only_the_chunks_of_the_camera_are_asked_for(tmp_path, server, cut):
    server.cut = cut
    topics = {**CAMERA, "/other/image_raw": IMAGE}
    messages = [
        (topic, START_NS + index * PERIOD_NS + others, serialized(kind, index))
        for group in range(0, FRAMES, 8)
        for others in range(6)
        for index in range(group, group + 8)
        for topic, kind in topics.items()
        if (topic in CAMERA) == (others == 0)
    ]
    file = write_messages(tmp_path / "drive.mcap", topics, messages, compression=NONE)
    camera_bytes = sum(len(data) for topic, _, data in messages if topic in CAMERA)
    found = content(f"{server.url}/drive.mcap", "/camera/image_raw")
    assert found == content(file, "/camera/image_raw") and len(found[0]) == 24
    again = len(cut) * byte_source.BLOCK_BYTES
    assert camera_bytes < server.bytes < 1.8 * camera_bytes + again < file.stat().st_size
    assert server.requests < 25


@pytest.mark.parametrize("options", ["", "--workers 2", "--workers 2 --ray local"])
@pytest.mark.parametrize("name", ["a.mcap", "a.bag"])
def test_ctrl_c_does_not_wait_for_a_store_that_stops_answering(tmp_path, server, name, options):
    if "--ray" in options:
        pytest.importorskip("ray")
    server.answers_from = 1000  # an index is behind that, and the first frame before it
    drives = {tmp_path / name, tmp_path / f"second-{name}"}
    for drive in drives:
        write_ros1(drive) if name == "a.bag" else write_mcap(drive, range(FRAMES))
    urls = [f"{server.url}/{drive.name}" for drive in drives]
    arguments = [*urls, "--backend", "null", *options.split(), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "perception_nodes", "replay", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.left_out.acquire(timeout=60), process.poll()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1].strip() == ""
    assert process.returncode == 128 + signal.SIGINT
    left = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert left == drives and not list(tmp_path.rglob(".part*"))
