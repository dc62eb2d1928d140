"""The graph of nodes: which processes run with which parameters."""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

from perception_nodes.faults import graphs as hil_graphs
from perception_nodes.graph import graph, node_spec, page, resolve
from perception_nodes.graph.config import DetectorSettings
from perception_nodes.graph.graph import LIVE, RECORDED, REPLAY, VEHICLE, Graph
from perception_nodes.graph.node_spec import parameter_arguments
from perception_nodes.graph.ros_arguments import split_ros_arguments
from perception_nodes.graph.settings import SettingsError, allowed_range
from perception_nodes.graph.topics import info_topic, is_annotated
from perception_nodes.lab import graphs as bench_graphs
from perception_nodes.system.environment import LOCALHOST, PEERS, RANGE, SUBNET, profiles_variable

GRAPHS = {
    name: value
    for module in (graph, bench_graphs, hil_graphs)
    for name, value in vars(module).items()
    if isinstance(value, Graph)
}
every_graph = pytest.mark.parametrize("made", GRAPHS.values(), ids=list(GRAPHS))


@dataclass
class FakeDrive:
    topic: str = "/drive/image"
    message_type: str = "sensor_msgs/msg/Image"
    closed: int = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def drive(monkeypatch):
    """Any bag is there, with one image topic."""
    found = FakeDrive()
    monkeypatch.setattr(resolve, "open_drive", lambda bag, topic: found)
    return found


@pytest.mark.parametrize(
    ("values", "allowed", "awake"),
    [
        ({}, 40, True),
        ({}, 0, False),
        ({"fifo_priority": 0}, 40, False),
        ({"fifo_priority": 0, "stay_awake": "always"}, 0, True),
        ({"stay_awake": "never"}, 40, False),
    ],
)
def test_processors_stay_awake_where_the_graph_has_priority(monkeypatch, values, allowed, awake):
    monkeypatch.setattr(node_spec, "allowed_priority", lambda: allowed)
    monkeypatch.setattr(node_spec.os, "sched_getaffinity", lambda process: {0, 1, 2})
    processors = [s.awake_processors for s in LIVE.nodes({"cpus": "1-2,7", **values})]
    assert set().union(*processors) == ({1, 2} if awake else set())


def refusal(made, values):
    return refused(SettingsError, made.nodes, values)


def rcl_value(text):
    """A parameter's value as rcl's parser takes it from the command line.

    It reads with libyaml, and then goes by the style of the scalar and by what strtol and strtod
    make of it, not by YAML's own rules for numbers.
    """
    node = yaml.compose(text, yaml.CLoader)
    if node.style in ("'", '"'):
        return node.value
    if node.value in ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"):
        return True
    if node.value in ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"):
        return False
    if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)", node.value):
        return int(node.value, 0)
    return float(node.value)


def as_rcl_reads(arguments):
    """The parameters in a node's ROS arguments."""
    assert arguments[0::2] == ["-p"] * (len(arguments) // 2)
    pairs = (pair.partition(":=") for pair in arguments[1::2])
    return {name: rcl_value(value) for name, _, value in pairs}


def parameters_of(spec):
    """The parameters that a node gets from its command line."""
    flag, *arguments = spec.arguments()
    assert flag == "--ros-args"
    return as_rcl_reads(arguments if spec.name == spec.executable else arguments[2:])


def same(found, expected):
    assert found == expected
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


class TestGraph:
    @every_graph
    def test_nodes_that_share_a_parameter_agree_on_it(self, made):
        for kind in made.kinds:
            for name, info in kind.settings.model_fields.items():
                shared = made.parameters[name]
                assert info.default == shared.default, name
                assert allowed_range(info) == allowed_range(shared), name
                assert info.annotation == shared.annotation, name

    @every_graph
    def test_starts_its_nodes_in_order_with_their_defaults(self, made, drive):
        never = {"standby": "never"} if "standby" in made.parameters else {}
        specs = made.nodes(never)
        assert drive.closed == sum(kind.plays_drive for kind in made.kinds)
        beside = {"tracker_node", "view_node", "republish_node", "camera_node"}
        kinds = [kind for kind in made.kinds if kind.executable not in beside]
        assert [spec.executable for spec in specs] == [kind.executable for kind in kinds]
        for spec, kind in zip(specs, kinds, strict=True):
            defaults = {
                name: info.default
                for name, info in kind.settings.model_fields.items()
                if name not in ("topic", "image_transport", "standby")
            }
            assert defaults.items() <= spec.parameters.items()

    def test_who_listens_starts_before_who_speaks(self):
        listening = ("monitor_node", "receiver_node", "slow_subscriber_node")
        playing = ("player_node", "fault_camera_node")
        order = [*listening, *(kind.executable for kind in VEHICLE.kinds), *playing]
        for made in GRAPHS.values():
            names = [kind.executable for kind in made.kinds]
            assert names == sorted(names, key=order.index)

    def test_a_standby_is_the_same_node_under_another_name(self):
        specs = {spec.name: spec for spec in LIVE.nodes({"standby": "always"})}
        for name in ("detector", "preprocess"):
            node, standby = specs[f"{name}_node"], specs[f"{name}_standby_node"]
            assert standby.executable == node.executable == node.name
            assert standby.parameters == node.parameters
            assert standby.arguments()[:3] == ["--ros-args", "-r", f"__node:={standby.name}"]
        assert {spec.parameters["standby"] for spec in specs.values()} == {"always"}

    @pytest.mark.parametrize(("free_bytes", "standby"), [(10**12, "always"), (10**8, "never")])
    def test_memory_decides_on_a_standby_where_nobody_has(self, monkeypatch, free_bytes, standby):
        monkeypatch.setattr(resolve, "available_memory_bytes", lambda: free_bytes)
        specs = LIVE.nodes({})
        assert {spec.parameters["standby"] for spec in specs} == {standby}
        assert len(specs) == {"always": 5, "never": 3}[standby]
        assert len(LIVE.nodes({"standby": "never"})) == 3

    def test_nobody_stands_by_for_who_has_the_only_engine(self, monkeypatch):
        monkeypatch.setattr(resolve, "available_memory_bytes", lambda: 10**12)
        assert len(LIVE.nodes({"backend": "fpga"})) == 3
        with pytest.raises(SettingsError, match="with backend fpga it must be never"):
            LIVE.nodes({"backend": "fpga", "standby": "always"})
        monkeypatch.setenv("PERCEPTION_DELEGATE", "libedgetpu.so.1")
        assert len(LIVE.nodes({"backend": "litert"})) == 3
        assert len(LIVE.nodes({"backend": "openvino"})) == 5
        assert len(LIVE.nodes({"backend": "litert", "standby": "always"})) == 5

    def test_what_detects_is_restarted_and_what_plays_ends_the_graph(self, drive):
        specs = RECORDED.nodes({})
        restarted = {spec.executable for spec in specs if spec.kind.restarted}
        assert restarted == {"watchdog_node", "detector_node", "preprocess_node"}
        assert [spec.executable for spec in specs if spec.ends_graph] == ["player_node"]
        assert not any(spec.ends_graph for spec in LIVE.nodes({}))

    @pytest.mark.parametrize("source", ["dds", "shm"])
    @pytest.mark.parametrize(
        ("given", "profiles", "reach"),
        [
            ({}, ("_localhost_images", "_localhost"), "SYSTEM_DEFAULT"),
            ({RANGE: LOCALHOST}, ("_localhost_images", "_localhost"), "SYSTEM_DEFAULT"),
            ({PEERS: "10.0.0.2"}, ("", "_network"), LOCALHOST),
            ({RANGE: SUBNET}, ("", "_network"), SUBNET),
        ],
        ids=repr,
    )
    def test_dds_is_set_for_who_sends_and_receives_images_and_for_the_others(
        self, drive, source, given, profiles, reach, monkeypatch
    ):
        monkeypatch.delenv(RANGE)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        for spec in RECORDED.nodes({"standby": "never", "source": source}):
            images = source == "dds" and spec.executable in ("player_node", "preprocess_node")
            profile = profiles[not images]
            if images and spec.executable == "preprocess_node":  # it sends none
                profile = f"{profile or '_images'}_shm"
            file = spec.environment[profiles_variable()]
            assert file.endswith(f"/fastdds{profile}.xml") and Path(file).is_file()
            assert spec.environment[RANGE] == reach

    @pytest.mark.parametrize(
        ("reach", "profile"), [(LOCALHOST, "localhost_images_udp"), (SUBNET, "images_udp")]
    )
    def test_images_over_udp_are_asked_for_by_who_receives_them(
        self, drive, reach, profile, monkeypatch
    ):
        monkeypatch.setenv(RANGE, reach)
        specs = RECORDED.nodes({"standby": "never", "images_over": "udp"})
        files = {s.executable: Path(s.environment[profiles_variable()]) for s in specs}
        assert all(file.is_file() for file in files.values())
        asking = [name for name, file in files.items() if file.name == f"fastdds_{profile}.xml"]
        assert asking == ["preprocess_node"]

    @pytest.mark.parametrize(
        "files",
        [
            ("fastdds.xml", "fastdds_images_shm.xml"),
            ("fastdds_localhost_images.xml", "fastdds_localhost_images_shm.xml"),
        ],
    )
    def test_who_only_receives_images_has_all_settings_but_the_segment(self, root, files):
        trees = [ElementTree.parse(root / "config" / file) for file in files]
        pairs = zip(*(tree.iter() for tree in trees), strict=True)
        differ = [a.tag.rpartition("}")[2] for a, b in pairs if (a.tag, a.text) != (b.tag, b.text)]
        assert differ == ["segment_size", "maxMessageSize"]

    def test_settings_of_dds_that_the_user_has_made_stay_on_this_machine_too(
        self, drive, monkeypatch
    ):
        monkeypatch.delenv(RANGE)
        monkeypatch.setenv(profiles_variable(), "/mine.xml")
        for spec in RECORDED.nodes({"standby": "never"}):
            assert spec.environment == {profiles_variable(): "/mine.xml", RANGE: LOCALHOST}

    def test_every_executable_is_installed_and_is_a_module(self, root):
        declared = (root / "setup.py").read_text(encoding="utf-8")
        for kind in (kind for made in GRAPHS.values() for kind in made.kinds):
            of_vehicle = kind in {*VEHICLE.kinds, *REPLAY.kinds}
            assert (f"{kind.executable} = {kind.module}:" in declared) == of_vehicle
            assert (root / f"{kind.module.replace('.', '/')}.py").is_file()

    def test_an_unknown_parameter_is_told_the_known_ones(self):
        text = refusal(LIVE, {"score_treshold": 0.5})
        assert text == "parameter 'score_treshold' is unknown; did you mean score_threshold?"
        text = refusal(LIVE, {"sausage": 0.5})
        assert text.startswith("parameter 'sausage' is unknown; known are camera")

    def test_a_bag_that_is_not_there_is_told(self):
        assert refusal(REPLAY, {"bag": "/no/such/bag"}).startswith("parameter bag: /no/such/bag")
        assert refusal(REPLAY, {}).startswith("parameter bag: ")

    @pytest.mark.parametrize(
        ("kind", "transport"), [("Image", "raw"), ("CompressedImage", "compressed")]
    )
    def test_the_bag_decides_on_topic_and_transport(self, drive, kind, transport):
        drive.message_type = f"sensor_msgs/msg/{kind}"
        specs = {spec.executable: spec.parameters for spec in REPLAY.nodes({"bag": "b"})}
        assert specs["player_node"]["topic"] == "/drive/image"
        assert specs["preprocess_node"]["image_transport"] == transport


class TestSource:
    """The camera, stream or file that a graph opens itself."""

    @staticmethod
    def specs(**values):
        return {spec.name: spec for spec in VEHICLE.nodes({"standby": "never", **values})}

    @pytest.mark.parametrize(
        ("values", "beside"),
        [
            ({}, set()),
            ({"source": "dds"}, set()),
            ({"source": "shm"}, {"republish_node"}),
            ({"source": "v4l2:/dev/video0"}, {"republish_node", "camera_node"}),
            ({"source": "gst:videotestsrc", "republish": "false"}, {"camera_node"}),
            ({"tracks": "true"}, {"tracker_node"}),
        ],
    )
    def test_who_runs_beside_what_detects(self, values, beside):
        assert set(self.specs(**values)) == {kind.executable for kind in LIVE.kinds} | beside

    def test_one_tracker_serves_all_cameras(self):
        specs = self.specs(tracks=True, cameras="front,rear")
        assert specs["tracker_node"].settings.served == ("front", "rear")
        assert specs["tracker_node"].kind.restarted

    def test_a_camera_is_restarted_and_ends_no_graph(self):
        specs = self.specs(source="v4l2:/dev/video0", frame_size="1280x720", controls="gain=5")
        camera = specs["camera_node"]
        assert camera.kind.restarted and not camera.ends_graph
        assert camera.parameters["frame_size"] == "1280x720"
        assert camera.parameters["controls"] == "gain=5"
        assert specs["preprocess_node"].parameters["source"] == "v4l2:/dev/video0"

    @pytest.mark.parametrize("loop", [True, False])
    def test_a_file_ends_the_graph_unless_it_begins_anew(self, tmp_path, loop):
        (tmp_path / "drive.mp4").touch()
        specs = self.specs(source=str(tmp_path / "drive.mp4"), loop=loop)
        assert specs["camera_node"].ends_graph is not loop

    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"source": "no/such/file.mp4"}, "parameter source: camera 'no/such/file.mp4' is nei"),
            (
                {"source": "rtsp://h/a", "controls": "gain=3"},
                "controls can only be set for v4l2: sources",
            ),
            ({"source": "v4l2:/dev/video0", "frame_size": "big"}, "such as 1280x720"),
            ({"camera": "v4l2:/dev/video0"}, "give source:=v4l2:/dev/video0"),
            ({"cameras": "front,rear", "source": "/dev/video0"}, "must contain {camera}"),
        ],
    )
    def test_what_cannot_be_opened_is_told_before_anything_starts(self, values, text):
        assert text in refusal(VEHICLE, values)

    def test_a_drive_is_not_played_beside_a_camera(self, drive):
        text = refusal(REPLAY, {"bag": "b", "source": "v4l2:/dev/video0"})
        assert "is not allowed with bag" in text

    def test_the_parameter_file_of_the_documentation(self, root, tmp_path):
        page = (root / "docs/camera-sources.md").read_text(encoding="utf-8")
        file = tmp_path / "cameras.yaml"
        file.write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
        ros = split_ros_arguments(["--ros-args", "--params-file", str(file)])[1]
        specs = {spec.name: spec.parameters for spec in VEHICLE.nodes({}, ros)}
        front, rear = specs["camera_front_node"], specs["camera_rear_node"]
        assert (front["source"], front["pixel_format"]) == ("v4l2:/dev/video0", "NV12")
        assert rear["source"] == specs["preprocess_rear_node"]["source"] != front["source"]
        assert rear["wait_for_camera"] is True

    def test_the_cameras_name_stands_in_the_source(self):
        specs = self.specs(cameras="front,rear", source="v4l2:/dev/v4l/by-id/{camera}")
        assert specs["camera_rear_node"].parameters["source"] == "v4l2:/dev/v4l/by-id/rear"


class TestView:
    def test_one_page_shows_all_cameras_of_a_graph(self, drive):
        for made, values in ((VEHICLE, {"cameras": "front,rear"}), (REPLAY, {"bag": "b"})):
            assert "view_node" not in [spec.name for spec in made.nodes(values)]
            shown = made.nodes({**values, "view": "true", "view_port": "9000"})
            (page,) = (spec for spec in shown if spec.name == "view_node")
            assert page.settings.cameras == values.get("cameras", "")
            assert page.settings.view_url == "http://localhost:9000"

    @pytest.mark.parametrize("token", ["", "too short"])
    def test_the_network_gets_it_with_a_token_only(self, monkeypatch, token):
        monkeypatch.setenv("PERCEPTION_VIEW_TOKEN", token)
        values = {"view": "true", "view_address": "0.0.0.0"}
        # A node that is started by itself serves the page whatever `view` is.
        for those in (values, {"view_address": "0.0.0.0"}):
            text = refusal(VEHICLE, those)
            assert text.startswith("parameter view_address: '0.0.0.0' is not allowed with a token")
            assert "PERCEPTION_VIEW_TOKEN" in text
        monkeypatch.setenv("PERCEPTION_VIEW_TOKEN", 16 * "x")
        assert VEHICLE.nodes(values)

    def test_a_missing_server_is_told_with_its_remedy(self, monkeypatch):
        monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
        assert "pip install aiohttp" in refusal(VEHICLE, {"view": "true"})
        assert VEHICLE.nodes({})


class TestArguments:
    @every_graph
    def test_defaults_come_back_as_rcl_reads_them(self, made, drive):
        for spec in made.nodes({}):
            same(parameters_of(spec), spec.parameters)

    @given(st.dictionaries(st.from_regex("[a-z_]{1,8}", fullmatch=True), st.one_of(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
    )))  # fmt: skip
    def test_any_value_comes_back_as_rcl_reads_it(self, values):
        same(as_rcl_reads(parameter_arguments(values)), values)


class TestCameras:
    """Several that share a detector."""

    @staticmethod
    def specs(**values):
        return {spec.name: spec for spec in LIVE.nodes({"cameras": "front,rear", **values})}

    def test_each_has_its_preprocessing_and_all_share_the_rest(self):
        assert list(self.specs(standby="never")) == [
            "watchdog_node",
            "detector_node",
            "preprocess_front_node",
            "preprocess_rear_node",
        ]
        names = set(self.specs(standby="always"))
        assert {"detector_standby_node", "preprocess_rear_standby_node"} <= names
        assert len(names) == 7

    def test_each_has_its_topic_and_one_alone_of_another_name_the_one_that_is_given(self):
        both, one = {"cameras": "front,rear"}, {"camera": "rear"}
        for values, expected in [
            (both, "camera/rear/image_raw"),
            (both | {"image_topic": "/vehicle/image"}, "/vehicle/rear/image"),
            (both | {"image_topic": "/{camera}_camera/image_raw"}, "/rear_camera/image_raw"),
            (both | {"image_topic": "image"}, "rear/image"),
            (one, "camera/rear/image_raw"),
            (one | {"image_topic": "/video0"}, "/video0"),
            (one | {"image_topic": "/{camera}/image"}, "/rear/image"),
        ]:
            *_, preprocess = LIVE.nodes({"standby": "never", **values})
            assert preprocess.name == "preprocess_rear_node"
            assert preprocess.parameters["camera"] == "rear"
            assert preprocess.parameters["image_topic"] == expected

    @pytest.mark.parametrize(
        ("arguments", "topic"),
        [
            (["-r", "front:=/video", "-r", "rear:=/video"], "/video"),
            (["-r", "__ns:=/truck", "-r", "rostopic://front:=~/a", "-r", "/truck/rear:=~/a"], ""),
            (["-r", "preprocess_rear_node:rear:=front"], "/front"),
            (["-r", "rear:=/one", "-r", "/rear:=/front"], ""),
            (["-r", "preprocess_front_node:rear:=front"], ""),
            (["--disable-rosout-logs", "-r", "front/compressed:=rear/compressed"], ""),
        ],
    )
    def test_two_cameras_have_no_topic_in_common(self, arguments, topic):
        ros = split_ros_arguments(["--ros-args", *arguments])[1]
        values = {"cameras": "front,rear", "image_topic": "{camera}", "standby": "always"}
        problem = f"cameras: front and rear both have {topic};"
        with pytest.raises(SettingsError, match=problem) if topic else nullcontext():
            LIVE.nodes(values, ros)

    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"cameras": "front,front"}, "up to 8 names that differ"),
            ({"cameras": ",".join(f"c{n}" for n in range(9))}, "up to 8 names that differ"),
            ({"cameras": "Front"}, "cameras: 'Front' is not allowed"),
            ({"cameras": "front,"}, "cameras: 'front,' is not allowed"),
            ({"cameras": "front,rear", "camera": "left"}, "either this or cameras"),
            ({"cameras": "front,rear", "calibration_file": "lens.yaml"}, "must contain {camera}"),
            ({"cameras": "front,rear", "threads": -2}, "parameter threads"),
            ({"cameras": "front,front_standby"}, "camera: 'front_standby' is not allowed"),
            ({"camera": "standby"}, "camera: 'standby' is not allowed"),
        ],
    )
    def test_what_cannot_be_is_refused(self, values, text):
        assert text in refusal(LIVE, values)

    def test_a_drive_is_of_one_camera(self):
        assert "player_node is for one camera" in refusal(REPLAY, {"cameras": "front,rear"})


class TestOneCamera:
    """Graphs of one camera each, side by side."""

    def test_of_another_name_shares_no_node_with_it(self):
        front = {spec.name for spec in LIVE.nodes({"standby": "always"})}
        rear = LIVE.nodes({"camera": "rear", "standby": "always"})
        assert not front & {spec.name for spec in rear}
        assert [spec.name for spec in rear] == [
            "watchdog_rear_node",
            "detector_rear_node",
            "detector_rear_standby_node",
            "preprocess_rear_node",
            "preprocess_rear_standby_node",
        ]
        for spec in rear:
            same(parameters_of(spec), spec.parameters)
            assert f"__node:={spec.name}" in spec.arguments()

    def test_player_and_preprocessing_agree_on_the_image_topic(self, drive):
        specs = REPLAY.nodes({"bag": "b", "camera": "rear"})
        topics = {s.parameters["image_topic"] for s in specs if "image_topic" in s.parameters}
        assert topics == {"camera/rear/image_raw"}


class TestTopics:
    def test_what_a_graph_shows_is_no_camera(self):
        for topic in (
            "/perception/annotated/compressed",
            "/a/perception/annotated/rear/compressed",
        ):
            assert is_annotated(topic)
        assert not is_annotated("/perception/camera/compressed")

    @pytest.mark.parametrize(
        ("values", "camera", "detections", "found", "safe_stop"),
        [
            ({}, "front", "perception/detections", "/found/front", "perception/safe_stop"),
            (
                {"camera": "rear"},
                "rear",
                "perception/rear/detections",
                "/found/rear",
                "perception/rear/safe_stop",
            ),
            (
                {"cameras": "front,rear"},
                "rear",
                "perception/rear/detections",
                "/found/rear",
                "perception/safe_stop",
            ),
        ],
        ids=["default", "another", "several"],
    )
    def test_name_each_camera_but_the_default_one(
        self, values, camera, detections, found, safe_stop
    ):
        settings = DetectorSettings(**values)
        assert camera in settings.served
        assert settings.topic_of("perception/detections", camera) == detections
        assert settings.topic_of("/found/{camera}", camera) == found
        assert settings.safe_stop_topic == safe_stop

    @every_graph
    def test_are_relative_by_default(self, made):
        topics = [info.default for name, info in made.parameters.items() if "_topic" in name]
        assert not any(topic.startswith("/") for topic in topics)

    @pytest.mark.parametrize(
        ("images", "info"),
        [
            ("image", "camera_info"),
            ("camera/image_raw", "camera/camera_info"),
            ("~/image", "~/camera_info"),
        ],
    )
    def test_camera_info_lies_beside_the_images(self, images, info):
        assert info_topic(images) == info


def test_a_password_is_in_the_environment_of_processes_and_in_no_argument():
    specs = VEHICLE.nodes({"source": "rtsp://user:hunter2@host/a", "backend": "null"})
    assert not any("hunter2" in argument for spec in specs for argument in spec.arguments())
    (camera,) = (spec for spec in specs if spec.executable == "camera_node")
    assert "hunter2" in camera.environment.values()
    with pytest.raises(SettingsError, match=r"rtsp://user:\*\*\*@host"):
        stream = "rtsp://user:hunter2@host/a"
        VEHICLE.nodes({"source": stream, "controls": "gain=3", "backend": "null"})
