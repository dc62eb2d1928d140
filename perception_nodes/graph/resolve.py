"""Resolves what a user gives to a graph into the settings of its nodes."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from perception_nodes.backends.auto import AUTO
from perception_nodes.backends.delegate import DELEGATE
from perception_nodes.drives.bag import BagError, open_drive
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.graph import config
from perception_nodes.graph.misnamed import ALIKE
from perception_nodes.graph.node_spec import NodeKind
from perception_nodes.graph.ros_arguments import RosArguments
from perception_nodes.graph.settings import SettingsError, check
from perception_nodes.graph.topics import ANY_CAMERA, camera_topic, image_topic
from perception_nodes.system.processes import available_memory_bytes

FILLED_BY_OTHERS = ("dds", "shm")
"""Sources that other processes fill, so that the graph does not open them."""
STANDBY_MEMORY_BYTES = 2_000_000_000
"""Standbys are kept if at least this much memory is available, since each loads the models
again."""

NO_DEFAULTS: Mapping[str, Any] = {}

S = TypeVar("S", bound=config.Settings)


@dataclass(frozen=True)
class GraphSettings:
    """The settings of a graph, one model a node.

    Attributes:
        nodes: by the node's name, in the order of starting.
    """

    nodes: dict[str, config.Settings]

    def of(self, settings_type: type[S]) -> S:
        """The settings of the first node of a kind."""
        return next(one for one in self.nodes.values() if isinstance(one, settings_type))

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters by name; if nodes have different values, that of the last node."""
        return {name: value for settings in self.nodes.values() for name, value in settings}


def resolve(
    kinds: Sequence[NodeKind],
    values: Mapping[str, Any],
    ros: RosArguments,
    defaults: Mapping[str, Any] = NO_DEFAULTS,
) -> GraphSettings:
    """The settings of the nodes that a graph of these kinds has.

    Args:
        kinds: kinds of nodes in the order of starting.
        values: parameters that differ from their defaults; texts are converted.
        ros: parameters of less precedence than `values`.
        defaults: parameters of less precedence still.

    Raises:
        SettingsError: a parameter is unknown, outside its range, or contradicts another one.
    """
    given = {**ros.parameters, **values}
    _refuse_unknown(kinds, given)
    chosen = {**defaults, **_of_nodes(kinds, ros), **given}
    if chosen.get("cameras"):
        return GraphSettings(_of_several(kinds, chosen, given, ros))
    camera = str(chosen.get("camera", config.DEFAULT_CAMERA))
    named = "" if camera == config.DEFAULT_CAMERA else camera
    if named:
        chosen |= {**_of_nodes(kinds, ros, camera), **given}
    if any(kind.plays_drive for kind in kinds):
        chosen |= _of_drive(chosen)
    if any(kind.has_standby for kind in kinds):
        chosen["standby"] = _standby(chosen)
    is_given = "image_topic" in chosen
    chosen["image_topic"] = _image_topic(chosen, camera, bool(named) and not is_given)
    return GraphSettings(_needed({kind.name(named): _settings(kind, chosen) for kind in kinds}))


def _of_several(
    kinds: Sequence[NodeKind], chosen: dict[str, Any], given: Mapping[str, Any], ros: RosArguments
) -> dict[str, config.Settings]:
    """The settings if several cameras share a detector."""
    for kind in kinds:
        if not kind.restarted:
            raise SettingsError(f"parameter cameras: {kind.executable} is for one camera")
    cameras = check(config.CamerasSettings, _own(config.CamerasSettings, chosen)).served
    if "camera" in chosen:
        raise SettingsError("parameter camera: give either this or cameras")
    for name in ("calibration_file", "source"):
        value = str(chosen.get(name) or "shm")
        if ANY_CAMERA not in value and value not in FILLED_BY_OTHERS:
            wanted = f"with cameras it must contain {ANY_CAMERA}, or be given to one camera's node"
            raise SettingsError(f"parameter {name}: {value!r} is that of one camera; {wanted}")
    shared = {
        name: (chosen.get(name, info.default), "other nodes")
        for kind in kinds
        if kind.serves_all_cameras
        for name, info in kind.settings.model_fields.items()
        if name not in ("camera", *given)
    }
    of_one_camera = [kind for kind in kinds if not kind.serves_all_cameras]
    chosen["standby"] = _standby(chosen)
    of_cameras = {}
    for camera in cameras:
        found = _of_nodes(of_one_camera, ros, camera, shared)
        own = {**chosen, **found, **given, "camera": camera, "standby": chosen["standby"]}
        of_cameras[camera] = {**own, "image_topic": _image_topic(own, camera, named=True)}
    nodes: dict[str, config.Settings | None] = {}
    for kind in kinds:
        if kind.serves_all_cameras:
            nodes[kind.name()] = _settings(kind, chosen)
        else:
            nodes |= {kind.name(name): _settings(kind, own) for name, own in of_cameras.items()}
    needed = _needed(nodes)
    _refuse_shared_topics(needed, ros)
    return needed


def _settings(kind: NodeKind, values: Mapping[str, Any]) -> config.Settings | None:
    """The settings of a node; None if a graph with these values does not have the node."""
    if not kind.for_source(str(values.get("source", "dds"))):
        return None
    settings = check(kind.settings, _own(kind.settings, values))
    kind.check(settings)
    return settings if kind.is_needed(settings) else None


def _needed(nodes: Mapping[str, config.Settings | None]) -> dict[str, config.Settings]:
    return {name: settings for name, settings in nodes.items() if settings is not None}


def _own(settings_type: type[config.Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the parameters that one node has."""
    return {name: v for name, v in values.items() if name in settings_type.model_fields}


def _refuse_unknown(kinds: Sequence[NodeKind], given: Mapping[str, Any]) -> None:
    camera = str(given.get("camera", ""))
    if any(sign in camera for sign in ":./"):
        why = f"{camera!r} is not allowed, it is the name of a camera; give source:={camera}"
        raise SettingsError(f"parameter camera: {why}", "camera")
    known = {name: None for kind in kinds for name in kind.settings.model_fields}
    for name in sorted(given.keys() - known.keys()):
        alike = get_close_matches(name, known, n=1, cutoff=ALIKE)
        hint = f"did you mean {alike[0]}?" if alike else f"known are {', '.join(known)}"
        raise SettingsError(f"parameter {name!r} is unknown; {hint}", name)


def _of_nodes(
    kinds: Sequence[NodeKind],
    ros: RosArguments,
    camera: str = "",
    shared: Mapping[str, tuple[Any, str]] | None = None,
) -> dict[str, Any]:
    """The values that ROS arguments give to named nodes.

    Args:
        kinds: the nodes.
        ros: the arguments.
        camera: the nodes whose names contain this camera's name are meant.
        shared: values of parameters that they share with other nodes, each with its node.

    Raises:
        SettingsError: nodes that share a parameter are given different values.
    """
    found = dict(shared or {})
    for kind in kinds:
        node = kind.name(camera)
        for name, value in ros.values(node, kind.settings).items():
            other, other_node = found.setdefault(name, (value, node))
            if other != value:
                both = f"{value!r} is given to {node} and {other!r} to {other_node}"
                why = f"{both}, but all nodes share it; give it to /** instead"
                raise SettingsError(f"parameter {name}: {why}", name)
    return {name: value for name, (value, _) in found.items()}


def _image_topic(values: Mapping[str, Any], camera: str, named: bool) -> str:
    """The image topic of a camera, with its name if `named`, and in place of `{camera}`."""
    default = config.PreprocessSettings.model_fields["image_topic"].default
    return camera_topic(str(values.get("image_topic", default)), camera, named)


def _refuse_shared_topics(nodes: Mapping[str, config.Settings], ros: RosArguments) -> None:
    """Refuse two cameras whose images are on the same topic: each picture would count twice."""
    cameras: dict[str, str] = {}
    for node, settings in nodes.items():
        if not isinstance(settings, config.PreprocessSettings) or settings.source != "dds":
            continue
        topic = ros.topic_of(node, image_topic(settings.image_topic, settings.image_transport))
        other = cameras.setdefault(topic, settings.camera)
        if other != settings.camera:
            both = f"{other} and {settings.camera} both have {topic}"
            remedy = "give each camera an image topic of its own"
            raise SettingsError(f"parameter cameras: {both}; {remedy}", "cameras")


def _of_drive(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the recorded drive determines: its image topic and the type of its images."""
    if values.get("source", "dds") not in FILLED_BY_OTHERS:
        given = f"{values['source']!r} is not allowed with bag, which is played as the camera"
        remedy = "give one of them, or source:=shm"
        raise SettingsError(f"parameter source: {given}; {remedy}", "source")
    bag, topic = (str(values.get(name, "")) for name in ("bag", "topic"))
    try:
        with closing(open_drive(bag, topic)) as drive:
            transport = "compressed" if drive.message_type == COMPRESSED_IMAGE else "raw"
            return {"topic": drive.topic, "image_transport": transport}
    except BagError as error:
        raise SettingsError(f"parameter bag: {error}", "bag") from error


def _standby(values: Mapping[str, Any]) -> Any:
    """The value of `standby`; for `auto`, a decision that holds for all nodes."""
    standby, backend = values.get("standby", "auto"), values.get("backend", AUTO)
    if standby == "always" and backend == "fpga":
        why = "with backend fpga it must be never, since one process has the FPGA"
        raise SettingsError(f"parameter standby: {why}", "standby")
    if standby != "auto":
        return standby
    # An Edge TPU also belongs to one process; the device of another delegate may serve several.
    is_delegated = backend in (AUTO, "litert") and os.environ.get(DELEGATE)
    enough = available_memory_bytes() >= STANDBY_MEMORY_BYTES
    return "always" if enough and not is_delegated and backend != "fpga" else "never"
