"""The frames of one drive, shared among workers: what comes out is what one process writes."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from commands import replay as command
from drives import COMPRESSED, STORE, message, serialized, write_messages
from test_odd_drives import calibration, times_ns, write_drive

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.networks.model import load_model
from perception_nodes.replay import pieces, run
from perception_nodes.replay.offline_camera import LoadedModel, ReplaySettings

FRAMES = 8
CALIBRATIONS = {
    "none": {},
    "one": {0: calibration()},
    "changes": {0: calibration(), 4: calibration(0.2), 6: calibration(0.2, 90.0)},
    "not calibrated at first": {0: calibration(0, 0.0), 3: calibration()},
    "unfit, then fit": {0: calibration(width=1280, height=720), 5: calibration()},
    "late": {7: calibration()},
    "unreadable": {0: calibration(), 2: calibration()[:50], 5: calibration(0.2)},
}


@pytest.fixture(scope="module")
def loaded():
    backend = runtime_for(AUTO, load_model("open-n"))
    with LoadedModel(ReplaySettings(backend=backend, score_threshold=0.02)) as model:
        yield model


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_FRAMES", 3)


def replay(drive, out, loaded, clock=None, **options):
    """What a replay has found, byte for byte, and what it warns of."""
    source, made = run.DriveCamera("drive", drive, ""), run.ReplayOptions(tracks=True, **options)
    summary = run.replay(source, out, loaded, made, lambda *_: None, clock)
    assert summary["detections"] > 0
    film = [(out / name).read_bytes() for name in ("annotated.mp4",) if options.get("video")]
    return (out / "detections.mcap").read_bytes(), film, summary["warnings"], summary["grey_level"]


def workers(loaded, count, drawing=True):
    """As processes would; with more than one, each piece comes to a worker that knows nothing."""
    done, thread = [], ThreadPoolExecutor(1)

    def detect(read, frames, progress):
        worker = str(len(done) % count)
        done.append(len(frames))
        sent = pickle.loads(pickle.dumps((read, frames)))
        piece = pieces.detect(loaded, worker, *sent, drawing, progress)
        return pickle.loads(pickle.dumps(piece))

    def submit(_, work):
        return thread.submit(work, lambda *_: None)

    return partial(pieces.PiecesClock, submit=submit, work=detect, in_advance=count), done


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("infos", CALIBRATIONS)
def test_a_calibration_is_in_force_wherever_a_drive_is_cut(tmp_path, loaded, infos, count):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(*range(FRAMES)), CALIBRATIONS[infos])
    clock, done = workers(loaded, count)
    shared = replay(drive, tmp_path / "shared", loaded, clock)
    assert shared == replay(drive, tmp_path / "alone", loaded)
    assert done == [3, 3, 2]


def test_recorded_calibrations_that_are_not_used(tmp_path, loaded):
    drive = write_drive(
        tmp_path / "drive.mcap", times_ns(*range(FRAMES)), CALIBRATIONS["unreadable"]
    )
    settings = dataclasses.replace(loaded.settings, undistort=False)
    with LoadedModel(settings) as plain:
        shared = replay(drive, tmp_path / "shared", plain, workers(plain, 2)[0])
        assert shared == replay(drive, tmp_path / "alone", plain)
    assert not shared[2]


@pytest.mark.parametrize("broken", [[0, 1, 4], [3, 4, 6]])
def test_frames_that_cannot_be_read(tmp_path, loaded, broken):
    """The picture of the first one of a piece has the size of a frame in another one."""
    frames = [serialized(COMPRESSED, index) for index in range(FRAMES)]
    for index in broken:
        frames[index] = frames[index][:300]
    topic = "/camera/image_raw/compressed"
    times = times_ns(*range(FRAMES))
    messages = ((topic, time, data) for time, data in zip(times, frames, strict=True))
    drive = write_messages(tmp_path / "drive.mcap", {topic: COMPRESSED}, messages)
    clock, _ = workers(loaded, 2)
    shared = replay(drive, tmp_path / "shared", loaded, clock)
    assert shared == replay(drive, tmp_path / "alone", loaded)


def test_pictures_for_a_video_are_drawn_in_one_process(tmp_path, loaded):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(*range(FRAMES)))
    clock, _ = workers(loaded, 2, drawing=False)
    options = {"video": True, "picture_format": "h264"}
    shared = replay(drive, tmp_path / "shared", loaded, clock, **options)
    assert shared == replay(drive, tmp_path / "alone", loaded, **options)


def deep(kind, index):
    """A frame of 16 bits a sample, brighter than the one before."""
    one = message(kind, index)
    one.encoding, one.step = "mono16", 64 * 2
    one.data = np.full(64 * 48, 1000 << index, "<u2").view(np.uint8)
    return bytes(STORE.serialize_cdr(one, kind))


@pytest.mark.parametrize("image", [serialized, deep])
def test_processes_write_what_one_process_writes(tmp_path, image):
    """Where the brightest frame so far decides how all are seen, one process does all."""
    drive = write_drive(tmp_path / "d.mcap", times_ns(*range(6)), image=image)
    options = ("--score-threshold", 0.02, "--tracks")
    shared = command(drive, "--out", tmp_path / "shared", "--workers", 2, *options)
    alone = command(drive, "--out", tmp_path / "alone", *options)
    assert shared["drives"]["d"]["detections_sha256"] == alone["detections_sha256"]
    assert shared["drives"]["d"]["warnings"] == alone["warnings"]
