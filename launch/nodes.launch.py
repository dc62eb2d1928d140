"""Detect on a live camera, each node an action of launch: nodes.launch.py image_topic:=...

Other launch files can react to the events of its nodes, and launch starts a node again that ends.
"""

import atexit
from contextlib import ExitStack

from launch.actions import Shutdown, TimerAction
from launch.logging import get_logger
from launch_ros.actions import LifecycleNode
from launch_ros.utilities import make_namespace_absolute
from launch_ros.utilities.namespace_utils import prefix_namespace

from perception_nodes.core.failover import DELAY_S
from perception_nodes.evaluation.measured import measured_settings
from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.launching import (
    STOP_TIMEOUT_S,
    declared_by,
    given_to,
    ros_arguments,
    started_by,
)
from perception_nodes.graph.ros_arguments import FLAG, split_ros_arguments
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import STANDBYS_AFTER_S, claimed, life_of
from perception_nodes.system.life import LAUNCHED

DECLARED = declared_by(VEHICLE) | {
    "respawn": ("true", "start a node again that has ended: true or false")
}


def generate_launch_description():
    """The nodes of perception.launch.py, supervised by launch instead of by `perception run`."""
    return started_by(start, DECLARED)


def start(context):
    """One `LifecycleNode` a process; the standbys come later."""
    given, unknown = given_to(DECLARED, context)
    if unknown:
        raise SettingsError(f"argument {unknown[0]}: this launch file has no such argument")
    log = get_logger("perception")
    values = {name: given[name] for name in given if name in VEHICLE.parameters}
    _, ros = split_ros_arguments([FLAG, *pushed(context, given), *ros_arguments(given)])
    ours = ros.only(VEHICLE.parameters)
    for line in VEHICLE.misnamed(VEHICLE.settings(values, ours), ros):
        log.warning(line)
    settings = measured_settings(VEHICLE, values, ours, log.info, lambda done, total: None)
    specs = VEHICLE.processes(settings, ours)
    held = ExitStack()
    line, _ = held.enter_context(claimed(specs))
    log.info(line or "the processors may sleep between frames")
    atexit.register(held.close)
    life = {**life_of(specs), LAUNCHED: "1"}
    respawn = given.get("respawn", "true") == "true"
    return [action(spec, life, respawn) for spec in specs]


def action(spec, life, respawn):
    """The action that runs a node."""
    node = LifecycleNode(
        package="perception_nodes",
        executable=spec.executable,
        name=spec.name,
        namespace=spec.full_name.rpartition("/")[0] or "/",
        arguments=spec.arguments(),
        additional_env={**life, **spec.environment},
        output="screen",
        sigterm_timeout=str(STOP_TIMEOUT_S),
        respawn=respawn and not spec.ends_graph,
        respawn_delay=DELAY_S,
        on_exit=Shutdown(reason=f"{spec.name} ended") if spec.ends_graph else None,
    )
    return TimerAction(period=STANDBYS_AFTER_S, actions=[node]) if spec.stands_by else node


def pushed(context, given):
    """The ROS arguments that actions before us have set, such as `PushRosNamespace`."""
    found = context.launch_configurations
    namespace = make_namespace_absolute(
        prefix_namespace(found.get("ros_namespace"), given.get("namespace"))
    )
    texts = ["-r", f"__ns:={namespace}"] if namespace not in (None, "/") else []
    for source, target in found.get("ros_remaps", ()):
        texts += ["-r", f"{source}:={target}"]
    for one in found.get("global_params", ()):
        # A tuple is a parameter, a text the path of a file.
        texts += ["-p", "{}:={}".format(*one)] if isinstance(one, tuple) else ["--params-file", one]
    return texts
