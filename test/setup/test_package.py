"""The package as ROS tools see it, and the sample that its tests run on."""

from __future__ import annotations

import filecmp
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from catkin_pkg.package import parse_package
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

BIN = Path(sys.prefix) / "bin"


@pytest.mark.parametrize(
    ("folder", "build_type"),
    [
        (".", "ament_python"),
        ("interfaces/vision_msgs", "ament_cmake"),
        ("interfaces/foxglove_msgs", "ament_cmake"),
        ("interfaces/ffmpeg_image_transport_msgs", "ament_cmake"),
        ("interfaces/perception_interfaces", "ament_cmake"),
        ("interfaces/perception_consumer", "cmake"),
    ],
)
def test_manifests_are_valid(root, folder, build_type):
    warnings: list[str] = []
    package = parse_package(root / folder, warnings=warnings)
    assert not warnings
    assert package.package_format == 3
    assert package.licenses == ["Apache-2.0"]
    assert package.get_build_type() == build_type


def test_the_changelog_tells_of_this_version(root):
    version = parse_package(root).version
    newest = re.search(
        r"^## (\S+), (unreleased|\d{4}-\d\d-\d\d)$", (root / "CHANGELOG.md").read_text(), re.M
    )
    assert newest and newest[1] == version
    assert parse_package(root / "interfaces/perception_interfaces").version == version


def test_a_release_has_each_package_of_ours_beside_the_others(root, tmp_path):
    if not (root / ".git").exists():
        pytest.skip("the tree is made of what git lists")
    script, out = root / "packaging/ros_release.py", tmp_path / "release"
    subprocess.run([sys.executable, script, "--out", out], check=True)
    packages = {path.name: parse_package(path) for path in out.iterdir()}
    own = {"perception_consumer", "perception_interfaces", "perception_models", "perception_nodes"}
    assert set(packages) == own
    for name, package in packages.items():
        assert package.name == name
        assert package.version == parse_package(root).version
        assert package.urls
        assert package.maintainers[0].email.endswith(".invalid"), "until a person is named"
        changes = (out / name / "CHANGELOG.rst").read_text()
        assert re.match(rf"\^+\n.* {name}\n\^+\n\n(Forthcoming|[\d.]+ \([\d-]+\))\n-", changes)
        assert (out / name / "QUALITY_DECLARATION.md").is_file()
    needed = {one.name for one in packages["perception_nodes"].exec_depends}
    assert {"perception_interfaces", "perception_models", "vision_msgs"} <= needed
    assert packages["perception_nodes"].licenses == ["Apache-2.0"]
    assert not list((out / "perception_nodes").rglob("*.onnx"))
    assert (out / "perception_models/models/open-n/model.yaml").is_file()
    for python in (out / "perception_nodes/perception_nodes").rglob("*.py"):
        assert python.read_text().startswith("# Copyright "), python


def test_colcon_finds_each_package_once(root, tmp_path):
    listed = subprocess.run(
        [BIN / "colcon", "--log-base", tmp_path, "list"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.splitlines() == [
        "ffmpeg_image_transport_msgs\tinterfaces/ffmpeg_image_transport_msgs\t(ros.ament_cmake)",
        "foxglove_msgs\tinterfaces/foxglove_msgs\t(ros.ament_cmake)",
        "perception_consumer\tinterfaces/perception_consumer\t(ros.cmake)",
        "perception_interfaces\tinterfaces/perception_interfaces\t(ros.ament_cmake)",
        "perception_nodes\t.\t(ros.ament_python)",
        "vision_msgs\tinterfaces/vision_msgs\t(ros.ament_cmake)",
    ]


def make_sample(root, *arguments):
    """Run the maker of the sample bags."""
    command = [sys.executable, root / "bags" / "make_sample.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


@pytest.fixture
def video(tmp_path):
    """A short video of noise."""
    path = tmp_path / "noise.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    for seed in range(3):
        writer.write(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return path


def test_sample_is_the_same_every_time(root, tmp_path, video):
    for out in ("first", "second"):
        made = make_sample(root, "--video", video, "--out", tmp_path / out)
        assert made.returncode == 0, made.stderr
    files = ["sample/metadata.yaml", "sample/sample.mcap"]
    files += ["sample_sqlite3/metadata.yaml", "sample_sqlite3/sample_sqlite3.db3"]
    same, _, _ = filecmp.cmpfiles(tmp_path / "first", tmp_path / "second", files, shallow=False)
    assert same == files


@pytest.mark.parametrize("bag", ["sample", "sample_sqlite3"])
def test_sample_has_images_and_calibration(root, tmp_path, video, bag):
    made = make_sample(root, "--video", video, "--out", tmp_path)
    assert made.returncode == 0, made.stderr
    store = get_typestore(Stores.ROS2_KILTED)
    images, infos = [], []
    with Reader(tmp_path / bag) as reader:
        for connection, stamp_ns, raw in reader.messages():
            message = store.deserialize_cdr(raw, connection.msgtype)
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp_ns
            assert message.header.frame_id == "camera"
            (images if connection.topic == "/camera/image_raw" else infos).append(message)
    assert len(images) == len(infos) == 3
    decoded, pixels = cv2.VideoCapture(str(video)).read()
    assert decoded
    assert (images[0].encoding, images[0].step) == ("bgr8", 64 * 3)
    np.testing.assert_array_equal(images[0].data.reshape(48, 64, 3), pixels)
    assert (infos[0].width, infos[0].height) == (64, 48)
    assert not infos[0].d.any()


def test_unreadable_video_is_named_and_leaves_nothing(root, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    made = make_sample(root, "--video", broken, "--out", tmp_path / "out")
    assert made.returncode == 1
    assert "broken.mp4: no frame could be decoded" in made.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_the_minimal_installation_has_the_versions_of_the_whole(root):
    minimal, runtime, lock = (
        {
            line
            for line in (root / f"requirements/{name}.txt").read_text().splitlines()
            if "==" in line
        }
        for name in ("minimal", "runtime", "lock")
    )
    assert minimal and minimal <= runtime | lock
