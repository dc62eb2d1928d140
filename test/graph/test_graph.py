"""The graph of nodes, and the launch files that are made from it."""

import re
import runpy
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.backends.contract import BACKENDS
from perception_nodes.bench import graphs as bench_graphs
from perception_nodes.drives.bag import BagError
from perception_nodes.graph import graph
from perception_nodes.graph.config import DetectorSettings, SettingsError, allowed_range
from perception_nodes.graph.graph import LIVE, RECORDED, REPLAY, Graph, NodeSpec
from perception_nodes.hil import graphs as hil_graphs

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


@pytest.fixture
def drive(monkeypatch):
    """Any bag is there, with one image topic."""
    found = FakeDrive()
    monkeypatch.setattr(graph, "open_source", lambda bag, topic: found)
    return found


def refusal(made, values):
    with pytest.raises(SettingsError) as caught:
        made.nodes(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rcl_value(text):
    """A parameter's value as rcl's parser takes it from the command line.

    It reads with libyaml, and then goes by the style of the scalar and by what strtol and strtod
    make of it, not by YAML's own rules for numbers.
    """
    loader = yaml.CLoader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    if node.style in ("'", '"'):
        return node.value
    if node.value in ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"):
        return True
    if node.value in ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"):
        return False
    if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)", node.value):
        return int(node.value, 0)
    return float(node.value)


def parameters_of(spec):
    """The parameters that a node gets from its command line."""
    flag, *arguments = spec.arguments()
    assert flag == "--ros-args"
    if spec.name != spec.executable:
        arguments = arguments[2:]
    assert arguments[0::2] == ["-p"] * (len(arguments) // 2)
    return {
        name: rcl_value(value)
        for name, _, value in (pair.partition(":=") for pair in arguments[1::2])
    }


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
        assert [spec.executable for spec in specs] == [kind.executable for kind in made.kinds]
        for spec, kind in zip(specs, made.kinds, strict=True):
            defaults = {
                name: info.default
                for name, info in kind.settings.model_fields.items()
                if name not in ("topic", "image_transport", "standby")
            }
            assert defaults.items() <= spec.parameters.items()

    def test_who_listens_starts_before_who_speaks(self):
        listening = ("monitor_node", "receiver_node", "bare_inference_node")
        playing = ("player_node", "fault_camera_node")
        order = [*listening, *(kind.executable for kind in LIVE.kinds), *playing]
        for made in GRAPHS.values():
            names = [kind.executable for kind in made.kinds]
            assert names == sorted(names, key=order.index)

    def test_a_value_reaches_every_node_that_has_the_parameter(self):
        specs = {spec.executable: spec for spec in LIVE.nodes({"deadline_ms": "20", "threads": 2})}
        assert specs["preprocess_node"].parameters["deadline_ms"] == 20.0
        assert specs["watchdog_node"].parameters["deadline_ms"] == 20.0
        assert specs["detector_node"].parameters["threads"] == 2
        assert "threads" not in specs["watchdog_node"].parameters

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
        monkeypatch.setattr(graph, "available_memory_bytes", lambda: free_bytes)
        specs = LIVE.nodes({})
        assert {spec.parameters["standby"] for spec in specs} == {standby}
        assert len(specs) == {"always": 5, "never": 3}[standby]
        assert len(LIVE.nodes({"standby": "never"})) == 3

    def test_what_detects_is_restarted_and_what_plays_is_not(self, drive):
        restarted = {spec.executable for spec in RECORDED.nodes({}) if spec.restarted}
        assert restarted == {"watchdog_node", "detector_node", "preprocess_node"}

    def test_only_the_player_ends_a_graph(self, drive):
        assert [s.executable for s in RECORDED.nodes({}) if s.ends_graph] == ["player_node"]
        assert not any(spec.ends_graph for spec in LIVE.nodes({}))

    @pytest.mark.parametrize("source", ["dds", "shm"])
    def test_dds_is_set_for_who_sends_and_receives_images_and_for_the_others(self, drive, source):
        for spec in RECORDED.nodes({"standby": "never", "source": source}):
            (value,) = spec.environment.values()
            images = source == "dds" and spec.executable in ("player_node", "preprocess_node")
            assert value.endswith("fastdds.xml" if images else "fastdds_network.xml")

    def test_every_executable_is_installed_and_is_a_module(self, root):
        declared = (root / "setup.py").read_text(encoding="utf-8")
        for kind in REPLAY.kinds:
            assert f"{kind.executable} = {kind.module}:main" in declared
        for made in GRAPHS.values():
            for kind in made.kinds:
                assert (root / f"{kind.module.replace('.', '/')}.py").is_file()

    def test_what_only_tests_need_is_no_executable_of_a_vehicle(self, root):
        declared = (root / "setup.py").read_text(encoding="utf-8")
        for kind in {kind for made in GRAPHS.values() for kind in made.kinds} - set(REPLAY.kinds):
            assert f"{kind.executable} =" not in declared

    def test_an_unknown_parameter_is_told_the_known_ones(self):
        text = refusal(LIVE, {"score_treshold": 0.5})
        assert text.startswith("parameter 'score_treshold' is unknown; known are camera")

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"score_threshold": "2"}, ["score_threshold", "'2'", "0.01 to 0.99"]),
            ({"backend": "x"}, ["backend", "'x'", "onnxruntime, tensorrt, fpga, golden, null"]),
            ({"deadline_ms": "2000"}, ["outcome_timeout_ms", "1000", "2000"]),
        ],
    )
    def test_a_bad_value_is_one_line_with_parameter_value_and_range(self, values, words):
        text = refusal(LIVE, values)
        assert all(word in text for word in words)

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
        same(parameters_of(NodeSpec("x", "x", values)), values)

    @pytest.mark.parametrize(
        "text",
        [
            *("", " ", "1", "1.0", "1e3", "0x1F", "true", "no", "null", "~", ".nan", "2024-01-01"),
            *("a b", "a: b", "a #b", "- a", "[1]", "{a}", "*a", "&a", "!a", "%a", "@a", "`a`", "|"),
            *("'", '"', "\\", "\\n", "a\nb", "tab\t", "\x7f", "\x85", "ü", "日本", "🚗", "\ufeff"),
            "x" * 1000 + " " + "y" * 1000,
        ],
    )
    def test_a_text_stays_that_text_on_one_line(self, text):
        spec = NodeSpec("x", "x", {"bag": text})
        assert "\n" not in spec.arguments()[-1]
        same(parameters_of(spec), {"bag": text})


@dataclass
class FakeArgument:
    name: str
    default_value: str
    description: str
    choices: list[str] | None


@dataclass
class FakeOpaqueFunction:
    function: Any


@dataclass
class FakeShutdown:
    reason: str


@dataclass
class FakeDescription:
    entities: list[Any]


@dataclass
class FakeConfiguration:
    name: str

    def perform(self, context):
        return context[self.name]


@dataclass
class FakeNode:
    package: str
    executable: str
    name: str
    parameters: list[dict[str, Any]]
    additional_env: dict[str, str]
    output: str
    on_exit: FakeShutdown | None = None
    respawn: bool = False
    respawn_max_retries: int = -1


@dataclass
class Launched:
    """What `ros2 launch` would make of a launch file."""

    description: FakeDescription
    arguments: dict[str, FakeArgument] = field(init=False)

    def __post_init__(self):
        *arguments, self.start = self.description.entities
        self.arguments = {argument.name: argument for argument in arguments}

    def nodes(self, **given):
        defaults = {name: argument.default_value for name, argument in self.arguments.items()}
        found = self.start.function({**defaults, **given})
        return {node.name: node for node in found}


@pytest.fixture
def launch_file(monkeypatch, root):
    """Runs a launch file on a stand-in for `launch` and `launch_ros`."""
    contents = {
        "launch": {"LaunchContext": dict, "LaunchDescription": FakeDescription},
        "launch.actions": {
            "DeclareLaunchArgument": FakeArgument,
            "OpaqueFunction": FakeOpaqueFunction,
            "Shutdown": FakeShutdown,
        },
        "launch.substitutions": {"LaunchConfiguration": FakeConfiguration},
        "launch_ros": {},
        "launch_ros.actions": {"Node": FakeNode},
    }

    def fake_argument(name, *, default_value, description, choices=None):
        assert choices is None or default_value in choices
        return FakeArgument(name, default_value, description, choices)

    contents["launch.actions"]["DeclareLaunchArgument"] = fake_argument
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "perception_nodes.graph.launching", raising=False)

    def run(name):
        made = runpy.run_path(str(root / f"launch/{name}.launch.py"))
        return Launched(made["generate_launch_description"]())

    yield run
    sys.modules.pop("perception_nodes.graph.launching", None)


@pytest.mark.parametrize(("name", "made"), [("perception", LIVE), ("replay", REPLAY)])
class TestLaunchFiles:
    def test_declare_every_parameter_with_default_range_and_description(
        self, launch_file, name, made
    ):
        arguments = launch_file(name).arguments
        assert list(arguments) == list(made.parameters)
        for argument in arguments.values():
            info = made.parameters[argument.name]
            assert argument.default_value == str(info.default)
            assert info.description in argument.description
            assert allowed_range(info) in argument.description
        assert arguments["backend"].choices == list(BACKENDS)
        assert arguments["model"].choices is None

    def test_start_the_nodes_of_the_graph(self, launch_file, drive, name, made):
        values = {"score_threshold": 0.5, "skip_late": False, "threads": 3, "standby": "always"}
        nodes = launch_file(name).nodes(
            score_threshold="0.5", skip_late="false", threads="3", standby="always"
        )
        expected = made.nodes(values)
        assert list(nodes) == [spec.name for spec in expected]
        for spec in expected:
            node = nodes[spec.name]
            assert (node.package, node.executable) == ("perception_nodes", spec.executable)
            same(node.parameters[0], spec.parameters)
            assert node.additional_env == spec.environment
            assert node.output == "screen"
            assert node.respawn == spec.restarted
            assert spec.restarted or spec.name in node.on_exit.reason

    def test_a_bad_value_is_one_line(self, launch_file, drive, name, made):
        with pytest.raises(SettingsError) as caught:
            launch_file(name).nodes(score_threshold="high")
        assert str(caught.value) == (
            "parameter score_threshold: 'high' is not allowed, "
            "it must be a number from 0.01 to 0.99"
        )


def test_the_replay_launch_file_tells_of_a_bag_that_is_not_there(launch_file, monkeypatch):
    def missing(bag, topic):
        raise BagError(f"{bag} is not there")

    monkeypatch.setattr(graph, "open_source", missing)
    with pytest.raises(SettingsError, match=r"^parameter bag: /no/bag is not there$"):
        launch_file("replay").nodes(bag="/no/bag")


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

    def test_each_preprocessing_has_its_camera_and_its_topic(self):
        for topic, expected in [
            ({}, "/camera/rear/image_raw"),
            ({"image_topic": "/vehicle/image"}, "/vehicle/rear/image"),
            ({"image_topic": "/{camera}_camera/image_raw"}, "/rear_camera/image_raw"),
            ({"image_topic": "image"}, "rear/image"),
        ]:
            parameters = self.specs(**topic)["preprocess_rear_node"].parameters
            assert parameters["camera"] == "rear"
            assert parameters["image_topic"] == expected

    def test_the_others_are_told_of_all(self):
        for name in ("watchdog_node", "detector_node"):
            assert self.specs()[name].parameters["cameras"] == "front,rear"

    def test_names_and_parameters_survive_the_command_line(self):
        for spec in self.specs(standby="always").values():
            same(parameters_of(spec), spec.parameters)
            assert f"__node:={spec.name}" in spec.arguments() or spec.name == spec.executable

    def test_each_can_have_its_calibration(self, tmp_path):
        files = str(tmp_path / "{camera}.yaml")
        parameters = self.specs(calibration_file=files)["preprocess_rear_node"].parameters
        assert parameters["calibration_file"] == str(tmp_path / "rear.yaml")

    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"cameras": "front,front"}, "up to 8 names that differ"),
            ({"cameras": ",".join(f"c{n}" for n in range(9))}, "up to 8 names that differ"),
            ({"cameras": "Front"}, "cameras: 'Front' is not allowed"),
            ({"cameras": "front,"}, "cameras: 'front,' is not allowed"),
            ({"cameras": "front,rear", "camera": "left"}, "either this or cameras"),
            ({"cameras": "front,rear", "calibration_file": "lens.yaml"}, "must have {camera} in"),
            ({"cameras": "front,rear", "threads": -1}, "parameter threads"),
        ],
    )
    def test_what_cannot_be_is_refused(self, values, text):
        assert text in refusal(LIVE, values)

    def test_a_drive_is_of_one_camera(self):
        assert "player_node is for one camera" in refusal(REPLAY, {"cameras": "front,rear"})

    def test_one_camera_may_have_its_name_in_its_topics(self):
        values = {"camera": "left", "image_topic": "/{camera}/image", "standby": "never"}
        specs = {spec.name: spec for spec in LIVE.nodes(values)}
        assert specs["preprocess_node"].parameters["image_topic"] == "/left/image"


class TestTopics:
    def test_a_single_camera_has_the_topics_of_old(self):
        settings = DetectorSettings()
        assert settings.served == ("front",)
        assert settings.topic("/perception/detections", "front") == "/perception/detections"

    def test_one_of_several_has_its_own(self):
        settings = DetectorSettings(cameras="front,rear")
        assert settings.served == ("front", "rear")
        assert settings.topic("/perception/health", "rear") == "/perception/rear/health"
        assert settings.topic("/{camera}/found", "rear") == "/rear/found"

    def test_braces_of_any_other_kind_are_refused(self):
        with pytest.raises(SettingsError, match="image_topic"):
            LIVE.nodes({"image_topic": "/{name}/image"})
