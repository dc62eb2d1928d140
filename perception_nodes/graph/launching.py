"""A graph as a launch description, for full ROS 2 installations."""

from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from perception_nodes.graph.config import allowed_range, choices
from perception_nodes.graph.graph import Graph, NodeSpec

RESPAWNS = 20
"""Launch counts them all; one that dies that often has a fault that no restart mends."""


def describe(graph: Graph) -> LaunchDescription:
    """Arguments and nodes of a graph; the values are checked when the arguments are known."""
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=str(info.default),
            description=f"{info.description} ({allowed_range(info)})",
            choices=choices(info),
        )
        for name, info in graph.parameters.items()
    ]

    def when_it_ends(spec: NodeSpec) -> dict[str, Any]:
        if spec.restarted:
            return {"respawn": True, "respawn_max_retries": RESPAWNS}
        return {"on_exit": Shutdown(reason=f"{spec.name} ended")}

    def start(context: LaunchContext) -> list[Node]:
        values = {name: LaunchConfiguration(name).perform(context) for name in graph.parameters}
        changed = {k: v for k, v in values.items() if v != str(graph.parameters[k].default)}
        return [
            Node(
                package="perception_nodes",
                executable=spec.executable,
                name=spec.name,
                parameters=[spec.parameters],
                additional_env=spec.environment,
                output="screen",
                **when_it_ends(spec),
            )
            for spec in graph.nodes(changed)
        ]

    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
