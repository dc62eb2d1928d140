"""What a launch file can be told, with the real launch where it is installed."""

import os
import re
import signal

import pytest
from observe import children
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from started_graph import ROOT, name_of, only_launch
from vision_msgs.msg import VisionInfo

from perception_nodes.graph.graph import REPLAY, VEHICLE
from perception_nodes.graph.settings import allowed_range
from perception_nodes.networks.model import load_model
from perception_nodes.nodes.base import LATCHED

pytestmark = [pytest.mark.ros]
SINGLE = ("backend:=null", "standby:=never")
INCLUDING = """
import pathlib
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter, SetRemap

def generate_launch_description():
    ours = PythonLaunchDescriptionSource({path!r})
    given = {{"backend": "null", "standby": "never", "deadlin_ms": "50"}}
    return LaunchDescription([GroupAction([
        PushRosNamespace("truck"),
        SetRemap("perception/detections", "objects"),
        SetParameter("deadline_ms", 20.0),
        SetParameter("robot_name", "r2"),
        IncludeLaunchDescription(ours, launch_arguments=given.items()),
    ])])
"""
INCLUDING_TWICE = """
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

def generate_launch_description():
    ours = PythonLaunchDescriptionSource({path!r})
    given = {{"backend": "null", "standby": "never"}}
    more = {{"namespace": "truck"}}
    return LaunchDescription([
        IncludeLaunchDescription(ours, launch_arguments=given.items()),
        IncludeLaunchDescription(ours, launch_arguments=more.items()),
    ])
"""
OF_NODES = """
from launch import LaunchDescription
from launch.actions import (
    GroupAction, IncludeLaunchDescription, LogInfo, OpaqueFunction, RegisterEventHandler
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter
from launch_ros.event_handlers import OnStateTransition

def say(context):
    name = context.locals.event.action.node_name.rpartition("/")[2]
    return [LogInfo(msg=f"{{name}} is active")]

def generate_launch_description():
    ours = PythonLaunchDescriptionSource({path!r})
    given = {{"backend": "null", "standby": "always", "source": "shm"}}
    return LaunchDescription([
        RegisterEventHandler(OnStateTransition(
            goal_state="active", entities=[OpaqueFunction(function=say)])),
        GroupAction([
            PushRosNamespace("truck"),
            SetParameter("robot_name_of_all", "r2"),
            IncludeLaunchDescription(ours, launch_arguments=given.items()),
        ]),
    ])
"""


def written(folder, text, ours="perception.launch.py"):
    """A launch file that includes one of ours."""
    path = folder / "vehicle.launch.py"
    path.write_text(text.format(path=str(ROOT / "launch" / ours)))
    return str(path)


def topics(observer):
    return {name for name, _ in observer.node.get_topic_names_and_types()}


def parameter(observer, node, name):
    request = GetParameters.Request(names=[name])
    answer = observer.call(GetParameters, f"{node}/get_parameters", request)
    return parameter_value_to_python(answer.values[0])


def stop(graph):
    graph.signal(signal.SIGINT)
    # An interrupted launch ends with 0, an interrupted command with 130.
    assert graph.end() in (0, 128 + signal.SIGINT), graph.output()


def test_namespace_remappings_parameter_file_and_log_level(start, recorder, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text(
        "/**: {ros__parameters: {use_sim_time: true, backend: 'null', standby: never}}\n"
        "watchdog_node: {ros__parameters: {deadline_ms: 30.0}}\n"
        "preprocess_node: {ros__parameters: {deadline_ms: 30.0}}\n"
        "preprocess_front_node: {ros__parameters: {undistort: false}}\n"
    )
    if start.how == "launch":
        arguments = ["namespace:=truck", f"params_file:={file}", "log_level:=warn"]
        arguments += ["remap:=perception/detections:=objects perception/health:=/health"]
    else:
        arguments = ["--ros-args", "-r", "__ns:=/truck", "--params-file", str(file)]
        arguments += ["-r", "perception/detections:=objects", "-r", "perception/health:=/health"]
        arguments += ["--log-level", "warn"]
    graph = start(*arguments)
    expected = {"/truck/objects", "/health", "/truck/perception/safe_stop"}
    expected |= {"/truck/camera/image_raw", "/truck/perception/vision_info", "/diagnostics"}
    recorder.until(lambda: expected <= topics(recorder))
    assert parameter(recorder, "/truck/watchdog_node", "deadline_ms") == 30.0
    assert parameter(recorder, "/truck/preprocess_node", "use_sim_time") is True
    assert not any(topic.startswith("/perception") for topic in topics(recorder))
    stop(graph)
    assert "threads: " not in graph.output(), "that is said at level info"
    assert "preprocess_front_node is for no node of this graph" in " ".join(graph.output().split())


@only_launch
def test_a_launch_file_that_includes_ours(start, recorder, tmp_path):
    graph = start("an_argument_of:=its_own", file=written(tmp_path, INCLUDING))
    recorder.until(lambda: {"/truck/objects", "/truck/perception/health"} <= topics(recorder))
    assert parameter(recorder, "/truck/watchdog_node", "deadline_ms") == 20.0
    assert "'deadlin_ms' is none of this graph's" in graph.output()
    assert "-p robot_name: no parameter of this graph; it is ignored" in graph.output()
    assert "ros_namespace" not in graph.output()
    stop(graph)


@only_launch
def test_a_launch_file_that_includes_ours_twice(start, recorder, tmp_path):
    graph = start(file=written(tmp_path, INCLUDING_TWICE))
    expected = {"/perception/detections", "/truck/perception/detections"}
    recorder.until(lambda: expected <= topics(recorder))
    stop(graph)
    assert "process has died" not in graph.output(), "an interrupted graph ends with 0"


def ready(graph):
    """How many detectors have loaded their model so far."""
    return graph.output().count(" threads: ")


@only_launch
def test_each_node_is_an_action_whose_events_others_hear(start, tmp_path):
    graph = start(file=written(tmp_path, OF_NODES, "nodes.launch.py"))
    # Launch may discover a node only after its activation.
    graph.until(lambda: graph.output().count("_node is active") and ready(graph) == 2)
    assert "robot_name_of_all: no parameter" in graph.output()
    victim = next(p for p in children(graph.command.pid) if name_of(p) == "detector_node")
    os.kill(victim, signal.SIGKILL)
    graph.until(lambda: ready(graph) == 3)
    stop(graph)
    assert graph.output().count("process has died") == 1, "of the one that was killed"


@only_launch
@pytest.mark.parametrize(
    ("file", "made"), [("perception.launch.py", VEHICLE), ("replay.launch.py", REPLAY)]
)
def test_arguments_are_shown_with_default_range_and_description(start, file, made):
    graph = start("--show-args", file=file)
    assert graph.end() == 0
    text = " ".join(graph.output().split())
    for name, info in made.parameters.items():
        shown = f"'{name}': {info.description} ({allowed_range(info)}) (default: '{info.default}')"
        assert " ".join(shown.split()) in text
    assert set(re.findall(r"'(\w+)':", text)) == {
        *made.parameters, "namespace", "params_file", "log_level", "remap"
    }  # fmt: skip


def test_a_drive_that_has_ended_ends_the_graph(start):
    graph = start(*SINGLE, "bag:=synthetic:64x48@20*10", file="replay.launch.py")
    assert graph.end() == 0, graph.output()


@only_launch
@pytest.mark.parametrize(
    ("file", "arguments", "said"),
    [
        ("replay.launch.py", [], "error: parameter bag: "),
        ("perception.launch.py", ["bag:=synthetic:64x48@20*10"], "argument bag: replay.launch.py"),
    ],
)
def test_a_drive_is_given_to_a_replay_and_to_nothing_else(start, file, arguments, said):
    graph = start(*SINGLE, *arguments, file=file)
    assert graph.end() == 1
    assert graph.output().count(said) == 1


def test_two_cameras_run_side_by_side_with_their_classes(start, recorder):
    graphs = [start(*SINGLE), start(*SINGLE, "camera:=rear")]
    for graph, node in zip(graphs, ("node", "rear_node"), strict=True):
        graph.until_ready([f"{task}_{node}" for task in ("watchdog", "detector", "preprocess")])
    named = {
        f"/perception/{camera}{topic}"
        for camera in ("", "rear/")
        for topic in ("detections", "frame_report", "health", "safe_stop", "vision_info")
    }

    def publishers():
        return {topic: recorder.node.count_publishers(topic) for topic in named}

    # The detector is ready to speak in the watchdog's place.
    expected = {topic: 2 if topic.endswith(("health", "safe_stop")) else 1 for topic in named}
    # A publisher is discovered some time after its node is ready.
    recorder.until(lambda: all(publishers()[topic] >= expected[topic] for topic in named))
    assert publishers() == expected
    nodes = recorder.node.get_node_names()
    assert len(nodes) == len(set(nodes))
    infos = recorder.hear("/perception/vision_info", VisionInfo, LATCHED)
    recorder.until(lambda: infos)
    assert infos[0].method == "open-n int8 (null)"
    assert infos[0].database_location == "/detector_node/class_names"
    node, _, name = infos[0].database_location.rpartition("/")
    assert list(parameter(recorder, node, name)) == load_model("open-n").classes
    for graph in graphs:
        stop(graph)
