"""The graph of nodes, defined once: every command and launch file starts it from here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic.fields import FieldInfo

from perception_nodes.cameras.camera_source import CameraError
from perception_nodes.cameras.credentials import without_passwords
from perception_nodes.graph import config
from perception_nodes.graph.misnamed import misnamed
from perception_nodes.graph.node_spec import NodeKind, NodeSpec
from perception_nodes.graph.page import page_token
from perception_nodes.graph.resolve import FILLED_BY_OTHERS, NO_DEFAULTS, GraphSettings, resolve
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS, RosArguments
from perception_nodes.graph.settings import SettingsError
from perception_nodes.system.environment import ros_environment
from perception_nodes.transport.memory import NAMESPACE


@dataclass(frozen=True)
class Graph:
    """A set of nodes that share one flat list of parameters.

    A parameter that several nodes have, such as `camera` or `model`, is one parameter of the graph.
    """

    kinds: tuple[NodeKind, ...]
    """Kinds of nodes in the order of starting: subscribers before publishers."""

    @property
    def parameters(self) -> dict[str, FieldInfo]:
        """All parameters of the graph by name, with default, range and description."""
        merged: dict[str, FieldInfo] = {}
        for kind in self.kinds:
            for name, info in kind.settings.model_fields.items():
                merged.setdefault(name, info)
        return merged

    def settings(
        self,
        values: Mapping[str, Any],
        ros: RosArguments = NO_ROS_ARGUMENTS,
        defaults: Mapping[str, Any] = NO_DEFAULTS,
    ) -> GraphSettings:
        """The settings of the nodes with parameters and ROS arguments; see `resolve`."""
        return resolve(self.kinds, values, ros, defaults)

    def nodes(
        self, values: Mapping[str, Any], ros: RosArguments = NO_ROS_ARGUMENTS
    ) -> list[NodeSpec]:
        """The processes to start with parameters and ROS arguments; see `resolve`."""
        return self.processes(self.settings(values, ros), ros)

    def processes(self, settings: GraphSettings, ros: RosArguments) -> list[NodeSpec]:
        """The processes to start for nodes with these settings, with arguments for all nodes."""
        kinds = {kind.settings: kind for kind in self.kinds}
        return [
            _process(kinds[type(own)], own, name, name != node, ros)
            for node, own in settings.nodes.items()
            for name in (node, *_standbys(kinds[type(own)], own, node))
        ]

    def misnamed(self, settings: GraphSettings, ros: RosArguments) -> Iterator[str]:
        """Describe ROS arguments that the graph ignores but that seem meant for it, a line each.

        Args:
            settings: settings of the nodes, from `resolve`.
            ros: the arguments that they were resolved with.
        """
        nodes = settings.nodes.values()
        several = any(getattr(own, "cameras", "") for own in nodes)
        names = [kind.executable for kind in self.kinds] + [
            kind.name(camera)
            for kind in self.kinds
            if not (several and kind.serves_all_cameras)
            for camera in sorted({camera for own in nodes for camera in own.served})
            if several or camera != config.DEFAULT_CAMERA
        ]
        return misnamed(ros, names, self.parameters)


def _standbys(kind: NodeKind, settings: config.Settings, node: str) -> list[str]:
    is_wanted = kind.has_standby and getattr(settings, "standby", "") == "always"
    return [f"{node.removesuffix('node')}standby_node"] if is_wanted else []


def _process(
    kind: NodeKind, settings: config.Settings, name: str, stands_by: bool, ros: RosArguments
) -> NodeSpec:
    moves_images = "image_topic" in kind.settings.model_fields
    source = getattr(settings, "source", "dds")
    # Everyone can read the arguments of a process.
    hidden, passwords = without_passwords(source)
    if passwords:
        settings = settings.model_copy(update={"source": hidden})
    over = getattr(settings, "images_over", "")
    environment = ros_environment(moves_images and source == "dds", over) | passwords
    if ros.namespace != "/":
        environment[NAMESPACE] = ros.namespace
    ends_graph = kind.plays_drive or getattr(settings, "plays_file_once", False)
    when = ends_graph, stands_by, ros.for_every_node
    return NodeSpec(kind, settings, name, ros.full_name(name), environment, *when)


def _check_source(settings: config.CameraSettings) -> None:
    try:
        settings.open_source()
    except CameraError as error:
        raise SettingsError(f"parameter source: {error}", "source") from error


_OURS = partial(NodeKind, restarted=True)
_SHARED = partial(_OURS, serves_all_cameras=True)
WATCHDOG = _SHARED("watchdog_node", config.WatchdogSettings, stops_last=True)
DETECTOR = _SHARED("detector_node", config.DetectorSettings, has_standby=True)
PREPROCESS = _OURS("preprocess_node", config.PreprocessSettings, has_standby=True)
TRACKER = _SHARED("tracker_node", config.TrackerSettings, is_needed=lambda own: own.tracks)
REPUBLISH = _OURS(
    "republish_node",
    config.RepublishSettings,
    for_source=lambda source: source != "dds",
    is_needed=lambda own: own.republish,
)
CAMERA = _OURS(
    "camera_node",
    config.CameraSettings,
    for_source=lambda source: source not in FILLED_BY_OTHERS,
    check=_check_source,
)
_VIEW = partial(_SHARED, dispensable=True, check=page_token)
VIEW = _VIEW("view_node", config.ViewSettings, is_needed=lambda own: own.view)
PLAYER = NodeKind("player_node", config.PlayerSettings, plays_drive=True)
MONITOR = NodeKind("monitor_node", config.MonitorSettings)

LIVE = Graph((WATCHDOG, DETECTOR, PREPROCESS))
"""The nodes that detect."""

VEHICLE = Graph((TRACKER, *LIVE.kinds, VIEW, REPUBLISH, CAMERA))
"""A live camera. All of these nodes are started again when they die."""

REPLAY = Graph((TRACKER, *LIVE.kinds, VIEW, PLAYER))
"""A recorded drive, played as the camera."""

RECORDED = Graph((MONITOR, *REPLAY.kinds))
"""A recorded drive, with a node that records and shows what the graph publishes."""

ALL = Graph((MONITOR, *VEHICLE.kinds, PLAYER))
"""All nodes, whose parameters one file may hold."""


def graph_of(values: Mapping[str, Any]) -> Graph:
    """The graph that `perception run` starts: with a player if a drive is given."""
    return REPLAY if "bag" in values else VEHICLE
