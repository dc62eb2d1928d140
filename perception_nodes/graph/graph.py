"""The graph of nodes, defined once: every command and launch file starts it from here."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from pydantic.fields import FieldInfo

from perception_nodes.backends.auto import AUTO
from perception_nodes.backends.delegate import DELEGATE
from perception_nodes.cameras.source import CameraError
from perception_nodes.cameras.source_for import is_file
from perception_nodes.drives.bag import BagError
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.drives.synthetic import open_source
from perception_nodes.graph.config import (
    DEFAULT_CAMERA,
    CameraSettings,
    DetectorSettings,
    MonitorSettings,
    PlayerSettings,
    PreprocessSettings,
    RepublishSettings,
    Settings,
    TrackerSettings,
    ViewSettings,
    WatchdogSettings,
)
from perception_nodes.graph.misnamed import misnamed
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS, RosArguments
from perception_nodes.graph.settings import SettingsError, check
from perception_nodes.graph.topics import ANY_CAMERA, camera_topic, image_topic
from perception_nodes.system.environment import ros_environment
from perception_nodes.system.processes import available_memory_bytes

FILLED_BY_OTHERS = ("dds", "shm")
"""Sources that the graph does not open."""
STANDBY_MEMORY_BYTES = 2_000_000_000
"""Standbys are kept where at least this much memory is available: each loads the models again."""


@dataclass(frozen=True)
class NodeKind:
    """An executable that graphs are made of.

    Attributes:
        executable: name of the module and of the program.
        settings: its parameters.
        package: package that contains the module.
        standby: node name of a second process that may stand by; empty: it has no standby.
        serves_all_cameras: one process serves all cameras of a graph.
        plays_drive: it plays a recorded drive, and the graph ends when the drive ends.
        dispensable: the graph runs without it where it cannot start.
        stops_last: it tells what has become of the frames of the others.
        is_needed: whether a graph with these parameters has it.
    """

    executable: str
    settings: type[Settings]
    package: str = "perception_nodes.nodes"
    standby: str = ""
    serves_all_cameras: bool = False
    plays_drive: bool = False
    dispensable: bool = False
    stops_last: bool = False
    is_needed: Callable[[Mapping[str, Any]], bool] = lambda _: True

    @property
    def module(self) -> str:
        """The module to run with `python -m`."""
        return f"{self.package}.{self.executable}"


@dataclass(frozen=True)
class Graph:
    """A set of nodes that share one flat list of parameters.

    A parameter that several nodes have, such as `camera` or `model`, is one parameter of the graph.
    """

    kinds: tuple[NodeKind, ...]
    """In the order of starting: subscribers before publishers."""

    @property
    def parameters(self) -> dict[str, FieldInfo]:
        """All parameters of the graph by name, with default, range and description."""
        merged: dict[str, FieldInfo] = {}
        for kind in self.kinds:
            for name, info in kind.settings.model_fields.items():
                merged.setdefault(name, info)
        return merged

    def nodes(
        self, values: Mapping[str, Any], ros: RosArguments = NO_ROS_ARGUMENTS
    ) -> list[NodeSpec]:
        """The processes to start.

        Args:
            values: parameters that differ from their defaults; texts are converted.
            ros: parameters of less precedence than `values`, and arguments for all nodes.

        Raises:
            SettingsError: unknown, outside its range, or inconsistent: one line that says what.
        """
        values = {**ros.parameters, **values}
        if any(sign in str(values.get("camera", "")) for sign in ":./"):
            raise SettingsError(
                f"parameter camera: {values['camera']!r} is not allowed, it is the name of a "
                f"camera; give source:={values['camera']}",
                "camera",
            )
        unknown = sorted(set(values) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters)
            raise SettingsError(
                f"parameter {unknown[0]!r} is unknown; known are {known}", unknown[0]
            )
        chosen = {**_from_ros_arguments(self.kinds, ros), **values}
        if chosen.get("cameras"):
            specs = self._nodes_of_several(chosen, values, ros)
        else:
            specs = self._nodes_of_one(chosen, values, ros)
        return [
            replace(spec, ros_arguments=ros.for_every_node, full_name=ros.full_name(spec.name))
            for spec in specs
        ]

    def misnamed(self, specs: Sequence[NodeSpec], ros: RosArguments) -> Iterator[str]:
        """What of the ROS arguments the graph ignores and seems to be meant for it, in lines.

        Args:
            specs: the processes, from `nodes`.
            ros: the arguments that they were made with.
        """
        several = any(spec.parameters.get("cameras") for spec in specs)
        cameras = {camera for spec in specs for camera in spec.cameras}
        names = [kind.executable for kind in self.kinds] + [
            _named(kind.executable, camera)
            for kind in self.kinds
            if not (several and kind.serves_all_cameras)
            for camera in sorted(cameras)
            if several or camera != DEFAULT_CAMERA
        ]
        return misnamed(ros, names, self.parameters)

    def _nodes_of_one(
        self, chosen: Mapping[str, Any], given: Mapping[str, Any], ros: RosArguments
    ) -> list[NodeSpec]:
        """The processes for a single camera."""
        camera = str(chosen.get("camera", DEFAULT_CAMERA))
        if camera != DEFAULT_CAMERA:
            chosen = {**chosen, **_from_ros_arguments(self.kinds, ros, camera), **given}
        if any(kind.plays_drive for kind in self.kinds):
            chosen = _with_drive(chosen)
        if any(kind.standby for kind in self.kinds):
            chosen = _with_standby(chosen)
        specs = _nodes(self.kinds, _of_camera(chosen, camera, several=False))
        if camera == DEFAULT_CAMERA:
            return specs
        return [replace(spec, name=_named(spec.name, camera)) for spec in specs]

    def _nodes_of_several(
        self, chosen: Mapping[str, Any], given: Mapping[str, Any], ros: RosArguments
    ) -> list[NodeSpec]:
        """The processes where several cameras share a detector."""
        for kind in self.kinds:
            if kind not in VEHICLE.kinds:
                raise SettingsError(f"parameter cameras: {kind.executable} is for one camera")
        cameras = check(WatchdogSettings, _own(WatchdogSettings, chosen)).served
        if "camera" in chosen:
            raise SettingsError("parameter camera: give either this or cameras")
        for name in ("calibration_file", "source"):
            value = str(chosen.get(name) or "shm")
            if ANY_CAMERA not in value and value not in FILLED_BY_OTHERS:
                raise SettingsError(
                    f"parameter {name}: {value!r} is that of one camera; with cameras it must "
                    f"contain {ANY_CAMERA}, or be given to one camera's node"
                )
        common = {
            name: chosen.get(name, info.default)
            for kind in self.kinds
            if kind.serves_all_cameras
            for name, info in kind.settings.model_fields.items()
            if name not in ("camera", *given)
        }
        values, specs = _with_standby(chosen), []
        of_one_camera = [kind for kind in self.kinds if not kind.serves_all_cameras]
        for kind in self.kinds:
            if kind.serves_all_cameras:
                specs += _nodes((kind,), values)
                continue
            for camera in cameras:
                found = _from_ros_arguments(of_one_camera, ros, camera, common)
                own = {**values, **found, **given, "camera": camera}
                own["standby"] = values["standby"]
                specs += [
                    replace(spec, name=_named(spec.name, camera))
                    for spec in _nodes((kind,), _of_camera(own, camera, several=True))
                ]
        _refuse_shared_topics(specs, ros)
        return specs


def _refuse_shared_topics(specs: Sequence[NodeSpec], ros: RosArguments) -> None:
    """Refuse two cameras whose images are on the same topic: each picture would count twice."""
    cameras: dict[str, str] = {}
    for spec in specs:
        given = spec.parameters
        if spec.executable != PREPROCESS.executable or given["source"] != "dds":
            continue
        name = image_topic(given["image_topic"], given["image_transport"])
        topic = ros.topic_of(spec.name, name)
        other = cameras.setdefault(topic, given["camera"])
        if other != given["camera"]:
            raise SettingsError(
                f"parameter cameras: {other} and {given['camera']} both have {topic}; give each "
                "camera an image topic of its own",
                "cameras",
            )


def _from_ros_arguments(
    kinds: Sequence[NodeKind],
    ros: RosArguments,
    camera: str = "",
    common: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The values that ROS arguments give to named nodes.

    Args:
        kinds: the nodes.
        ros: the arguments.
        camera: the nodes are those with this camera's name in theirs.
        common: parameters that they share with other nodes.

    Raises:
        SettingsError: nodes that share a parameter are given different values.
    """
    found = {name: (value, "other nodes") for name, value in (common or {}).items()}
    for kind in kinds:
        node = _named(kind.executable, camera) if camera else kind.executable
        for name, value in ros.values(node, kind.settings).items():
            other, other_node = found.setdefault(name, (value, node))
            if other != value:
                raise SettingsError(
                    f"parameter {name}: {value!r} is given to {node} and {other!r} to "
                    f"{other_node}, but all nodes share it; give it to /** instead",
                    name,
                )
    return {name: value for name, (value, _) in found.items()}


def _named(node: str, camera: str) -> str:
    """A node's name with the camera's in it: `detector_node` becomes `detector_rear_node`."""
    return node.replace("_", f"_{camera}_", 1)


def _nodes(kinds: Sequence[NodeKind], values: Mapping[str, Any]) -> list[NodeSpec]:
    specs = []
    for kind in kinds:
        if not kind.is_needed(values):
            continue
        settings = check(kind.settings, _own(kind.settings, values))
        parameters, plays_file = settings.model_dump(), False
        if isinstance(settings, CameraSettings):
            try:
                settings.open_source()
            except CameraError as error:
                raise SettingsError(f"parameter source: {error}", "source") from error
            plays_file = is_file(settings.source) and not settings.loop
        names = [kind.executable]
        if kind.standby and parameters["standby"] == "always":
            names.append(kind.standby)
        specs += [
            NodeSpec(
                kind.executable,
                kind.module,
                parameters,
                ros_environment(
                    images="image_topic" in parameters and parameters.get("source", "dds") == "dds"
                ),
                ends_graph=kind.plays_drive or plays_file,
                restarted=kind in VEHICLE.kinds,
                dispensable=kind.dispensable,
                stands_by=name == kind.standby,
                stops_last=kind.stops_last,
                name=name,
            )
            for name in names
        ]
    return specs


def _own(settings_type: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the parameters that one node has."""
    return {name: v for name, v in values.items() if name in settings_type.model_fields}


def _of_camera(values: Mapping[str, Any], camera: str, several: bool) -> dict[str, Any]:
    """The values for one camera, which has an image topic of its own.

    Args:
        values: may contain `{camera}`.
        camera: the camera's name.
        several: a given image topic without `{camera}` in it gets the camera's name, too.
    """
    own = dict(values)
    default = PreprocessSettings.model_fields["image_topic"].default
    named = several or ("image_topic" not in own and camera != DEFAULT_CAMERA)
    own["image_topic"] = camera_topic(str(own.get("image_topic", default)), camera, named)
    return own


def _with_drive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the recorded drive determines: its image topic and the type of its images."""
    if values.get("source", "dds") not in FILLED_BY_OTHERS:
        raise SettingsError(
            f"parameter source: {values['source']!r} is not allowed with bag, which is played as "
            "the camera; give one of them, or source:=shm",
            "source",
        )
    try:
        with closing(
            open_source(str(values.get("bag", "")), str(values.get("topic", "")))
        ) as drive:
            transport = "compressed" if drive.message_type == COMPRESSED_IMAGE else "raw"
            return {**values, "topic": drive.topic, "image_transport": transport}
    except BagError as error:
        raise SettingsError(f"parameter bag: {error}", "bag") from error


def _with_standby(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `standby:=auto` by a decision that holds for all nodes."""
    standby = values.get("standby", "auto")
    is_fpga = values.get("backend") == "fpga"
    if standby == "auto":
        enough = available_memory_bytes() >= STANDBY_MEMORY_BYTES
        # An Edge TPU, too, belongs to one process; another delegate's device may have several.
        may_be_delegated = values.get("backend", AUTO) in (AUTO, "litert")
        may_have_one_owner = is_fpga or (may_be_delegated and os.environ.get(DELEGATE))
        standby = "always" if enough and not may_have_one_owner else "never"
    elif standby == "always" and is_fpga:
        raise SettingsError(
            "parameter standby: with backend fpga it must be never, since one process has the FPGA",
            "standby",
        )
    return {**values, "standby": standby}


WATCHDOG = NodeKind("watchdog_node", WatchdogSettings, serves_all_cameras=True, stops_last=True)
DETECTOR = NodeKind(
    "detector_node", DetectorSettings, standby="detector_standby_node", serves_all_cameras=True
)
PREPROCESS = NodeKind("preprocess_node", PreprocessSettings, standby="preprocess_standby_node")
TRACKER = NodeKind(
    "tracker_node",
    TrackerSettings,
    serves_all_cameras=True,
    is_needed=lambda values: check(TrackerSettings, _own(TrackerSettings, values)).tracks,
)
REPUBLISH = NodeKind(
    "republish_node",
    RepublishSettings,
    is_needed=lambda values: (
        values.get("source", "dds") != "dds"
        and check(RepublishSettings, _own(RepublishSettings, values)).republish
    ),
)
CAMERA = NodeKind(
    "camera_node",
    CameraSettings,
    is_needed=lambda values: values.get("source", "dds") not in FILLED_BY_OTHERS,
)
VIEW = NodeKind(
    "view_node",
    ViewSettings,
    serves_all_cameras=True,
    dispensable=True,
    is_needed=lambda values: check(ViewSettings, _own(ViewSettings, values)).view,
)
PLAYER = NodeKind("player_node", PlayerSettings, plays_drive=True)
MONITOR = NodeKind("monitor_node", MonitorSettings)

LIVE = Graph((WATCHDOG, DETECTOR, PREPROCESS))
"""What detects."""

VEHICLE = Graph((TRACKER, *LIVE.kinds, VIEW, REPUBLISH, CAMERA))
"""A live camera. All of these nodes are started again when they die."""

REPLAY = Graph((TRACKER, *LIVE.kinds, VIEW, PLAYER))
"""A recorded drive, played as the camera."""

RECORDED = Graph((MONITOR, *REPLAY.kinds))
"""A recorded drive, with a node that records and shows what the graph publishes."""

ALL = Graph((MONITOR, *VEHICLE.kinds, PLAYER))
"""All nodes, whose parameters one file may hold."""


def graph_of(values: Mapping[str, Any]) -> Graph:
    """The graph that `perception run` starts: with a player where a drive is given."""
    return REPLAY if "bag" in values else VEHICLE
