"""One process of a graph: what starts it, and what happens when it ends."""

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml

from perception_nodes.graph.ros_arguments import ENCLAVE
from perception_nodes.system.realtime import allowed_priority, parse_cpus


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph.

    Attributes:
        executable: name of the program.
        module: module to run with `python -m`.
        parameters: values of its ROS parameters.
        environment: environment variables that it needs.
        ends_graph: the graph ends when all such processes have ended by themselves.
        restarted: it is started again when it dies.
        dispensable: where it is restarted and cannot start at all, the others go on without it.
        stands_by: it is to take the place of another one, and is started later.
        stops_last: it is stopped when the others have ended.
        name: name of the node.
        full_name: name of the node with its namespace.
        ros_arguments: further ROS arguments, such as remappings.
    """

    executable: str
    module: str
    parameters: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    ends_graph: bool = False
    restarted: bool = False
    dispensable: bool = False
    stands_by: bool = False
    stops_last: bool = False
    name: str = field(kw_only=True)
    full_name: str = ""
    ros_arguments: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Command-line arguments that set the parameters; their values are quoted as YAML."""
        pairs = [f"{name}:={_yaml(value)}" for name, value in self.parameters.items()]
        renamed = [] if self.name == self.executable else ["-r", f"__node:={self.name}"]
        parameters = [item for pair in pairs for item in ("-p", pair)]
        enclave = []
        if os.environ.get("ROS_SECURITY_ENABLE") == "true" and not {*ENCLAVE} & {
            *self.ros_arguments
        }:
            enclave = ["--enclave", self.enclave]
        return ["--ros-args", *renamed, *enclave, *self.ros_arguments, *parameters]

    @property
    def enclave(self) -> str:
        """Where the keystore of SROS 2 has the node's certificate and permissions."""
        return f"/perception{self.full_name}"

    @property
    def awake_processors(self) -> set[int]:
        """Processors that should not sleep between frames."""
        mode = self.parameters.get("stay_awake", "never")
        has_priority = self.parameters["fifo_priority"] and allowed_priority()
        if mode == "never" or (mode == "auto" and not has_priority):
            return set()
        ours = os.sched_getaffinity(0)
        with suppress(ValueError):  # the node tells what is wrong with them
            return ours & parse_cpus(self.parameters["cpus"]) or ours
        return ours

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that it works for."""
        several = self.parameters.get("cameras") or self.parameters["camera"]
        return tuple(several.split(","))


def _yaml(value: Any) -> str:
    """A parameter's value as YAML on one line. Texts are quoted, so that they stay texts.

    JSON does not serve for texts: it writes a character beyond 16 bits as two, which YAML refuses.
    """
    if isinstance(value, str):
        return yaml.safe_dump(value, default_style='"', width=math.inf).rstrip("\n")
    return json.dumps(value)
