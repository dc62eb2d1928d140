"""The message packages: what they define, and that all who read them agree."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from perception_interfaces.msg import FrameReport, Health, Look
from rclpy.serialization import deserialize_message, serialize_message
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

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


def detections():
    """Return a message with something in every field that we fill."""
    message = Detection2DArray()
    message.header.stamp.sec, message.header.stamp.nanosec = 1_700_000_000, 40_000_000
    message.header.frame_id = "camera"
    for number, name in enumerate(("car", "bicycle")):
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = name, 0.5 + number / 4
        detection = Detection2D(header=message.header, results=[result], id=str(number))
        detection.bbox.center.position.x, detection.bbox.center.position.y = 320.5, 136.25
        detection.bbox.size_x, detection.bbox.size_y = 64.0, 32.0 + number
        message.detections.append(detection)
    return message


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


def test_detections_survive_both_serializers(store):
    sent = detections()
    raw = serialize_message(sent)
    assert deserialize_message(raw, Detection2DArray) == sent

    read = store.deserialize_cdr(raw, "vision_msgs/msg/Detection2DArray")
    assert [d.results[0].hypothesis.class_id for d in read.detections] == ["car", "bicycle"]
    assert [d.bbox.size_y for d in read.detections] == [32.0, 33.0]
    back = bytes(store.serialize_cdr(read, "vision_msgs/msg/Detection2DArray"))
    assert deserialize_message(back, Detection2DArray) == sent


def test_report_survives_both_serializers(store):
    sent = FrameReport(
        camera="front",
        sequence=7,
        status=FrameReport.FAILED,
        reason="image: truncated",
        source_width=1920,
        source_height=1080,
        copies=1,
        deadline_ns=2**62,
        capture_ns=2**62 - 1,
        looks=[Look(width=640, cost_ms=1.5)],
    )
    raw = serialize_message(sent)
    assert deserialize_message(raw, FrameReport) == sent

    read = store.deserialize_cdr(raw, "perception_interfaces/msg/FrameReport")
    for name, kind in FrameReport.get_fields_and_field_types().items():
        if name not in ("header", "lost_after", "lost_before", "looks"):
            assert np.all(getattr(read, name) == getattr(sent, name)), (name, kind)
    assert [(look.width, look.cost_ms) for look in read.looks] == [(640, 1.5)]


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
    started = time.monotonic()
    command = [sys.executable, root / "interfaces" / "build.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert time.monotonic() - started < 2  # an actual build takes ten times as long
