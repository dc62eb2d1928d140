"""What a graph is made of: kinds of nodes, and the processes that run them."""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml

from perception_nodes.graph.config import Settings
from perception_nodes.graph.ros_arguments import ENCLAVE
from perception_nodes.system.realtime import allowed_priority, parse_cpus


@dataclass(frozen=True)
class NodeKind:
    """An executable that graphs are made of.

    Attributes:
        executable: name of the module and of the program.
        settings: its parameters.
        package: package that contains the module.
        has_standby: a second process of it may stand by.
        serves_all_cameras: one process serves all cameras of a graph.
        restarted: it is part of a vehicle's graph, and is started again when it dies.
        plays_drive: it plays a recorded drive, and the graph ends when the drive ends.
        dispensable: the graph runs without it if it cannot start.
        stops_last: it stops after the others, whose frames it reports.
        for_source: whether a graph with this source of frames can have it.
        check: raises a SettingsError if this machine cannot do what its settings ask for.
        is_needed: whether a graph with these settings has it.
    """

    executable: str
    settings: type[Settings]
    package: str = "perception_nodes.nodes"
    has_standby: bool = False
    serves_all_cameras: bool = False
    restarted: bool = False
    plays_drive: bool = False
    dispensable: bool = False
    stops_last: bool = False
    for_source: Callable[[str], bool] = lambda _: True
    check: Callable[[Any], object] = lambda _: None
    is_needed: Callable[[Any], bool] = lambda _: True

    @property
    def module(self) -> str:
        """The module to run with `python -m`."""
        return f"{self.package}.{self.executable}"

    def name(self, camera: str = "") -> str:
        """The node's name with a camera's in it: `detector_node` becomes `detector_rear_node`."""
        return self.executable.replace("_", f"_{camera}_", 1) if camera else self.executable


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph.

    Attributes:
        kind: what runs.
        settings: its ROS parameters.
        name: name of the node.
        full_name: name of the node with its namespace.
        environment: environment variables that it needs.
        ends_graph: the graph ends when all such processes have ended by themselves.
        stands_by: it is to take the place of another one, and is started later.
        ros_arguments: further ROS arguments, such as remappings.
    """

    kind: NodeKind
    settings: Settings
    name: str
    full_name: str
    environment: dict[str, str] = field(default_factory=dict)
    ends_graph: bool = False
    stands_by: bool = False
    ros_arguments: tuple[str, ...] = ()

    @property
    def executable(self) -> str:
        """Name of the program."""
        return self.kind.executable

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings by name, as ROS parameters."""
        return self.settings.model_dump()

    def arguments(self) -> list[str]:
        """Command-line arguments that name the node and set its parameters."""
        renamed = [] if self.name == self.executable else ["-r", f"__node:={self.name}"]
        enclave = []
        is_given = {*ENCLAVE} & {*self.ros_arguments}
        if os.environ.get("ROS_SECURITY_ENABLE") == "true" and not is_given:
            enclave = ["--enclave", self.enclave]
        parameters = parameter_arguments(self.parameters)
        return ["--ros-args", *renamed, *enclave, *self.ros_arguments, *parameters]

    @property
    def enclave(self) -> str:
        """Where the keystore of SROS 2 has the node's certificate and permissions."""
        return f"/perception{self.full_name}"

    @property
    def awake_processors(self) -> set[int]:
        """Processors that should not sleep between frames."""
        return awake_processors(self.settings)


def awake_processors(settings: Settings) -> set[int]:
    """Processors that should not sleep between the frames of a node with these settings."""
    mode = getattr(settings, "stay_awake", "never")
    has_priority = settings.fifo_priority and allowed_priority()
    if mode == "never" or (mode == "auto" and not has_priority):
        return set()
    ours = os.sched_getaffinity(0)
    with suppress(ValueError):  # the node reports what is wrong with them
        return ours & parse_cpus(settings.cpus) or ours
    return ours


def parameter_arguments(parameters: Mapping[str, Any]) -> list[str]:
    """ROS arguments that set parameters, each value as YAML on one line.

    Texts are quoted, so that they stay texts. JSON would write a character beyond 16 bits as two,
    which YAML refuses.
    """
    arguments = []
    for name, value in parameters.items():
        if isinstance(value, str):
            text = yaml.safe_dump(value, default_style='"', width=math.inf).rstrip("\n")
        else:
            text = json.dumps(value)
        arguments += ["-p", f"{name}:={text}"]
    return arguments
