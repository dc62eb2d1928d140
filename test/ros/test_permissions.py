"""The permissions of SROS 2 are what the nodes of a running graph use, no more and no less."""

import time

import pytest
import rclpy
from rclpy.node import Node
from started_graph import StartedGraph, Starter

from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.interface import Interface, interfaces
from perception_nodes.lab.browsers import free_port

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]
TIMEOUT_S = 150.0
"""The page gives way to all else that runs on the machine."""
VALUES = {
    "backend": "null",
    "standby": "always",
    "tracks": "true",
    "view": "true",
    "safe_stop_clears": "by_service",
    "cameras": "left,right",
}


def used(node: Node, full_name: str) -> Interface:
    """What a node has opened, as discovery tells."""
    namespace, _, name = full_name.rpartition("/")
    return Interface(
        *(
            {topic for topic, _ in ask(name, namespace or "/")}
            for ask in (
                node.get_publisher_names_and_types_by_node,
                node.get_subscriber_names_and_types_by_node,
                node.get_service_names_and_types_by_node,
                node.get_client_names_and_types_by_node,
            )
        )
    )


@pytest.mark.parametrize("start", ["run"], indirect=True)
def test_each_node_may_do_what_it_does(start: Starter, domain: int) -> None:
    values = {**VALUES, "view_port": str(free_port())}
    graph: StartedGraph = start(*(f"{name}:={value}" for name, value in values.items()))
    expected = interfaces(VEHICLE.nodes(values))
    for name, interface in expected.items():
        interface.calls.clear()  # only for a moment, when a model names its classes
        if "preprocess" in name and "standby" in name:  # it subscribes when it takes over
            interface.subscribes = {one for one in interface.subscribes if "image" not in one}
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        node = rclpy.create_node("observer", context=context)
        give_up_s, found = time.monotonic() + TIMEOUT_S, {}
        while found != expected and time.monotonic() < give_up_s:
            assert graph.command.poll() is None, graph.output()
            time.sleep(0.2)  # discovery runs in threads of its own and tells nobody
            known = {
                f"{ns.rstrip('/')}/{name}" for name, ns in node.get_node_names_and_namespaces()
            }
            found = {name: used(node, name) for name in expected if name in known}
        assert found == expected
    finally:
        rclpy.shutdown(context=context)
