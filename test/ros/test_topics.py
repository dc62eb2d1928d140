"""The documented topics and the permissions of SROS 2 are what a graph uses, no more, no less."""

import re

import pytest
from beside import beside
from observe import free_port
from started_graph import hurry

from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.interface import Interface, interfaces

pytestmark = [pytest.mark.ros]
OF_ROS = re.compile(r"/(rosout|parameter_events|.*/transition_event)")
ONLY_PLAYED = "/clock"
IN_BACKGROUND = ("republish_node", "view_node")
Topics = set[tuple[str, str, str, str]]


def documented(root):
    """Name, type, reliability and durability of each row."""
    page = (root / "docs/reference/topics.md").read_text(encoding="utf-8")
    table = page.partition("## Published")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \|.*\| ([\w ]+), ([\w ]+), \d+ \|$", table, re.M)
    return {(f"/{name.lstrip('/')}", *rest) for name, *rest in rows if name != ONLY_PLAYED}


def published(recorder):
    """What publishers have announced, but for ROS's own."""
    node = recorder.node
    return {
        (
            name,
            info.topic_type.replace("/msg/", "/"),
            info.qos_profile.reliability.name.lower().replace("_", " "),
            info.qos_profile.durability.name.lower().replace("_", " "),
        )
        for name, _ in node.get_topic_names_and_types()
        if not OF_ROS.fullmatch(name)
        for info in node.get_publishers_info_by_topic(name)
    }


def used(node, full_name):
    """What a node has opened, as discovery tells."""
    namespace, _, name = full_name.rpartition("/")
    asked = (
        node.get_publisher_names_and_types_by_node,
        node.get_subscriber_names_and_types_by_node,
        node.get_service_names_and_types_by_node,
        node.get_client_names_and_types_by_node,
    )
    return Interface(*({topic for topic, _ in ask(name, namespace or "/")} for ask in asked))


def test_topics_and_permissions_are_what_is_documented_and_needed(root, recorder):
    pytest.importorskip("aiohttp")
    told = documented(root)
    assert len(told) > 10
    nodes = VEHICLE.nodes(
        {
            "source": "v4l2:/dev/video99",
            "wait_for_camera": "true",
            "calibration_file": str(root / "calibration/camera/example_wide_1920x1280.yaml"),
            "backend": "null",
            "tracks": "true",
            "view": "true",
            "view_port": str(free_port()),
            "standby": "always",
            "safe_stop_clears": "by_service",
        }
    )
    needed = interfaces(nodes)
    for name, interface in needed.items():
        interface.calls.clear()  # only for a moment, when a model names its classes
        if "standby" in name:  # it subscribes and serves when it takes over
            interface.subscribes = {one for one in interface.subscribes if "image" not in one}
            interface.serves.discard("/perception/enable")

    def opened():
        names = recorder.node.get_node_names_and_namespaces()
        known = {f"{namespace.rstrip('/')}/{name}" for name, namespace in names}
        return {name: used(recorder.node, name) for name in needed if name in known}

    def look(graph):
        def is_known(found, wanted):
            for spec, process in graph.processes:
                if spec.executable in IN_BACKGROUND:
                    hurry(process.pid)
            return found == wanted

        recorder.until(lambda: is_known(published(recorder), told), lambda: published(recorder))
        recorder.until(lambda: is_known(opened(), needed), opened)

    beside(nodes, look)
