"""`perception security`: certificates and permissions of the graph's nodes, for SROS 2."""

from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.cli import options
from perception_nodes.cli.common import check_folder, parse_assignments, say
from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.interface import interfaces
from perception_nodes.graph.ros_arguments import split_ros_arguments
from perception_nodes.transport.domain import own_domain


def security_command(
    keystore: Annotated[Path, typer.Argument(metavar="KEYSTORE")],
    assignments: options.RunAssignments = None,
    days: Annotated[int, typer.Option(min=1, max=36_500)] = 3650,
) -> None:
    """Make a keystore of SROS 2 in which each node may use its own topics and services, no others.

    The parameters are those that `perception run` will be given: names of cameras and topics follow
    from them. The permissions are for the ROS domain of $ROS_DOMAIN_ID. The graph uses them with
    ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce ROS_SECURITY_KEYSTORE=KEYSTORE.

    Options:
        keystore: Folder to make.
        days: How long certificates are valid.

    Example: perception security /etc/perception/keystore cameras:=front,rear source:=shm
    """
    from perception_nodes.graph.keystore import make_keystore

    check_folder(keystore, "KEYSTORE")
    others, ros = split_ros_arguments(assignments or [])
    specs = VEHICLE.nodes({"standby": "always", **parse_assignments(others)}, ros)
    may = interfaces(specs, ros)
    enclaves = {spec.enclave: may[spec.full_name] for spec in specs}
    make_keystore(keystore, enclaves, own_domain(), days)
    for name in enclaves:
        say(name)
    say(f"Written to {keystore}; its folder private/ is for whoever signs, not for the vehicle")
