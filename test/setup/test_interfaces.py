"""The message packages: what they define, and that all who read them agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from perception_interfaces.msg import FrameReport, Health

from perception_nodes.core.health import Phase
from perception_nodes.drives.schemas import typestore

# That of vision_msgs 4 as ROS distributions ship it. Nodes with another one do
# not exchange detections with theirs.
DETECTIONS_HASH = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"


@pytest.fixture(scope="module")
def store():
    """Our definitions as rosbags reads them, which shares no code with ROS."""
    return typestore()


def built_hash(name):
    """Return the type hash that the build wrote for a message."""
    description = json.loads((Path(sys.prefix) / "share" / f"{name}.json").read_text())
    return {entry["type_name"]: entry["hash_string"] for entry in description["type_hashes"]}[name]


def test_detections_have_the_distributions_type(store):
    name = "vision_msgs/msg/Detection2DArray"
    assert built_hash(name) == DETECTIONS_HASH
    assert store.hash_rihs01(name) == DETECTIONS_HASH


@pytest.mark.parametrize(
    "name",
    [
        "perception_interfaces/msg/FrameReport",
        "perception_interfaces/msg/Health",
        "perception_interfaces/msg/Look",
        "perception_interfaces/msg/Protected",
        "perception_interfaces/msg/Track",
        "perception_interfaces/msg/Tracks",
        "foxglove_msgs/msg/CompressedVideo",
        "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    ],
)
def test_rosbags_and_ros_agree_on_our_types(store, name):
    assert store.hash_rihs01(name) == built_hash(name)


def test_codes_are_fixed():
    report = ["OK", "LATE", "SKIPPED_LATE", "SUPERSEDED", "DEGRADED", "FAILED"]
    health = ["NOMINAL", "DEGRADED", "SKIPPING", "UNSAFE"]
    assert [getattr(FrameReport, name) for name in report] == list(range(6))
    assert [getattr(Health, name) for name in health] == list(range(4))
    assert [getattr(Health, phase.name) for phase in Phase] == list(Phase)


def test_messages_import_without_rclpy():
    modules = "perception_interfaces.msg, vision_msgs.msg"
    code = f"import sys, {modules}; sys.exit('rclpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_build_has_nothing_left_to_do(root):
    command = [sys.executable, root / "interfaces" / "build.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
