"""The graph of nodes, defined once: launch files and `perception run` both start it from here."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from perception_nodes.drives.bag import BagError
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.drives.synthetic import open_source
from perception_nodes.graph.config import (
    ANY_CAMERA,
    DetectorSettings,
    MonitorSettings,
    PlayerSettings,
    PreprocessSettings,
    Settings,
    SettingsError,
    WatchdogSettings,
    camera_topic,
    check,
)
from perception_nodes.system.environment import ros_environment
from perception_nodes.system.processes import available_memory_bytes

STANDBY_MEMORY_BYTES = 2_000_000_000
"""Available memory from which on standbys are kept: each loads the models once more."""


@dataclass(frozen=True)
class NodeKind:
    """An executable that graphs are made of.

    Attributes:
        executable: name of the module and of the console script.
        settings: its parameters.
        package: that holds the module.
        standby: name of a second process that may stand by; empty where there is none.
        serves_all_cameras: one process serves all cameras of a graph.
        plays_drive: it plays a recorded drive, and the graph is over when the drive is.
    """

    executable: str
    settings: type[Settings]
    package: str = "perception_nodes.nodes"
    standby: str = ""
    serves_all_cameras: bool = False
    plays_drive: bool = False

    @property
    def module(self) -> str:
        """The module to run with `python -m`."""
        return f"{self.package}.{self.executable}"


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph.

    Attributes:
        executable: name of the console script.
        module: to run with `python -m`.
        parameters: values of its ROS parameters.
        environment: variables it needs.
        ends_graph: the graph is over when this process ends by itself.
        restarted: it is started anew where it dies.
        name: of the node; the executable's by default.
    """

    executable: str
    module: str
    parameters: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    ends_graph: bool = False
    restarted: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.executable)

    def arguments(self) -> list[str]:
        """Command-line arguments that set the parameters, their values quoted as YAML."""
        pairs = [f"{name}:={_yaml(value)}" for name, value in self.parameters.items()]
        renamed = [] if self.name == self.executable else ["-r", f"__node:={self.name}"]
        return ["--ros-args", *renamed, *(item for pair in pairs for item in ("-p", pair))]


@dataclass(frozen=True)
class Graph:
    """A set of nodes that share one flat list of parameters.

    A parameter that several nodes have, such as `camera` or `model`, is one parameter of the graph.
    """

    kinds: tuple[NodeKind, ...]
    """In the order of starting: who listens before who speaks."""

    @property
    def parameters(self) -> dict[str, FieldInfo]:
        """All parameters of the graph by name, with default, range and description."""
        merged: dict[str, FieldInfo] = {}
        for kind in self.kinds:
            for name, info in kind.settings.model_fields.items():
                merged.setdefault(name, info)
        return merged

    def nodes(self, values: Mapping[str, Any]) -> list[NodeSpec]:
        """The processes to start.

        Args:
            values: parameters that differ from their defaults; texts are converted.

        Raises:
            SettingsError: unknown, outside its range, or inconsistent: one line that says what.
        """
        unknown = sorted(set(values) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters)
            raise SettingsError(
                f"parameter {unknown[0]!r} is unknown; known are {known}", unknown[0]
            )
        if values.get("cameras"):
            return self._nodes_of_several(values)
        if any(kind.plays_drive for kind in self.kinds):
            values = _with_drive(values)
        if any(kind.standby for kind in self.kinds):
            values = _with_standby(values)
        return _nodes(self.kinds, _of_camera(values, several=False))

    def _nodes_of_several(self, values: Mapping[str, Any]) -> list[NodeSpec]:
        """The processes where several cameras share a detector."""
        for kind in self.kinds:
            if kind not in LIVE.kinds:
                raise SettingsError(f"parameter cameras: {kind.executable} is for one camera")
        cameras = check(WatchdogSettings, _own(WatchdogSettings, values)).served
        if "camera" in values:
            raise SettingsError("parameter camera: give either this or cameras")
        if values.get("calibration_file") and ANY_CAMERA not in str(values["calibration_file"]):
            raise SettingsError(
                f"parameter calibration_file: {values['calibration_file']!r} is one camera's; with "
                f"cameras it must have {ANY_CAMERA} in it"
            )
        values, specs = _with_standby(values), []
        for kind in self.kinds:
            if kind.serves_all_cameras:
                specs += _nodes((kind,), values)
                continue
            for camera in cameras:
                own = _of_camera({**values, "camera": camera}, several=True)
                specs += [
                    replace(spec, name=spec.name.replace("_", f"_{camera}_", 1))
                    for spec in _nodes((kind,), own)
                ]
        return specs


def _nodes(kinds: Sequence[NodeKind], values: Mapping[str, Any]) -> list[NodeSpec]:
    specs = []
    for kind in kinds:
        parameters = check(kind.settings, _own(kind.settings, values)).model_dump()
        names = [kind.executable]
        if kind.standby and parameters["standby"] == "always":
            names.append(kind.standby)
        specs += [
            NodeSpec(
                kind.executable,
                kind.module,
                parameters,
                ros_environment(images=parameters.get("source") == "dds"),
                ends_graph=kind.plays_drive,
                restarted=kind in LIVE.kinds,
                name=name,
            )
            for name in names
        ]
    return specs


def _own(settings_type: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that one node has."""
    return {name: v for name, v in values.items() if name in settings_type.model_fields}


def _of_camera(values: Mapping[str, Any], several: bool) -> dict[str, Any]:
    """The values with what they say of any camera said of the one that they name."""
    camera = str(values.get("camera", Settings.model_fields["camera"].default))
    own = dict(values)
    if several:
        own.setdefault("image_topic", PreprocessSettings.model_fields["image_topic"].default)
    for name in ("image_topic", "detections_topic"):
        if name in own:
            own[name] = camera_topic(str(own[name]), camera, several)
    if "calibration_file" in own:
        own["calibration_file"] = str(own["calibration_file"]).replace(ANY_CAMERA, camera)
    return own


def _yaml(value: Any) -> str:
    """A parameter's value on one line. Texts are quoted, so that they stay texts.

    JSON would do but for characters beyond 16 bits, which it writes as two that YAML refuses.
    """
    if isinstance(value, str):
        return yaml.safe_dump(value, default_style='"', width=math.inf).rstrip("\n")
    return json.dumps(value)


def _with_drive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the bag decides: its image topic, and how its images travel."""
    try:
        drive = open_source(str(values.get("bag", "")), str(values.get("topic", "")))
    except BagError as error:
        raise SettingsError(f"parameter bag: {error}", "bag") from error
    transport = "compressed" if drive.message_type == COMPRESSED_IMAGE else "raw"
    return {**values, "topic": drive.topic, "image_transport": transport}


def _with_standby(values: Mapping[str, Any]) -> dict[str, Any]:
    """Decide on standbys where that is left to us, for all nodes alike."""
    standby = values.get("standby", "auto")
    if standby == "auto":
        enough = available_memory_bytes() >= STANDBY_MEMORY_BYTES
        standby = "always" if enough else "never"
    return {**values, "standby": standby}


WATCHDOG = NodeKind("watchdog_node", WatchdogSettings, serves_all_cameras=True)
DETECTOR = NodeKind(
    "detector_node", DetectorSettings, standby="detector_standby_node", serves_all_cameras=True
)
PREPROCESS = NodeKind("preprocess_node", PreprocessSettings, standby="preprocess_standby_node")
PLAYER = NodeKind("player_node", PlayerSettings, plays_drive=True)
MONITOR = NodeKind("monitor_node", MonitorSettings)

LIVE = Graph((WATCHDOG, DETECTOR, PREPROCESS))
"""A live camera. All of these are started anew where they die."""

REPLAY = Graph((*LIVE.kinds, PLAYER))
"""A recorded drive, played as the camera."""

RECORDED = Graph((MONITOR, *REPLAY.kinds))
"""The same, watched and recorded."""
