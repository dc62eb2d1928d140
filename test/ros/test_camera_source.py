"""A graph that opens its camera itself: all is accounted for, and recorders get the frames."""

import os
import signal
import time

import cv2
import numpy as np
import pytest
from filming import stamp_ns
from perception_interfaces.msg import FrameReport, Health
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from started_graph import ROOT, hurry, left_behind, only_run
from videos import write_video
from vision_msgs.msg import Detection2DArray

from perception_nodes.core.frame import FrameStatus
from perception_nodes.graph.graph import LIVE, VEHICLE, Graph
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.lab.graphs import RECEIVER
from perception_nodes.report.recording import read_recording
from perception_nodes.system.threads import threads

pytestmark = [pytest.mark.ros]
GRAPH = ("backend:=null", "standby:=never", "deadline_ms:=900")
NO_DETECTOR = "no detector is known to have been working when it came"
LENS = ROOT / "calibration/camera/example_wide_1920x1280.yaml"


def assert_nothing_left(domain):
    """The recorder's own ports stay until it ends."""
    assert [name for name in left_behind(domain) if name.startswith("perception")] == []


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "drive.mp4", 30, period_ms=50)


@only_run
def test_frames_in_flight_when_the_graph_is_stopped_are_reported(start, recorder, tmp_path):
    reports = recorder.hear("/perception/frame_report", FrameReport, 1000)
    healths = recorder.hear("/perception/health", Health)
    video = write_video(tmp_path / "long.mp4", 600, period_ms=50)
    graph = start(*GRAPH, f"source:={video}")
    nodes = graph.until_ready(["watchdog_node", "preprocess_node", "detector_node"])
    recorder.until(lambda: len(reports) > 10, graph.output)
    os.kill(nodes["detector_node"], signal.SIGSTOP)
    recorder.until(lambda: healths[-1].in_flight >= 2, graph.output)
    graph.signal(signal.SIGINT)
    recorder.until(lambda: graph.command.poll() is not None, graph.output)
    recorder.until(lambda: reports[-1].status == FrameReport.FAILED, graph.output)
    numbers = sorted(report.sequence for report in reports)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert sum(report.status == FrameReport.FAILED for report in reports) >= 2


def test_a_video_file_is_played_once_and_each_frame_has_its_report(video, tmp_path, domain):
    received = tmp_path / "received.mcap"
    graph = Graph((RECEIVER, *VEHICLE.kinds))
    values = dict(argument.split(":=") for argument in GRAPH)
    files = {"source": str(video), "recording": str(received)}
    with Supervisor(graph.nodes({**values, **files})) as running:
        assert running.wait()
    reports = read_recording(received).reports
    assert sorted(report.sequence for report in reports) == list(range(30))
    # A busy machine may lose frames before they are taken, or keep the detector from working.
    reasons = {r.reason for r in reports if r.status == FrameStatus.FAILED}
    assert reasons <= {"lost by the camera or its driver", NO_DETECTOR}
    assert_nothing_left(domain)


@only_run
def test_recorders_get_the_frames_and_a_killed_camera_comes_back(start, recorder, video, domain):
    graph = start(*GRAPH, f"source:={video}", "loop:=true", f"calibration_file:={LENS}")
    recorder.subscribe("/perception/detections", Detection2DArray)
    kinds = {
        "/camera/image_raw": Image,
        "/camera/image_raw/compressed": CompressedImage,
        "/camera/camera_info": CameraInfo,
    }
    subscriptions = [recorder.subscribe(topic, kind) for topic, kind in kinds.items()]
    recorder.until(lambda: recorder.got["/camera/image_raw"], graph.output)
    first = graph.nodes()
    assert {one.policy for one in threads(first["republish_node"])} == {"idle"}
    hurry(first["republish_node"])  # the machine may be busy

    def one_frame_everywhere():
        return set.intersection(*({*map(stamp_ns, got)} for got in recorder.got.values()))

    recorder.until(one_frame_everywhere, graph.output)
    _, images, jpegs, infos = ([*got] for got in recorder.got.values())
    brightness = {}
    for image in images:
        assert (image.encoding, image.width, image.height) == ("nv12", 64, 48)
        assert len(image.data) == 64 * 48 * 3 // 2
        luma = np.frombuffer(image.data, np.uint8)[: 64 * 48].mean()
        brightness[stamp_ns(image)] = (luma - 16) * 255 / 219
    for jpeg in jpegs:
        pixels = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
        expected = brightness.get(stamp_ns(jpeg), pixels.mean())
        assert abs(pixels.mean() - expected) < 4
    assert infos[-1].k[0] == 1250.0 and infos[-1].header.frame_id == "front"

    os.kill(first["camera_node"], signal.SIGKILL)
    graph.until(lambda: "camera_node ended by signal SIGKILL and is started" in graph.output())
    killed_ns, topics = time.time_ns(), recorder.got.values()
    recorder.until(
        lambda: all(sum(stamp_ns(m) > killed_ns for m in got) > 5 for got in topics), graph.output
    )

    for subscription in subscriptions:
        recorder.node.destroy_subscription(subscription)
    recorder.until(lambda: "frames published over DDS" in graph.output(), graph.output)
    graph.signal(signal.SIGINT)
    assert graph.end() == 130
    assert "Traceback" not in graph.output()
    assert_nothing_left(domain)


@only_run
def test_a_camera_that_is_not_there_ends_the_graph_or_is_waited_for(start, domain):
    graph = start(*GRAPH, "source:=v4l2:/dev/video99")
    assert graph.end() == 2
    assert "/dev/video99 is not there" in graph.output().splitlines()[-1]
    assert graph.output().count("failed: camera_node ended with status 2") == 1
    waiting = start(*GRAPH, "source:=v4l2:/dev/video99", "wait_for_camera:=true")
    waiting.until(lambda: "it is waited for" in waiting.output())
    detect = [kind.executable for kind in LIVE.kinds]
    waiting.until_ready([*detect, "republish_node", "camera_node"])
    waiting.signal(signal.SIGINT)
    assert waiting.end() == 130
    assert_nothing_left(domain)
