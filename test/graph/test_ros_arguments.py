"""What follows `--ros-args`, and parameter files."""

import re

import pytest
from refused import refused

from perception_nodes.graph.graph import ALL, LIVE, VEHICLE
from perception_nodes.graph.misnamed import misspelt
from perception_nodes.graph.ros_arguments import Section, split_ros_arguments
from perception_nodes.graph.settings import SettingsError


def nodes(*arguments, **values):
    others, ros = split_ros_arguments(["--ros-args", *arguments])
    assert others == []
    return {spec.name: spec for spec in LIVE.nodes({"standby": "never", **values}, ros)}


def refusal(*arguments, **values):
    return refused(SettingsError, nodes, *arguments, **values)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "parameters.yaml"
        path.write_text(text)
        return ["--params-file", str(path)]

    return write


def sections(text):
    """A parameter file with one section a line."""
    lines = [line.replace(": {", ": {ros__parameters: {", 1) + "}" for line in text.splitlines()]
    return "\n".join(lines)


def test_other_arguments_stay():
    others, ros = split_ros_arguments(["a:=1", "--ros-args", "-r", "b:=c", "--", "d:=2"])
    assert others == ["a:=1", "d:=2"]
    assert ros.for_every_node == ("-r", "b:=c")


def test_overrides_of_quality_of_service_are_given_to_the_nodes(file):
    override = "qos_overrides./perception/frame_report.publisher.depth:=5"
    assert nodes("-p", override)["watchdog_node"].ros_arguments == ("-p", override)
    given = file(
        "watchdog_node:\n  ros__parameters:\n    deadline_ms: 20.0\n"
        "    qos_overrides: {/perception/frame_report: {publisher: {depth: 5}}}\n"
    )
    watchdog = nodes(*given)["watchdog_node"]
    assert watchdog.ros_arguments == tuple(given)
    assert watchdog.parameters["deadline_ms"] == 20.0


def test_every_node_gets_remappings_and_log_levels():
    given = ["-r", "perception/detections:=objects", "-r", "__ns:=/truck", "--log-level", "debug"]
    given += ["--log-file-name", "truck", "--disable-rosout-logs"]
    for name, spec in nodes(*given).items():
        assert spec.arguments()[1 : 1 + len(given)] == given
        assert spec.full_name == f"/truck/{name}"


def test_a_parameter_is_like_an_assignment_which_comes_first():
    found = nodes("-p", "deadline_ms:=20", "--param", "cpus:='3'")
    assert {spec.parameters["cpus"] for spec in found.values()} == {"3"}
    assert found["watchdog_node"].parameters["deadline_ms"] == 20.0
    own = nodes("-p", "deadline_ms:=20", deadline_ms="30")["watchdog_node"].parameters
    assert own["deadline_ms"] == 30.0


FOR_ONE = """
detector_node: {threads: 2}
/**: {threads: 3, deadline_ms: 20.0, of_another_package: 1}
/other_node: {threads: 7}
""".strip()
REAR = "/**: {camera: rear}\ndetector_rear_node: {threads: 2}"
BOTH = "/**: {cameras: 'front,rear'}\npreprocess_rear_node: {image_topic: '/{camera}/image'}"


@pytest.mark.parametrize(
    ("text", "arguments", "node", "name", "value"),
    [
        (FOR_ONE, [], "detector_node", "threads", 2),
        (FOR_ONE, [], "watchdog_node", "deadline_ms", 20.0),
        (FOR_ONE, [], "preprocess_node", "deadline_ms", 20.0),
        (FOR_ONE, ["-p", "threads:=4"], "detector_node", "threads", 4),
        (FOR_ONE, ["-p", "detector_node:threads:=5"], "detector_node", "threads", 5),
        (REAR, [], "detector_rear_node", "threads", 2),
        (BOTH, [], "preprocess_rear_node", "image_topic", "/rear/image"),
        (BOTH, [], "preprocess_front_node", "image_topic", "camera/front/image_raw"),
    ],
)
def test_a_named_node_comes_before_a_wildcard_and_a_parameter_before_a_file(
    file, text, arguments, node, name, value
):
    assert nodes(*file(sections(text)), *arguments)[node].parameters[name] == value


def test_what_all_nodes_share_is_not_for_one_camera_to_change(file):
    text = """
        /**: {ros__parameters: {cameras: "front,rear", deadline_ms: 20.0}}
        preprocess_rear_node: {ros__parameters: {%s}}
        """
    for alone in ("model: open-s", "deadline_ms: 10.0", "cpus: '2'"):
        name = alone.partition(":")[0]
        assert f"parameter {name}: " in refusal(*file(text % alone))
    assert "all nodes share it" in refusal(*file(text % "model: open-s"))
    for spec in nodes(*file(text % "deadline_ms: 20, undistort: false")).values():
        assert spec.parameters.get("deadline_ms", 20.0) == 20.0
        assert spec.parameters.get("undistort") == {
            "preprocess_rear_node": False,
            "preprocess_front_node": True,
        }.get(spec.name)
    assert nodes(*file(text % "model: open-s"), model="open-xs")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("/**", "/truck/detector_node", True),
        ("**", "/detector_node", True),
        ("/*", "/truck/detector_node", False),
        ("/**/detector_node", "/a/b/detector_node", True),
        ("/*/detector_node", "/detector_node", False),
        ("/truck/**", "/truck/a/detector_node", True),
        ("/truck/**", "/trucks/detector_node", False),
        ("detector_node", "/truck/detector_node", True),
        ("/detector_node", "/truck/detector_node", False),
        ("detector_nod.", "/detector_node", False),
    ],
)
def test_patterns_of_names(pattern, name, matches):
    assert Section(pattern, {}, "").matches(name) == matches


def test_namespaces_may_be_nested(file):
    text = "truck: {detector_node: {ros__parameters: {threads: 2}}}"
    assert nodes(*file(text), "-r", "__ns:=/truck")["detector_node"].parameters["threads"] == 2
    assert nodes(*file(text))["detector_node"].parameters["threads"] == 0


def test_a_misspelt_argument_of_an_included_launch_file_is_told():
    given = ["deadlin_ms", "deadline_ms", "safe_stop_clear", "radar", "params", "model_of_truck"]
    found = list(misspelt(given, VEHICLE.parameters))
    assert [re.findall(r"'(\w+)'.* mean (\w+)\?", line) for line in found] == [
        [("deadlin_ms", "deadline_ms")],
        [("safe_stop_clear", "safe_stop_clears")],
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/**: {deadlin_ms: 25.0, of_another_package: 1}", ["'deadlin_ms'.*mean deadline_ms"]),
        ("/camera_frnt_node: {source: x.mp4}", ["camera_frnt_node.*mean /truck/camera_node"]),
        ("preprocess_front_node: {undistort: false}", ["mean /truck/preprocess_node"]),
        ("detector_standby_node: {threads: 2}", ["mean /truck/detector_node"]),
        ("/detector_node: {threads: 2}", ["mean /truck/detector_node"]),
        ("/lorry/**: {threads: 2, use_sim_time: true}",
         ["/lorry/.* is for no node .* its nodes are .*/truck/watchdog_node"]),
        ("/**: {cameras: 'front,rear'}\ncamera_raer_node: {loop: true}\n"
         "detector_rear_node: {threads: 2}",
         ["mean /truck/camera_rear_node", "mean /truck/detector_node"]),
        # Theirs, or ours.
        ("radar_node: {threads: 2, range: 80, camera: left}", []),
        ("usb_cam: {camera: front}\nrviz_node: {threads: 2}", []),
        ("monitor_node: {live: false}", []),
        ("/sensors/camera_node: {brightness: 3}", []),
        ("lidar: {deadline_ms: 3.0, returns: 2}", []),
        ("rviz: {use_sim_time: true}", []),
        ("detector_standby_node: {qos_overrides: {/a: {publisher: {depth: 5}}}}", []),
        ("/**: {range_m: 80, 5: 6}\nrepublish_node: {republish: false}", []),
        ("/**: {camera: rear}\nrepublish_rear_node: {republish: false}", []),
        ("/**: {cameras: 'front,rear'}\nrepublish_rear_node: {republish: false}", []),
        ("/truck/**: {threads: 2}", []),
    ],
)  # fmt: skip
def test_what_is_ignored_and_seems_to_be_ours_is_told(file, text, told):
    _, ros = split_ros_arguments(["--ros-args", "-r", "__ns:=/truck", *file(sections(text))])
    found = list(ALL.misnamed(VEHICLE.settings({"standby": "never"}, ros), ros))
    assert len(found) == len(told), found
    for line, expected in zip(found, told, strict=True):
        assert re.search(f"parameters.yaml: .*{expected}", line), line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("detector_node: {ros__parameters: {5: 2}}", "has no parameter '5'"),
        ("detector_node: {ros__parameters: {thread: 2}}", "has no parameter 'thread'"),
        ("/**: {ros__parameters: {deadline_ms: fast}}", "parameter deadline_ms: 'fast' is not"),
        ("watchdog_node: {ros__parameters: {deadline_ms: 20}}\n"
         "preprocess_node: {ros__parameters: {deadline_ms: 30}}", "all nodes share it"),
        ("deadline_ms: 20", "deadline_ms is not a mapping"),
        ("ros__parameters: {deadline_ms: 20}", "below a node's name"),
        ("", "it is not a mapping"),
        ("\x00", "is not YAML"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(file, text, words):
    assert words in refusal(*file(text))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--params-file", "/no/such"], "/no/such cannot be read: No such file"),
        (["--params-file"], "--params-file needs a value"),
        (["-p", "threads"], "'threads' is not of the form NAME:=VALUE"),
        (["-p", "threads:={"], "is not YAML"),
        (["-p", "score_treshold:=0.5"], "'score_treshold' is unknown"),
        (["-r", "a"], "'a' is not of the form FROM:=TO"),
        (["-r", "__node:=x"], "several nodes"),
        (["-r", "perception/detections:=1bad"], "'1bad' is no name that ROS takes"),
        (["-r", "a:=b__c"], "'b__c' is no name"),
        (["-r", "__ns:=truck"], "'truck' is no name"),
        (["--log-level", "loud"], "log level 'loud'"),
        (["--nonsense"], "'--nonsense' is unknown"),
    ],
)
def test_a_bad_argument_is_one_line(arguments, words):
    assert words in refusal(*arguments)
