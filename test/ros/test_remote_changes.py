"""Parameters and states that others change while the graph runs: shown and kept, or refused."""

import itertools
import subprocess
import sys
from contextlib import closing

import pytest
import rclpy
from beside import beside
from filming import send_frame
from lifecycle_msgs.msg import Transition
from perception_interfaces.msg import Health
from rcl_interfaces.srv import GetParameters
from recorder import Recorder
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool
from test_lifecycle import PIXELS, change, set_parameter

from perception_nodes.cameras.channel import camera_writer
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.transport.shm import Endpoint

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
VALUES = {"backend": "null", "source": "shm"}
IMPOSTOR = """
import sys
import rclpy
from vision_msgs.msg import Detection2DArray
rclpy.init()
publisher = rclpy.create_node("detector_node").create_publisher(
    Detection2DArray, "perception/detections", 1)
sys.stdin.read()
"""
"""Takes the name of a node of the graph, but no supervisor has started it."""


def test_a_change_is_shown_and_survives_all_who_knew_it(recorder: Recorder) -> None:
    healths = recorder.hear("perception/health", Health)

    def until_it_has(name, value):
        asked = f"/{name}/get_parameters", GetParameters.Request(names=["score_threshold"])
        recorder.until_told(GetParameters, *asked, lambda a: a.values[0].double_value == value)

    def act(graph: Supervisor) -> None:
        recorder.until(lambda: healths)
        first = healths[-1]
        assert first.configuration_hash and not first.changed_parameters
        assert set_parameter(recorder, "detector_node", "score_threshold", 0.75).successful
        recorder.until(lambda: healths[-1].changed_parameters == ["score_threshold:=0.75"])
        assert healths[-1].configuration_hash not in (0, first.configuration_hash)
        until_it_has("detector_standby_node", 0.75)
        every = graph.processes
        before = {spec.name: process for spec, process in every if "detector" in spec.name}
        for process in before.values():
            process.kill()
        recorder.until(lambda: all(p is not before.get(s.name) for s, p in graph.processes))
        until_it_has("detector_node", 0.75)
        off = SetBool.Request(data=False)
        recorder.until_told(SetBool, "perception/enable", off, lambda a: a.success)
        recorder.until(lambda: "enabled:=False" in healths[-1].changed_parameters)

    beside(LIVE.nodes({**VALUES, "standby": "always"}), act)


def test_changes_are_refused(recorder: Recorder) -> None:
    def act(graph: Supervisor) -> None:
        result = set_parameter(recorder, "detector_node", "score_threshold", 0.99)
        assert not result.successful
        assert "score_threshold:=0.99: remote_changes:=refuse" in result.reason
        assert not recorder.call(SetBool, "perception/enable", SetBool.Request(data=False)).success
        for kind in LIVE.kinds:
            assert not change(recorder, kind.executable, Transition.TRANSITION_DEACTIVATE)
            assert not change(recorder, kind.executable, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert all(process.poll() is None for _, process in graph.processes)

    beside(LIVE.nodes({**VALUES, "standby": "never", "remote_changes": "refuse"}), act)


def test_who_publishes_our_topics_or_a_second_calibration_is_named(recorder: Recorder) -> None:
    healths = recorder.hear("perception/health", Health)

    def act(graph: Supervisor) -> None:
        recorder.until(lambda: healths and not any("published by" in f for f in healths[-1].faults))
        forged = recorder.node.create_publisher(Health, "perception/health", 1)
        said = "published by others, too: /perception/health by /recorder"
        recorder.until(lambda: said in healths[-1].faults)
        recorder.node.destroy_publisher(forged)
        recorder.until(lambda: said not in healths[-1].faults)
        by_a_shell = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, IMPOSTOR]
        said = "published by others, too: /perception/detections by another /detector_node"
        with subprocess.Popen(by_a_shell, stdin=subprocess.PIPE):
            recorder.until(lambda: said in healths[-1].faults)
        recorder.until(lambda: said not in healths[-1].faults)
        other = rclpy.create_node("other", context=recorder.node.context)
        nodes = recorder.node, other
        infos = [node.create_publisher(CameraInfo, "camera/camera_info", 1) for node in nodes]
        named = "/camera/camera_info is published by /other, /recorder"
        with closing(Endpoint("test")) as endpoint:
            camera, numbers = camera_writer(endpoint, "front", PIXELS.nbytes), itertools.count()

            def is_told(text: str) -> bool:
                send_frame(camera, number := next(numbers), PIXELS)
                infos[0].publish(CameraInfo(width=number))
                return any(text in fault for fault in healths[-1].faults)

            recorder.until(lambda: is_told(named))
            other.destroy_node()
            recorder.until(lambda: not is_told(named))
            recorder.node.destroy_publisher(infos[0])
            infos[0] = recorder.node.create_publisher(CameraInfo, "elsewhere", 1)
            recorder.until(lambda: is_told("who has changed the calibration is gone"))

    beside(LIVE.nodes({**VALUES, "standby": "never"}), act)
