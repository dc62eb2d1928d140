"""The documented table of topics is what a running graph publishes, no more and no less."""

import re
from pathlib import Path

import pytest
from beside import beside
from recorder import Recorder

from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.lab.browsers import free_port

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]
OF_ROS = re.compile(r"/(rosout|parameter_events|.*/transition_event)")
ONLY_PLAYED = "/clock"
Topics = set[tuple[str, str, str, str]]


def documented(root: Path) -> Topics:
    """Name, type, reliability and durability of each row."""
    page = (root / "docs/reference/topics.md").read_text(encoding="utf-8")
    table = page.partition("## Published")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \|.*\| ([\w ]+), ([\w ]+), \d+ \|$", table, re.M)
    return {(f"/{name.lstrip('/')}", *rest) for name, *rest in rows if name != ONLY_PLAYED}


def published(recorder: Recorder) -> Topics:
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


def test_the_table_of_topics(root: Path, recorder: Recorder) -> None:
    pytest.importorskip("aiohttp")
    told = documented(root)
    assert len(told) > 10

    def look(_: Supervisor) -> None:
        recorder.until(lambda: published(recorder) >= told, lambda: told - published(recorder))
        assert published(recorder) == told

    nodes = VEHICLE.nodes(
        {
            "source": "v4l2:/dev/video99",
            "wait_for_camera": "true",
            "calibration_file": str(root / "calibration/camera/example_wide_1920x1280.yaml"),
            "backend": "null",
            "tracks": "true",
            "view": "true",
            "view_port": str(free_port()),
        }
    )
    beside(nodes, look)
