"""A graph as a launch description.

`describe` gives one process, `perception run`, which supervises the nodes. So a graph does the same
whether it is started by `ros2 launch` or by `perception run`. `nodes.launch.py` starts processes
one by one instead.
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.logging import get_logger
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from perception_nodes.graph.graph import REPLAY, Graph
from perception_nodes.graph.misnamed import misspelt
from perception_nodes.graph.settings import SettingsError, allowed_range
from perception_nodes.system.life import LAUNCHED

ROS_ARGUMENTS = {
    "namespace": ("", "ROS namespace of all nodes and of their relative topics"),
    "params_file": ("", "ROS parameter file (YAML), with sections for nodes by name or for /**"),
    "log_level": ("info", "lowest level of messages: debug, info, warn, error or fatal"),
    "remap": ("", "topics to rename, as FROM:=TO, separated by spaces"),
}
"""Arguments beside the graph's parameters, by name: default and description."""
OF_LAUNCH = ("launch-prefix", "launch-prefix-filter")
"""Arguments that launch reads itself."""
STOP_TIMEOUT_S = 30
"""Longer than the supervisor takes to stop nodes that hang, and to clean up after them."""


class ListedArgument(DeclareLaunchArgument):  # type: ignore[misc]
    """An argument that is listed with its default, but never set.

    Setting it would pass it to all that is included after us, such as a second graph.
    """

    def execute(self, context: LaunchContext) -> None:
        """Set nothing."""


def describe(graph: Graph) -> LaunchDescription:
    """The process that runs a graph, and the arguments that it takes."""
    declared = declared_by(graph)

    def start(context: LaunchContext) -> list[Node]:
        given, unknown = given_to(declared, context)
        if graph is REPLAY:
            given.setdefault("bag", "")
        assignments = [f"{name}:={given[name]}" for name in given if name in graph.parameters]
        if any(text.startswith("bag:=") for text in unknown):
            raise SettingsError("argument bag: replay.launch.py plays recorded drives")
        graph_process = Node(
            package="perception_nodes",
            executable="perception",
            namespace=given.get("namespace"),
            arguments=["run", f"--pid={os.getpid()}", *assignments, *unknown],
            ros_arguments=ros_arguments(given),
            additional_env={LAUNCHED: "1"},
            output="screen",
            sigterm_timeout=str(STOP_TIMEOUT_S),
            on_exit=_end,
        )
        return [graph_process]

    return started_by(start, declared)


def declared_by(graph: Graph) -> dict[str, tuple[str, str]]:
    """The arguments of a launch file, by name: default and description."""
    return {
        name: (str(info.default), f"{info.description} ({allowed_range(info)})")
        for name, info in graph.parameters.items()
    } | ROS_ARGUMENTS


def given_to(declared: Collection[str], context: LaunchContext) -> tuple[dict[str, str], list[str]]:
    """The arguments that were given, and those that are not declared; misspelt ones are logged."""
    found = context.launch_configurations
    given = {name: found[name] for name in declared if name in found}
    if not _is_included(context):
        return given, _unknown(context, declared)
    for line in misspelt(found, declared):
        get_logger("perception").warning(line)
    return given, []


def started_by(
    start: Callable[[LaunchContext], list[Any]], declared: Mapping[str, tuple[str, str]]
) -> LaunchDescription:
    """The actions that a function gives when the arguments are known."""
    listed = [
        ListedArgument(name, default_value=default, description=description)
        for name, (default, description) in declared.items()
    ]
    return LaunchDescription([OpaqueFunction(function=start), *listed])


def ros_arguments(given: Mapping[str, str]) -> list[str]:
    """The ROS arguments that belong to arguments of a launch file."""
    flags = {"params_file": "--params-file", "log_level": "--log-level"}
    found = [text for n, flag in flags.items() if given.get(n) for text in (flag, given[n])]
    return found + [text for rule in given.get("remap", "").split() for text in ("-r", rule)]


def _is_included(context: LaunchContext) -> bool:
    """Whether another launch file includes this one, and so has the command line's arguments."""
    ours = Path(str(context.locals.current_launch_file_path)).name
    return ours not in (Path(argument).name for argument in sys.argv)


def _unknown(context: LaunchContext, declared: Collection[str]) -> list[str]:
    """Arguments of this launch file that it does not declare; `perception run` refuses them.

    Launch itself accepts any argument.
    """
    known = (*declared, *OF_LAUNCH)
    return [text for text in context.argv if text.partition(":=")[0] not in known]


def _end(event: ProcessExited, context: LaunchContext) -> Shutdown:
    """End the launch when the graph has ended.

    Raises:
        RuntimeError: the graph failed. Launch reports the error, stops, and exits with status 1;
            after a `Shutdown` it would exit with 0.
    """
    if event.returncode:
        raise RuntimeError(f"perception run ended with status {event.returncode}")
    return Shutdown(reason="perception run ended")
